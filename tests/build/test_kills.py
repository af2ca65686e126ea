"""kill -9 of the builder before and after each step: the store is sound, the next build ends it."""

import pathlib
import subprocess
import sys

import pytest

from agent.store import integrity, layout
from lab import registries, services

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


def create(prefix: list[str], store: pathlib.Path, server: services.Registry) -> int:
    arguments = [
        *("create", "killed", "--image", f"{server.address}/{IMAGE}"),
        *("--plain-http", server.address, "--store", str(store), "--json"),
    ]
    return subprocess.run(
        [sys.executable, *prefix, *arguments], stdout=subprocess.DEVNULL, timeout=60
    ).returncode


@pytest.mark.parametrize(("place", "when", "number"), CASES)
def test_killed_at(tmp_path, server, place: str, when: str, number: int) -> None:
    store = tmp_path / "store"
    died = create(["-m", "tests.crashing", place, when, str(number)], store, server)
    assert died == -9
    where = layout.Layout(store)
    if where.store_record.exists():
        # A reader sees all of a thing or none of it.
        wrong = [found for found in integrity.check(where) if found.kind is not LEFTOVER]
        assert [found for found in wrong if found.kind is not integrity.Kind.ORPHANED] == []

    assert create(["-c", "from agent.cli.entry import main; main()"], store, server) == 0
    assert [found for found in integrity.check(where) if found.kind is not LEFTOVER] == []
    assert len(list(where.cache_records.iterdir())) == 1
