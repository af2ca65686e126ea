"""kill -9 of the builder before and after each step: the store is sound, the next build ends it."""

import pathlib

import pytest

from agent.store import integrity, layout
from agent.store.index import index_files
from lab import services
from lab.web import registries
from tests import forking

pytestmark = pytest.mark.skipif(
    not registries.catalogue(), reason="needs the lab's images: run lab/setup"
)

IMAGE = "lab/layers2:1"
LEFTOVER = integrity.Kind.LEFTOVER
POINTS = [
    ("agent.kits.files:publish", 4),
    ("agent.kits.files:write", 9),
    ("agent.kits.files:sync_folder", 4),
    ("agent.store.publish.layer_writer:publish_layer", 2),
    ("agent.store.publish.writer:publish_chain", 2),
    ("agent.store.publish.writer:publish_image", 1),
    ("agent.store.publish.writer:publish_cache", 1),
    ("agent.store.index.index_files:add", 2),
    ("agent.store.index.index_files:_create", 2),
    ("agent.store.publish.build_claims:Claim.add", 2),
    ("agent.store.publish.build_claims:Claim.finish", 1),
]
CASES = [
    pytest.param(place, when, number, id=f"{place.partition(':')[2]}-{when}-{number}")
    for place, most in POINTS
    for when in ("before", "after")
    for number in range(1, most + 1)
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with services.Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def forker():
    with forking.Forker("agent.cli.commands", "agent.cli.caches.create_command") as running:
        yield running


def arguments(store: pathlib.Path, server: services.Registry) -> list[str]:
    image = ("--image", f"{server.address}/{IMAGE}", "--plain-http", server.address)
    return ["create", "killed", *image, "--store", str(store), "--json"]


@pytest.mark.parametrize(("place", "when", "number"), CASES)
def test_killed_at(tmp_path, server, forker, place: str, when: str, number: int) -> None:
    store = tmp_path / "store"
    create = arguments(store, server)
    assert forker.run(create, die=(place, when, number)) == -9
    where = layout.Layout(store)
    if where.store_record.exists():
        # A reader sees all of a thing or none of it.
        wrong = [found for found in integrity.check(where) if found.kind is not LEFTOVER]
        assert [found for found in wrong if found.kind is not integrity.Kind.ORPHANED] == []
        assert index_files.lacking(where) == []

    assert forker.run(create) == 0
    assert list(integrity.index_faults(where)) == []
    assert [found for found in integrity.check(where) if found.kind is not LEFTOVER] == []
    assert len(list(where.cache_records.iterdir())) == 1
