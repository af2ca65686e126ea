"""The names of entries, and which of them a look-up follows."""

import pathlib

import msgspec
import pytest

from agent.model import images, records
from agent.store import layout
from agent.store.index import cache_entries
from tests.unit.store import making

PLACE = layout.Layout(pathlib.Path("/store"))


def cache(
    name: str, *refs: str, namespaces: list[str] | None = None, **fields
) -> records.CacheRecord:
    return records.CacheRecord(
        id=f"imc-{name}",
        name=fields.pop("called", name),
        images=[
            records.CachedImage(
                ref=ref, target=making.digest(ref), size=1, layers=[making.digest("base")]
            )
            for ref in refs
        ],
        size=1,
        capacity=1,
        created="",
        namespaces=namespaces,
        **fields,
    )


def wanted(*refs: str, **fields) -> cache_entries.Wanted:
    return cache_entries.Wanted(references=tuple(map(images.parse_reference, refs)), **fields)


def chosen(
    what: cache_entries.Wanted, *known: records.CacheRecord, absent: tuple[str, ...] = ()
) -> list[str]:
    """The IDs, without `imc-`, of the caches that are read of those that are known."""
    there: dict[str, set[str]] = {}
    for record in known:
        for subject, names in cache_entries.entries_of(record).items():
            there.setdefault(subject, set()).update(names)
    listings = {subject: there.get(subject, set()) for subject in what.folders}
    ids = cache_entries.choose(what, listings, absent=absent)
    return [each.removeprefix("imc-") for each in ids]


@pytest.mark.parametrize(
    "ref",
    [
        "registry.io/team/app:1",
        "registry.io:5000/team/app:1",
        "localhost:5000/a:1",
        "registry.io/a/b/c/d/e/f:1",
        f"registry.io/{'/'.join(['a' * 60] * 3)}:{'t' * 128}",
        f"registry.io/team/app@{making.digest('x')}",
        f"registry.io/team/app:1@{making.digest('x')}",
        "registry.io/team/app.json:_._1",
        "registry.io/team/app__x---y:-_~".replace("-_~", "A._-"),
    ],
)
def test_every_repository_has_one_folder_of_one_form(ref: str) -> None:
    reference = images.parse_reference(ref)
    record = cache("one", str(reference))

    assert chosen(wanted(ref), record) == ["one"]
    for subject, names in cache_entries.entries_of(record).items():
        folder = PLACE.index_folder(subject)
        assert folder.parent.parent == PLACE.index
        assert len(folder.name) == 64
        for name in names:
            assert "/" not in name
            assert len(name) < 255
            assert (folder / name).resolve().is_relative_to(PLACE.index)


def test_what_a_record_says_leads_out_of_no_folder() -> None:
    """Of a record that was written by hand: its name may be anything, its images are left out."""
    record = cache("one", "../../../etc/passwd", "registry.io/..:1", called="../../../../x")

    subjects = cache_entries.entries_of(record)

    assert [each for each in subjects if each.startswith("repository")] == []
    for subject, names in subjects.items():
        for name in names:
            assert (PLACE.index_folder(subject) / name).resolve().is_relative_to(PLACE.index)


def test_a_cache_is_found_by_repository_target_bottom_layer_name_and_id() -> None:
    record = cache("one", "registry.io/team/app:1", called="tools")
    target = making.digest("registry.io/team/app:1")

    assert chosen(wanted("registry.io/team/app:1"), record) == ["one"]
    assert chosen(wanted("registry.io/team/app:2"), record) == ["one"]
    assert chosen(wanted(f"registry.io/team/app@{target}"), record) == ["one"]
    assert chosen(wanted(layers=(making.digest("base"),)), record) == ["one"]
    assert chosen(wanted(named="tools"), record) == ["one"]
    assert chosen(wanted(named="imc-one")) == ["one"]
    assert chosen(wanted("registry.io/team/other:1"), record) == []
    assert chosen(wanted("registry.io/team:1", named="other"), record) == []


def test_all_bottom_layers_of_an_image_for_several_platforms_count() -> None:
    record = cache("one", "registry.io/team/app:1")
    bottoms = [making.digest("amd64"), making.digest("arm64")]
    image = msgspec.structs.replace(record.images[0], bottoms=bottoms)
    record = msgspec.structs.replace(record, images=[image])

    for bottom in bottoms:
        assert chosen(wanted(layers=(bottom,)), record) == ["one"]


def test_of_thousands_of_caches_of_one_repository_few_are_read() -> None:
    many = [cache(f"c{number:05}", f"registry.io/team/app:v{number}") for number in range(3000)]

    found = chosen(wanted("registry.io/team/app:v777", namespace="team"), *many)

    assert found[0] == "c00777"
    assert len(found) <= 9
    assert chosen(wanted("registry.io/team/app:none"), *many)


def test_of_very_many_caches_with_one_image_the_one_with_all_of_the_pods_is_read() -> None:
    """Each has the proxy that is in every pod."""
    proxy = "registry.io/mesh/proxy:1"
    many = [cache(f"c{number:05}", f"r.io/app{number}:1", proxy) for number in range(2000)]

    found = chosen(wanted("r.io/app1321:1", proxy, namespace="team"), *many)

    assert found[0] == "c01321"
    assert len(found) <= 16 + 8


def test_a_cache_that_serves_the_namespace_is_read_before_many_that_do_not() -> None:
    ref = "registry.io/team/app:1"
    others = [cache(f"a{number}", ref, namespaces=[f"ns-{number}"]) for number in range(100)]
    own = cache("own", ref, namespaces=["team"])
    many = cache("many", ref, namespaces=[f"n{number}" for number in range(40)])

    found = chosen(wanted(ref, namespace="team"), *others, own, many)

    assert found[:2] == ["own", "many"]
    assert 1 <= len(found[2:]) <= 4, "some, so that it can be said whom they serve"


def test_without_a_namespace_those_that_serve_all_are_first() -> None:
    ref = "registry.io/team/app:1"
    some = [cache(f"a{number}", ref, namespaces=["team"]) for number in range(30)]

    assert chosen(wanted(ref), *some, cache("open", ref))[0] == "open"


def test_where_entries_lead_nowhere_others_are_followed() -> None:
    ref = "registry.io/team/app:1"
    many = [cache(f"c{number:02}", ref) for number in range(20)]
    first = chosen(wanted(ref), *many)

    again = chosen(wanted(ref), *many, absent=tuple(f"imc-{name}" for name in first))

    assert len(first) == 16
    assert sorted([*first, *again]) == [f"c{number:02}" for number in range(20)]


def test_names_that_are_no_entries_are_passed_over() -> None:
    what = wanted("registry.io/team/app:1")
    (subject,) = what.folders
    names = {".nfs0001", "1~all", "1~all~../../x", "1~all~imc-one~x", "", "1~all~imc-good"}

    assert cache_entries.choose(what, {subject: names}) == ["imc-good"]
    assert cache_entries.ids(names) == ["imc-good"]


def test_caches_that_nodes_keep_warm_are_in_a_folder_of_their_own() -> None:
    warm, cold = cache("warm", keep_warm=True), cache("cold")

    assert cache_entries.ids(cache_entries.entries_of(warm)[cache_entries.WARM]) == ["imc-warm"]
    assert cache_entries.WARM not in cache_entries.entries_of(cold)
