"""Where the records of images are: no two at one place, and those of earlier versions found."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import images, records
from agent.store import integrity, layout
from agent.store.gc import reachability
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from tests.unit.store import making

PLACE = layout.Layout(pathlib.Path("/store"))

_PARTS = st.sampled_from(["app", "1.0.json", "json", "a.json", "1.0", "x.json.json", "team"])
_VERSIONS = st.sampled_from(["", ":1.0", ":json", ":1.0.json", ":x.json", f"@sha256:{'a' * 64}"])


@st.composite
def references(draw: st.DrawFn) -> images.Reference:
    registry = draw(st.sampled_from(["", "reg.example/", "reg.json/", "a.json:5000/"]))
    parts = draw(
        st.lists(
            _PARTS | st.from_regex(r"[a-z0-9]{1,3}(\.json)?", fullmatch=True),
            min_size=1,
            max_size=4,
        )
    )
    return images.parse_reference(f"{registry}{'/'.join(parts)}{draw(_VERSIONS)}")


@given(references(), references())
def test_two_images_never_share_a_path(one: images.Reference, other: images.Reference) -> None:
    paths = [PLACE.image_record(each) for each in (one, other)]
    if (one.name, one.version) == (other.name, other.version):
        assert paths[0] == paths[1]
        return

    assert paths[0] != paths[1]
    assert paths[0] not in paths[1].parents
    assert paths[1] not in paths[0].parents


@given(references())
def test_places_stay_where_they_were_but_for_those_that_could_be_taken(
    reference: images.Reference,
) -> None:
    place, *former = PLACE.image_places(reference)
    folder = PLACE.image_records / reference.registry / reference.repository
    parts = reference.repository.split("/")[1:]

    assert bool(former) is any(part.endswith(".json") for part in parts)
    assert (former or [place]) == [folder / f"{reference.version}.json"]


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    writer.create(tmp_path / "store")
    return layout.Layout(tmp_path / "store")


BELOW = "reg.example/team/app/1.0.json:2"
ABOVE = "reg.example/team/app:1.0"


def record_of(ref: str) -> records.ImageRecord:
    return making.image_record(ref, [])


def publish_as_before(place: layout.Layout, ref: str) -> pathlib.Path:
    """Where an earlier version wrote the record of an image."""
    reference = images.parse_reference(ref)
    former = place.image_places(reference)[-1]
    writer.write_record(place, former, record_of(ref))
    return former


def test_both_of_two_images_that_shared_a_path_are_kept(place: layout.Layout) -> None:
    for ref in (BELOW, ABOVE):
        writer.publish_image(place, record_of(ref))

    reader = direct_reader.Reader(place)
    for ref in (BELOW, ABOVE):
        found = reader.image(images.parse_reference(ref))
        assert found is not None
        assert found.ref == ref


def test_a_record_of_an_earlier_version_is_found_and_moved(place: layout.Layout) -> None:
    former = publish_as_before(place, BELOW)
    reader = direct_reader.Reader(place)
    found = reader.image(images.parse_reference(BELOW))
    assert found is not None
    assert found.ref == BELOW
    assert reader.image(images.parse_reference(ABOVE)) is None
    wrong = [each.reason for each in integrity.check(place) if "belongs" in each.reason]
    assert wrong == []
    assert former in reachability.image_places(place, BELOW)

    writer.publish_image(place, record_of(ABOVE))

    assert former.parent.is_file()
    for ref in (BELOW, ABOVE):
        assert reader.image(images.parse_reference(ref)) is not None


def test_a_record_that_is_written_again_leaves_its_former_place(place: layout.Layout) -> None:
    former = publish_as_before(place, BELOW)
    writer.publish_image(place, record_of(BELOW))

    assert not former.exists()
    assert place.image_record(images.parse_reference(BELOW)).is_file()
