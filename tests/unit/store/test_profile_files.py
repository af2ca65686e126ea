"""Start profiles in a store: what of a report is taken, and what of it another build gets."""

import msgspec
import pytest

from agent.model import images, records
from agent.model.starts import profile_codec, start_profiles
from agent.model.starts.start_profiles import Piece, Profile
from agent.store import integrity, layout, profile_files
from agent.store.gc import removal
from agent.store.publish import start_reports
from tests.unit.store import making

LOWER, UPPER, STRANGE = map(making.digest, ("a", "b", "z"))
REFERENCE = images.parse_reference(making.REF)


@pytest.fixture
def place(tmp_path) -> layout.Layout:
    place = making.store(tmp_path)
    making.cache(place, "imc-one", making.image(place, "a", "b"))
    return place


@pytest.fixture
def image(place: layout.Layout) -> records.ImageRecord:
    return making.image(place, "a", "b")


def report(made: records.ImageRecord, profile: Profile, **changes: str) -> str:
    of_image = profile_codec.Report(
        node="node-1",
        image=made.ref,
        manifest=made.platforms[0].manifest,
        text=profile_codec.encode(profile),
    )
    fields = {name: getattr(of_image, name) for name in ("node", "image", "manifest", "text")}
    return str(profile_codec.Report(**fields | changes))


def take(place: layout.Layout, text: str) -> bool:
    return start_reports.take(place, text, [making.REF])


def stored(place: layout.Layout) -> list[records.ProfileRecord]:
    return profile_files.read_all(place.profile_records, REFERENCE)


def files_of(made: records.PlatformImage) -> list[str]:
    return [layer.diff_id for layer in made.layers]


PROFILE = Profile((LOWER,), (Piece(0, 0, 1),))


def test_a_report_of_the_image_is_stored_once(place, image) -> None:
    assert take(place, report(image, PROFILE)) is True
    assert take(place, report(image, PROFILE)) is False
    assert profile_files.profile_of(stored(place), image.platforms[0].manifest) == PROFILE
    assert list(integrity.check(place)) == []


def test_another_node_adds_layers_that_the_first_could_not_observe(place, image) -> None:
    take(place, report(image, PROFILE))

    assert take(place, report(image, Profile((UPPER, LOWER), (Piece(0, 0, 1),)))) is True
    assert profile_files.profile_of(stored(place), image.platforms[0].manifest) == Profile(
        (LOWER, UPPER), (Piece(0, 0, 1), Piece(1, 0, 1))
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "registry.io/other/app:1"},
        {"image": "registry.io/team/app:2"},
        {"image": "?"},
        {"manifest": making.digest("another build")},
        {"text": "AAAA"},
        {"text": profile_codec.encode(Profile((STRANGE,), ()))},
        {"text": profile_codec.encode(Profile((LOWER,), (Piece(0, 0, 9),)))},
    ],
)
def test_what_is_not_of_the_image_is_refused(place, image, changes) -> None:
    with pytest.raises(start_profiles.ProfileError):
        take(place, report(image, PROFILE, **changes))
    assert stored(place) == []


def test_an_image_of_another_cache_is_refused(place, image) -> None:
    with pytest.raises(start_profiles.ProfileError):
        start_reports.take(place, report(image, PROFILE), ["registry.io/team/other:1"])


def test_a_new_build_of_the_tag_has_the_ranges_of_the_layers_that_it_shares(place, image) -> None:
    both = Profile((LOWER, UPPER), (Piece(1, 0, 1), Piece(0, 0, 1)))
    take(place, report(image, both))
    rebuilt = making.image(place, "a", "c", ref=making.REF)
    made = msgspec.structs.replace(rebuilt.platforms[0], manifest=making.digest("new"))

    assert profile_files.profile_of(stored(place), made.manifest) is None
    assert profile_files.profile_shared(stored(place), made.platform, files_of(made)) == PROFILE


def test_another_tag_has_them_from_the_newest_of_the_repository(place, image) -> None:
    take(place, report(image, PROFILE))
    other = making.image(place, "a", "c", ref="registry.io/team/app:2")
    found = profile_files.read_all(place.profile_records, images.parse_reference(other.ref))
    made = other.platforms[0]

    assert profile_files.profile_shared(found, made.platform, files_of(made)) == PROFILE


def test_the_profile_of_a_later_build_takes_the_place_of_the_earlier(place, image) -> None:
    take(place, report(image, PROFILE))
    (before, _) = stored(place)
    made = msgspec.structs.replace(image.platforms[0], manifest=making.digest("new"))
    after = profile_files.with_profile(before, making.REF, made, PROFILE)

    assert after is not None
    assert [each.manifest for each in after.profiles] == [making.digest("new")]


def test_each_platform_has_its_own(place, image) -> None:
    take(place, report(image, PROFILE))
    (before, _) = stored(place)
    arm = msgspec.structs.replace(
        image.platforms[0], manifest=making.digest("arm"), platform="linux/arm64"
    )
    after = profile_files.with_profile(before, making.REF, arm, PROFILE)

    assert after is not None
    assert {each.platform for each in after.profiles} == {"linux/amd64", "linux/arm64"}


def test_damaged_profiles_are_as_good_as_none_and_replaced(place, image) -> None:
    take(place, report(image, PROFILE))
    for path in profile_files.paths(place.profile_records, REFERENCE):
        path.write_bytes(b"{")

    assert stored(place) == []
    assert {one.kind for one in integrity.check(place)} == {integrity.Kind.DAMAGED}
    assert take(place, report(image, PROFILE)) is True


def test_they_are_forgotten_with_the_image(place, image) -> None:
    take(place, report(image, PROFILE))
    retired = records.RetiredRecord(generation=1, layers=[], images=[making.REF])
    removal.hide(place, retired)

    assert list(profile_files.everything(place.profile_records)) == []


def test_the_newest_of_another_tag_stays(place, image) -> None:
    take(place, report(image, PROFILE))
    other = images.parse_reference("registry.io/team/app:2")

    assert profile_files.remove(place.profile_records, other) is False
    assert len(stored(place)) == 2
    assert profile_files.remove(place.profile_records, REFERENCE) is True


def test_a_node_keeps_so_many(tmp_path) -> None:
    for number in range(6):
        ref = f"registry.io/team/app{number}:1"
        record = records.ProfileRecord(ref=ref, profiles=[])
        profile_files.write(tmp_path / "profiles", record, tmp=tmp_path)
    profile_files.keep_newest(tmp_path / "profiles", 4)

    assert len(list(profile_files.everything(tmp_path / "profiles"))) == 4
