"""Who may have a stored layer, and what a build must do before it uses one."""

import msgspec
import pytest

from agent.store import layer_sources
from tests.unit.store import making

DIFF_ID, BLOB = making.digest("a"), making.digest("blob of a")
APP, OTHER = "registry.io/team/app", "registry.io/other/app"
Proof, Standing = layer_sources.Proof, layer_sources.Standing


def record(**changes):
    return msgspec.structs.replace(making.layer_record("a"), **{"sources": [], **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Standing.OTHER),
        ({"sources": [OTHER, APP]}, Standing.SOURCE),
        ({"sources": [APP + "/tools", "registry.io/team", "io/team/app"]}, Standing.OTHER),
        ({"public": True}, Standing.PUBLIC),
        ({"sources": None}, Standing.UNRECORDED),
        ({"sources": None, "public": True}, Standing.PUBLIC),
    ],
)
def test_what_a_record_says_about_a_repository(changes, expected) -> None:
    assert layer_sources.standing(record(**changes), APP) is expected


@pytest.mark.parametrize(("layer", "expected"), [("a", True), ("b", False)])
def test_image_records_count_for_a_record_of_an_earlier_version_only(layer, expected) -> None:
    images = [making.image_record(f"{APP}:1", [making.layer_record(layer)])]
    old, new = record(sources=None), record(sources=[OTHER])

    def is_open(one) -> bool:
        return layer_sources.is_open_to(one, APP, diff_id=DIFF_ID, images=images)

    assert is_open(old) is expected
    assert is_open(new) is False
    assert is_open(record(sources=[APP])) is True


@pytest.mark.parametrize(
    ("changes", "is_open", "blob", "expected"),
    [
        ({"public": True}, True, "blob of a", Proof.NONE),
        ({"public": True}, True, "invented", Proof.NONE),
        ({}, True, "blob of a", Proof.HEAD),
        ({}, True, "invented", Proof.DOWNLOAD),
        ({}, False, "blob of a", Proof.DOWNLOAD),
        ({}, False, "invented", Proof.DOWNLOAD),
    ],
)
def test_what_a_build_must_do(changes, is_open, blob, expected) -> None:
    needed = layer_sources.proof_needed(
        record(**changes), is_open=is_open, blob=making.digest(blob)
    )

    assert needed is expected


def test_an_origin_is_added_once_and_a_known_one_changes_nothing() -> None:
    new = making.digest("other blob")
    first = layer_sources.with_origin(
        record(sources=[OTHER]), layer_sources.Origin(APP, new, is_public=False)
    )

    assert (first.sources, first.public) == ([OTHER, APP], False)
    assert set(first.blobs) == {BLOB, new}
    again = layer_sources.Origin(APP, BLOB, is_public=False)
    assert layer_sources.with_origin(first, again) is first
    public = layer_sources.Origin(APP, BLOB, is_public=True)
    assert layer_sources.with_origin(first, public).public


def test_a_record_of_an_earlier_version_learns_blobs_but_keeps_its_sources_unknown() -> None:
    """Its image records count; a list would say that these are all."""
    new = making.digest("other blob")
    known = layer_sources.with_origin(
        record(sources=None), layer_sources.Origin(APP, new, is_public=False)
    )

    assert known.sources is None
    assert new in known.blobs


def test_two_records_of_a_layer_become_one_that_knows_all() -> None:
    one = record(sources=[APP])
    other = record(sources=[OTHER, APP], blobs=[making.digest("x")], public=True)

    merged = layer_sources.merged(one, other)

    assert (merged.sources, merged.public) == ([APP, OTHER], True)
    assert set(merged.blobs) == {BLOB, making.digest("x")}
    assert layer_sources.merged(one, record(sources=None)).sources is None
    assert layer_sources.merged(record(sources=None), one).sources is None


def test_sources_are_bounded_and_the_first_one_goes() -> None:
    full = record(sources=[f"registry.io/app{at}" for at in range(layer_sources.MAX_SOURCES)])

    more = layer_sources.with_origin(full, layer_sources.Origin(APP, BLOB, is_public=False))

    assert more.sources is not None
    assert len(more.sources) == layer_sources.MAX_SOURCES
    assert (more.sources[0], more.sources[-1]) == ("registry.io/app1", APP)


def test_the_blobs_of_a_layer_are_bounded_and_the_first_one_goes() -> None:
    """Else who pushes one layer in many compressions makes its record too large for all others."""
    full = record(blobs=[making.digest(str(at)) for at in range(layer_sources.MAX_BLOBS)])

    more = layer_sources.with_origin(full, layer_sources.Origin(APP, BLOB, is_public=False))

    assert len(more.blobs) == layer_sources.MAX_BLOBS
    assert (more.blobs[0], more.blobs[-1]) == (making.digest("1"), BLOB)


def test_a_name_that_no_containerd_takes_is_not_recorded() -> None:
    name = "registry.io/" + "a" * 300
    origin = layer_sources.Origin(name, BLOB, is_public=False)

    assert layer_sources.with_origin(record(), origin).sources == []
