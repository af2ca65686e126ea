"""More requests at once than are worked on: they wait, and each is answered."""

import asyncio
import pathlib
import tempfile
import threading
from collections.abc import Iterator

import grpc.aio
import pytest

from agent._proto.containerd import snapshots_pb2 as pb
from agent._proto.containerd import snapshots_pb2_grpc
from agent.mounts import overlay
from agent.snapshotter import metadata, service, state_db

REQUESTS = 2000
AT_ONCE = 64


class Busy:
    """Holds each Prepare until AT_ONCE were there together, and a moment longer for one too many.

    `most` is how many there were at once.
    """

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self._full = asyncio.Event()

    async def prepare(self, key: str, parent: str, labels) -> list[overlay.Mount]:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= AT_ONCE:
            self._full.set()
        await self._full.wait()
        await asyncio.sleep(0.02)
        self.now -= 1
        return []


@pytest.fixture
def address() -> Iterator[str]:
    """A short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="uim") as folder:
        yield f"{folder}/s"


async def test_a_flood_of_requests_waits_its_turn_and_none_fails(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would fail a pull, or a pod's start."""
    monkeypatch.setattr(service, "_AT_ONCE", AT_ONCE)
    busy = Busy()
    servicer = service.Service(busy, None)  # type: ignore[arg-type]
    serving = asyncio.get_running_loop().create_task(service.serve(servicer, address, grace=0))
    async with grpc.aio.insecure_channel(f"unix://{address}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
        client = snapshots_pb2_grpc.SnapshotsStub(channel)
        requests = [pb.PrepareSnapshotRequest(key=f"k{number}") for number in range(REQUESTS)]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(_answered(client, request))
    serving.cancel()
    await asyncio.wait([serving])

    assert busy.most == AT_ONCE


async def _answered(client, request: pb.PrepareSnapshotRequest) -> None:
    await client.Prepare(request, timeout=60)


async def test_changes_wait_where_the_disk_takes_no_more(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_db, "_WAITING", 4)
    database = state_db.Database(tmp_path / "db")
    held = threading.Event()
    loop = asyncio.get_running_loop()
    changes = [lambda _: held.wait(20)] + [
        lambda change, id_=id_: change.add(
            f"k{id_}", id_=id_, parent="", kind=metadata.COMMITTED, labels={}
        )
        for id_ in range(1, 21)
    ]
    writing = [loop.create_task(database.write(change)) for change in changes]
    await asyncio.sleep(0.1)
    waiting = database._queue.qsize()
    writing[-1].cancel()
    held.set()
    await database.wait_written()
    await asyncio.wait(writing)

    assert waiting <= 4
    assert database.read.ids() == set(range(1, 20))
    database.close()
