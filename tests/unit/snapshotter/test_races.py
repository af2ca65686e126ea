"""What may happen between two lines of the snapshotter, made to happen."""

import asyncio
import os
import pathlib
import threading

import pytest

from agent.mounts import layers
from agent.snapshotter import folders, metadata, snapshots

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


class Pool:
    """Mounts nothing; each unmount waits for `go`."""

    def __init__(self) -> None:
        self.unmounting = asyncio.Event()
        self.go = asyncio.Event()

    async def call(self, operation: str, *arguments, deadline: float):
        if operation == "mount_layer":
            return os.stat(arguments[1]).st_dev
        self.unmounting.set()
        await self.go.wait()
        os.rmdir(arguments[0])
        return None


class Parts:
    """A snapshotter over a pool that mounts nothing."""

    def __init__(self, root: pathlib.Path) -> None:
        (root / "layers").mkdir()
        self.pool = Pool()
        self.database = metadata.Database(root / "db")
        self.mounted = layers.LayerMounts(root / "layers", self.pool, deadline=9)
        self.places = folders.Folders(root)
        self.served = snapshots.Snapshotter(
            database=self.database, places=self.places, mounted=self.mounted, lookup=None
        )


@pytest.fixture
async def parts(tmp_path: pathlib.Path):
    made = Parts(tmp_path)
    yield made
    made.served.close()
    made.database.close()


async def test_a_layer_that_is_recorded_while_others_are_dropped_stays(parts) -> None:
    for diff_id in (A, B):
        await parts.mounted.ensure(diff_id, pathlib.Path("x"), 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(parts.served.cleanup())
        await parts.pool.unmounting.wait()
        await parts.database.write(
            lambda change: change.add(
                "r", id_=9, parent="", kind=3, labels={}, diff_id=B, layer_size=1
            )
        )
        parts.pool.go.set()

    assert [parts.mounted.is_mounted(diff_id) for diff_id in (A, B)] == [False, True]


async def test_a_cleanup_that_is_cancelled_forgets_no_mount(parts) -> None:
    await parts.mounted.ensure(A, pathlib.Path("x"), 1)
    cleaning = asyncio.get_running_loop().create_task(parts.served.cleanup())
    await parts.pool.unmounting.wait()
    cleaning.cancel()
    await asyncio.wait([cleaning])
    assert len(parts.mounted) == 1

    parts.pool.go.set()
    await parts.served.cleanup()
    assert len(parts.mounted) == 0


async def test_a_prepare_whose_caller_goes_away_keeps_its_folder(parts) -> None:
    """Its record waits in the queue; a cleanup meanwhile may not take the folder for a leftover."""
    held = threading.Event()
    loop = asyncio.get_running_loop()
    blocker = loop.create_task(parts.database.write(lambda change: held.wait(10)))
    await asyncio.sleep(0.05)
    prepare = loop.create_task(parts.served.prepare("k", "", {}))
    await asyncio.sleep(0.05)
    prepare.cancel()
    await asyncio.wait([prepare])
    cleaning = loop.create_task(parts.served.cleanup())
    await asyncio.sleep(0.1)
    held.set()
    await blocker
    await cleaning

    (id_,) = parts.database.read.ids()
    assert os.path.isdir(parts.places.upper(id_))
