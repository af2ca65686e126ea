"""What is asked of the NFS server: by a node, the same for each of thousands, and by the
collector (docs/operate/scale.md).
"""

import asyncio
import pathlib
import time

import pytest

from agent.matching import decisions
from agent.store import layout
from agent.store.gc import collection
from agent.store.index import index_files
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from benchmarks.store import filling
from lab.guest import member, nfsd
from tests.guest.inside import conftest
from tests.unit.store import making

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

SECONDS = 60.0
AT_MOST = 120.0
"""Operations a minute. 5,000 such nodes are 10,000 a second, which one server can still bear."""


def test_a_node_asks_the_server_little(node, client) -> None:
    """For one image of two layers with one cache in the store, and then for nothing at all."""
    conftest.wait_until(node.capable)
    before = member.operations(node.folder)
    node.schedule(node.pod("idle", conftest.STORED, "true"))
    conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    registering = member.operations(node.folder) - before
    conftest.note(f"NFS operations for an image of two layers: {dict(registering)}")
    assert sum(registering.values()) <= AT_MOST

    before, started = member.operations(node.folder), time.monotonic()
    time.sleep(SECONDS)
    minutes = (time.monotonic() - started) / 60
    counted = member.operations(node.folder) - before
    asked = {kind: count / minutes for kind, count in counted.items()}
    conftest.note(f"an idle node's NFS operations a minute: {asked}")

    # The probe must reach the server: an answer from the node's own cache would say nothing.
    assert asked.get("STATFS", 0) >= 6
    assert sum(asked.values()) <= AT_MOST


FEW, MANY = 5, 400
"""Caches in the store while a pod's are looked up; with all of them read, it would be 3 requests
for each."""


def test_a_look_up_asks_the_server_the_same_however_many_caches_there_are(
    server, tmp_path: pathlib.Path
) -> None:
    there = making.store(server.add("many", writable=True))
    nfsd.mount("many", tmp_path / "store")
    asked: list[int] = []
    for count in (FEW, MANY):
        for number in range(count):
            filling.cache(there, number)
        index_files.complete(there)
        conftest.drop_caches()
        time.sleep(6)  # for longer than a client believes what it knows of a folder
        server.delay(0.001)
        before, started = member.operations(tmp_path), time.monotonic()
        decision = asyncio.run(filling.decide(tmp_path / "store", filling.APP.format(at=3)))
        seconds = time.monotonic() - started
        server.delay(0)
        counted = member.operations(tmp_path) - before
        conftest.note(
            f"{count} caches: a cold look-up took {seconds * 1000:.0f} ms at 1 ms to the server,"
            f" {sum(counted.values())} NFS operations: {dict(counted)}"
        )
        assert decision.outcome is decisions.Outcome.HIT
        asked.append(sum(counted.values()))

    few, many = asked
    assert many <= few + 10


IMAGES, LAYERS = 4, 25
FOLDERS = 5 * 256
"""A store has so many folders; to look into one costs LOOKUP, ACCESS and READDIR."""


def test_a_collection_asks_the_server_little_and_deletes_the_right_things(
    server, tmp_path: pathlib.Path
) -> None:
    there = making.store(server.add("collected", writable=True))
    for number in range(IMAGES):
        names = [f"layer {number}/{at}" for at in range(LAYERS)]
        image = making.image(there, *names, ref=f"r.io/image:{number}")
        making.cache(there, f"imc-cache-{number}", image)
    nfsd.mount("collected", tmp_path / "store")
    place = layout.Layout(tmp_path / "store")
    asked: list[int] = []

    def round_(outcome: collection.Outcome) -> collection.Outcome:
        before = member.operations(tmp_path)
        orders = collection.Orders(settled=outcome.announced, floor=1, seen=outcome.seen)
        after = collection.collect(place, orders)
        counted = member.operations(tmp_path) - before
        asked.append(sum(counted.values()))
        conftest.note(f"NFS operations of a collection of {LAYERS}: {dict(counted)}")
        return after

    idle = round_(collection.Outcome())
    round_(idle)
    writer.delete_cache(place, "imc-cache-0")
    planned = round_(idle)
    retired = round_(planned)
    gone = round_(retired)

    assert gone.layers == LAYERS
    assert round_(gone).unchanged
    reader = direct_reader.Reader(there, on_damage=pytest.fail)
    assert [reader.layer(making.digest(f"layer 0/{at}")) for at in range(LAYERS)] == [None] * LAYERS
    for number in range(1, IMAGES):
        assert all(reader.layer(making.digest(f"layer {number}/{at}")) for at in range(LAYERS))
    first, unchanged, _, hidden, deleted, last = asked
    assert max(unchanged, last) <= 20
    # Each chain is opened and read; a folder's attributes are known for seconds.
    assert first <= 3 * FOLDERS + 3 * IMAGES * LAYERS
    assert max(hidden, deleted) <= 3 * FOLDERS + 6 * LAYERS
