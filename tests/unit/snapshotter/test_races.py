"""What may happen between two lines of the snapshotter, made to happen."""

import asyncio
import contextlib
import errno
import os
import pathlib
import threading
from collections.abc import AsyncIterator

import pytest

from agent.kits.processes import workers
from agent.metrics import registries
from agent.model import digests, keys, records, reports
from agent.mounts import layer_mounts, mountinfo
from agent.mounts.devices import layer_mounting
from agent.snapshotter import (
    mapped_lowers,
    overlay_folders,
    snapshots,
    state_db,
    store_layers,
)
from agent.snapshotter.lookup import layer_rules, store_lookup, store_worker
from agent.store import layout
from agent.store.lookup import layer_requests

A, B, C = (f"sha256:{digit * 64}" for digit in "abc")


class Pool:
    """Mounts nothing; each unmount waits for `go`."""

    def __init__(self) -> None:
        self.unmounting = asyncio.Event()
        self.go = asyncio.Event()

    async def call(self, operation: str, *arguments, deadline: float):
        if operation == "mount_layer":
            return os.stat(arguments[1]).st_dev
        if operation == "used_layers":
            return []
        self.unmounting.set()
        await self.go.wait()
        os.rmdir(arguments[0])
        return None


class Parts:
    """A snapshotter over a pool that mounts nothing."""

    def __init__(self, root: pathlib.Path) -> None:
        (root / "layers").mkdir()
        self.pool = Pool()
        self.database = state_db.Database(root / "db")
        self.mounted = layer_mounts.LayerMounts(root / "layers", self.pool, deadline=9)
        self.places = overlay_folders.Folders(root)
        self.served = snapshots.Snapshotter(
            database=self.database,
            places=self.places,
            mounted=self.mounted,
            store=None,
            mapped=mapped_lowers.MappedLowers(str(root), self.pool, deadline=9),
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


async def test_a_hundred_who_wait_for_a_mount_that_fails_wait_for_one(parts, monkeypatch) -> None:
    """As after a reboot with a store that hangs: each mount takes its deadline."""
    asked, answer = 0, asyncio.Event()

    async def call(operation: str, *arguments, deadline: float) -> None:
        nonlocal asked
        asked += 1
        await answer.wait()
        raise workers.DeadlineError(operation, deadline)

    monkeypatch.setattr(parts.pool, "call", call)
    ensuring = [parts.mounted.ensure(A, pathlib.Path("x"), 1) for _ in range(100)]
    asyncio.get_running_loop().call_later(0.05, answer.set)
    outcomes = await asyncio.gather(*ensuring, return_exceptions=True)

    assert asked == 1
    assert all(isinstance(each, layer_mounts.MountError) for each in outcomes)
    assert all(isinstance(each.__cause__, workers.DeadlineError) for each in outcomes)
    monkeypatch.undo()
    await parts.mounted.ensure(A, pathlib.Path("x"), 1)
    assert parts.mounted.is_mounted(A)


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


class StorePool:
    """Reads a real store and mounts nothing.

    `on_mount` is what somebody else does while a layer is mounted.
    """

    def __init__(self) -> None:
        self.on_mount = lambda: None
        self.calls: list[str] = []

    def mount(self, source: str, target: str, *_: object) -> int:
        self.on_mount()
        return os.stat(target).st_dev

    async def call(self, operation: str, *arguments, deadline: float):
        self.calls.append(operation)
        match operation:
            case "mount_layer":
                return self.mount(*arguments)
            case "unmount_layer":
                return os.rmdir(arguments[0])
            case _:
                return store_worker.OPERATIONS[operation](*arguments)


def publish(path: pathlib.Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def publish_layer(where: layout.Layout, diff_id: str) -> None:
    layer = records.LayerRecord(
        diff_id=diff_id,
        size=1,
        tar_size=1,
        sha256=diff_id,
        blobs=[],
        mkfs=records.Toolchain(version="", options=[]),
        public=True,
    )
    publish(where.layer(diff_id), b"x")
    publish(where.layer_record(diff_id), records.encode(layer))


class Stored:
    """A snapshotter over a store with the layer A, and two chains of it: A and B on nothing."""

    def __init__(self, root: pathlib.Path) -> None:
        self.layout = layout.Layout(root / "store")
        publish_layer(self.layout, A)
        chain = records.ChainRecord(diff_id=A, parent=None)
        other = records.ChainRecord(diff_id=A, parent=None, variant_of=B)
        for path, data in (
            (self.layout.store_record, records.encode(records.StoreRecord(format=1, id="x"))),
            (self.layout.chain_record(A), records.encode(chain)),
            (self.layout.chain_record(B), records.encode(other)),
        ):
            publish(path, data)
        (root / "layers").mkdir()
        self.pool = StorePool()
        self.database = state_db.Database(root / "db")
        self.mounted = layer_mounts.LayerMounts(root / "layers", self.pool, deadline=9)
        self.served = snapshots.Snapshotter(
            database=self.database,
            places=overlay_folders.Folders(root),
            mounted=self.mounted,
            store=store_layers.Store(
                store_lookup.StoreLookup(
                    self.layout,
                    self.pool,
                    layer_rules.Conditions(layer_rules.Announcement(root / reports.ANNOUNCED)),
                    mounts=layer_mounting.Place(f"{root}/layers"),
                    deadline=9,
                ),
                layer_requests.Requesters(root),
            ),
            mapped=mapped_lowers.MappedLowers(str(root), self.pool, deadline=9),
        )

    async def is_served(self, chain_id: str, key: str = "k", **labels: str) -> bool:
        named = {getattr(keys, name): value for name, value in labels.items()}
        try:
            await self.served.prepare(key, "", {keys.SNAPSHOT_REF: chain_id, **named})
        except snapshots.ReadyError:
            return True
        return False

    def proof(self, chain_id: str) -> str:
        """What the agent sends."""
        key = (self.layout.root.parent / layer_requests.AGENT_KEY).read_bytes()
        return layer_requests.agent_proof(key, chain_id)

    def retire(self) -> None:
        """What the collector does first."""
        for chain_id in (A, B):
            self.layout.chain_record(chain_id).unlink()


@pytest.fixture
async def stored(tmp_path: pathlib.Path, monkeypatch):
    made = Stored(tmp_path)
    monkeypatch.setattr(layer_mounting, "mount_layer", made.pool.mount)
    yield made
    made.served.close()
    made.database.close()


async def test_a_chain_that_is_retired_while_its_layer_is_mounted_is_not_served(stored) -> None:
    """A node that was just found to hold nothing must not hold it a moment later."""
    stored.pool.on_mount = stored.retire

    assert not await stored.is_served(A)
    await stored.served.cleanup()
    assert len(stored.mounted) == 0


async def test_a_layer_takes_one_call_of_a_worker(stored) -> None:
    """A pull waits for each layer in turn."""
    assert await stored.is_served(A)
    assert await stored.is_served(B, "other")
    assert stored.pool.calls == ["read", "serve_chain", "serve_chain"]


def add_upper_chain(stored: Stored, diff_id: str = A) -> str:
    """Publish a chain of the layer A and another one; its ID."""
    chain_id = digests.chain_ids([A, diff_id])[1]
    record = records.ChainRecord(diff_id=diff_id, parent=A)
    publish(stored.layout.chain_record(chain_id), records.encode(record))
    if diff_id != A:
        publish_layer(stored.layout, diff_id)
    return chain_id


async def test_a_whole_image_takes_one_call_of_a_worker(stored) -> None:
    chain_id = add_upper_chain(stored)
    assert await stored.is_served(chain_id)

    assert stored.pool.calls == ["read", "serve_chain"]
    (snapshot,) = (one for page in stored.database.read.walk([]) for one in page)
    assert [link.diff_id for link in stored.database.read.chain(snapshot.name)] == [A, A]


async def test_a_chain_below_that_is_retired_while_layers_are_mounted_is_not_served(
    stored,
) -> None:
    """Also where only the chain of a lower layer has gone."""
    chain_id = add_upper_chain(stored)
    stored.pool.on_mount = lambda: stored.layout.chain_record(A).unlink(missing_ok=True)

    assert not await stored.is_served(chain_id)
    await stored.served.cleanup()
    assert len(stored.mounted) == 0


@contextlib.asynccontextmanager
async def tidied(stored: Stored) -> AsyncIterator[None]:
    """The first clean-up is over at the beginning; at the end a layer was unmounted by another."""
    tidying = asyncio.get_running_loop().create_task(stored.served.keep_tidy(0))
    await asyncio.sleep(0.05)
    yield
    async with asyncio.timeout(20):
        while "unmount_layer" not in stored.pool.calls:
            await asyncio.sleep(0.01)
    tidying.cancel()
    await asyncio.wait([tidying])


async def test_the_upper_layer_does_not_stay_mounted_where_the_lower_one_cannot_be(stored) -> None:
    chain_id = add_upper_chain(stored, C)
    mounts = 0

    def fail_later() -> None:
        nonlocal mounts
        mounts += 1
        if mounts > 1:
            raise OSError(errno.EUCLEAN, "Structure needs cleaning")

    stored.pool.on_mount = fail_later
    async with tidied(stored):
        assert not await stored.is_served(chain_id)

    assert len(stored.mounted) == 0


async def test_a_layer_does_not_stay_mounted_whose_caller_has_gone(stored, monkeypatch) -> None:
    asking = asyncio.get_running_loop().create_task(stored.is_served(A))

    async def mount_and_hang(operation: str, *arguments, deadline: float):
        if operation == "serve_chain":
            os.mkdir(stored.mounted.path(A))
            entry = mounted_entry(stored)
            monkeypatch.setattr(mountinfo, "read", lambda process="self": [entry])
            asking.cancel()
            await asyncio.sleep(60)
        return await StorePool.call(stored.pool, operation, *arguments, deadline=deadline)

    monkeypatch.setattr(stored.pool, "call", mount_and_hang)
    async with tidied(stored):
        await asyncio.wait([asking])
        assert asking.cancelled()


async def test_a_layer_that_is_mounted_again_is_looked_for_again(stored) -> None:
    assert await stored.is_served(A)
    del stored.mounted._devices[A]
    stored.pool.calls.clear()
    # Where others ask, the look-up mounts it, and looks for it again.
    assert await stored.is_served(A, "again", AGENT_PROOF=stored.proof(A))

    assert stored.pool.calls == ["mount_layer", "confirm_chains"]


def mounted_entry(stored: Stored, diff_id: str = A) -> mountinfo.Entry:
    return mountinfo.Entry(
        target=stored.mounted.path(diff_id),
        source=str(stored.layout.layer(diff_id)),
        kind="erofs",
        device=7,
        root="/",
        options="ro",
    )


async def test_a_mount_that_nobody_waited_for_is_dropped_in_the_end(stored, monkeypatch) -> None:
    """As a worker leaves it that was given up at the wrong moment."""
    entry = mounted_entry(stored)
    monkeypatch.setattr(mountinfo, "read", lambda process="self": [entry])
    os.mkdir(stored.mounted.path(A))
    await stored.served.cleanup()

    assert stored.pool.calls == ["used_layers", "unmount_layer"]


async def test_a_record_that_containerd_has_forgotten_does_not_bring_a_retired_layer_back(
    stored,
) -> None:
    assert await stored.is_served(A)
    # As after a reboot: the record is there, the mount is not.
    del stored.mounted._devices[A]
    stored.retire()

    assert not await stored.is_served(A, "again")


async def test_a_store_that_falls_silent_after_the_mount_is_a_miss(stored) -> None:
    def hang() -> None:
        stored.layout.chain_record(A).unlink()
        stored.layout.chain_record(A).mkdir()

    stored.pool.on_mount = hang

    assert not await stored.is_served(A)


async def test_a_layer_whose_record_is_damaged_does_not_stay_mounted(stored, monkeypatch) -> None:
    """A worker has mounted it by what it reads of the record; the rest is checked afterwards."""
    path = stored.layout.layer_record(C)
    publish_layer(stored.layout, C)
    path.write_bytes(path.read_bytes().replace(b'"tar_size"', b'"no_size"'))
    chain_id = digests.chain_ids([A, C])[1]
    publish(
        stored.layout.chain_record(chain_id),
        records.encode(records.ChainRecord(diff_id=C, parent=A)),
    )
    assert await stored.is_served(A)
    (below,) = (one.name for page in stored.database.read.walk([]) for one in page)
    before = damaged("layer")
    async with tidied(stored):
        entry = mounted_entry(stored, C)
        monkeypatch.setattr(mountinfo, "read", lambda process="self": [entry])
        await stored.served.prepare("k2", below, {keys.SNAPSHOT_REF: chain_id})

    assert not stored.mounted.is_mounted(C)
    assert damaged("layer") == before + 1


def damaged(kind: str) -> float:
    labels = {"kind": kind}
    value = registries.SNAPSHOTTER.get_sample_value("uimgacc_damaged_records_total", labels)
    assert value is not None
    return value


async def test_a_number_by_which_something_is_shown_is_not_given_again(tmp_path) -> None:
    """A killed snapshotter left it mounted, with the owners of another user namespace."""
    (tmp_path / "m" / "40" / "layers").mkdir(parents=True)
    made = Parts(tmp_path)
    try:
        (mount,) = await made.served.prepare("a", "", {})
    finally:
        made.served.close()
        made.database.close()

    assert int(pathlib.Path(mount.source).parent.name) > 40
