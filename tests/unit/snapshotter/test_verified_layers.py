"""Which layers are served where each block is to be verified, and what is done about the others."""

import errno
import os
import secrets

import pytest

from agent.metrics import snapshotter_metrics
from agent.model import keys, records, reports
from agent.mounts import layer_mounts, verification
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
from tests.unit.store import making

NAME = making.digest("a")


class Pool:
    """Mounts nothing; `fault` is what a mount fails with."""

    def __init__(self) -> None:
        self.fault: OSError | None = None
        self.mounted: list[tuple] = []

    async def call(self, operation: str, *arguments, deadline: float):
        if operation != "mount_layer":
            return store_worker.OPERATIONS[operation](*arguments)
        if self.fault is not None:
            raise self.fault
        self.mounted.append(arguments)
        return os.stat(arguments[1]).st_dev


class Node:
    """A snapshotter that verifies, over a store with the layer `a`."""

    def __init__(self, root, *, has_tree: bool) -> None:
        self.place = making.store(root / "store")
        making.layer(self.place, "a", has_tree=has_tree)
        making.image(self.place, "a")
        (root / "layers").mkdir()
        (root / layer_requests.IMAGE_REFS).touch()
        self.pool = Pool()
        self.verified = verification.Verification(root / "layers", self.pool, deadline=9)
        self.database = state_db.Database(root / "db")
        self.layers = layer_mounts.LayerMounts(
            root / "layers", self.pool, deadline=9, manner=layer_mounts.Manner(verify=True)
        )
        self.served = snapshots.Snapshotter(
            database=self.database,
            places=overlay_folders.Folders(root),
            mounted=self.layers,
            store=store_layers.Store(
                store_lookup.StoreLookup(
                    self.place,
                    self.pool,
                    layer_rules.Conditions(
                        layer_rules.Announcement(root / reports.ANNOUNCED), self.verified
                    ),
                    mounts=layer_mounting.Place(f"{root}/layers"),
                    deadline=9,
                ),
                layer_requests.Requesters(root),
            ),
            mapped=mapped_lowers.MappedLowers(str(root), self.pool, deadline=9),
        )

    async def is_served(self) -> bool:
        try:
            await self.served.prepare(secrets.token_hex(8), "", labels())
        except snapshots.ReadyError:
            return True
        return False

    def top(self) -> str:
        """The name of the recorded snapshot."""
        snapshot = self.database.read.remote(NAME, "")
        assert snapshot is not None
        return snapshot.name

    def close(self) -> None:
        self.served.close()
        self.database.close()


def labels() -> dict[str, str]:
    return {keys.SNAPSHOT_REF: NAME, keys.IMAGE_REF: making.REF}


def left(reason: snapshotter_metrics.LayerReason) -> float:
    return snapshotter_metrics._LAYER_FALLBACK.labels(reason)._value.get()


@pytest.fixture
async def node(tmp_path):
    made = Node(tmp_path, has_tree=True)
    yield made
    made.close()


@pytest.fixture
async def old(tmp_path):
    """With a layer of an earlier version."""
    made = Node(tmp_path, has_tree=False)
    yield made
    made.close()


def record_of(place: layout.Layout) -> records.LayerRecord:
    return records.decode(place.layer_record(NAME).read_bytes(), records.LayerRecord, "a")


async def test_a_layer_is_mounted_by_what_its_record_says_and_only_then(node) -> None:
    """The worker that looks it up mounts nothing: the record is not checked there."""
    assert await node.is_served()

    verity = record_of(node.place).verity
    assert verity is not None
    ((source, _, size, tree, *_),) = node.pool.mounted
    assert source == str(node.place.layer(NAME))
    assert size == record_of(node.place).size
    assert tree == (verity.root_hash, verity.salt, verity.data_blocks, verity.offset, "")


async def test_a_tree_beside_the_layer_is_named_by_its_place(old) -> None:
    making.layer_with_tree_beside(old.place, "a")

    assert await old.is_served()
    assert old.pool.mounted[0][3][3:] == (0, str(old.place.layer_tree(NAME)))


async def test_a_layer_without_a_tree_is_left_to_the_pull(old) -> None:
    before = left("not_verifiable")

    assert not await old.is_served()

    assert left("not_verifiable") == before + 1
    assert old.pool.mounted == []


async def test_a_layer_that_cannot_be_mounted_for_wrong_bytes_is_not_tried_again(node) -> None:
    before = left("corrupt_layer")
    node.pool.fault = OSError(errno.EBADMSG, "Bad message")
    assert not await node.is_served()
    node.pool.fault = None

    assert not await node.is_served()

    assert left("corrupt_layer") == before + 2
    assert node.pool.mounted == []


async def test_what_a_corrupt_layer_has_on_it_is_given_up(node) -> None:
    assert await node.is_served()
    top = node.top()
    await node.served.prepare("container", top, {})
    await node.served.prepare("apart", "", {})

    node.verified.note(NAME)
    await node.served.give_up(NAME)

    assert [each for each in (top, "container", "apart") if node.database.read.has(each)] == [
        "apart"
    ]
    assert not await node.is_served()
    assert node.layers.untidy.is_set()


async def test_a_present_image_whose_layers_cannot_be_verified_is_given_up(old) -> None:
    """As after the setting was turned on: the agent then has it pulled."""
    old.served._store._lookup._rules.verified = None
    assert await old.is_served()
    old.served._store._lookup._rules.verified = old.verified
    top = old.top()
    old.layers._unfit.add(NAME)

    with pytest.raises(store_layers.UnavailableError, match="uimgacc store verity"):
        await old.served.prepare("container", top, {})

    assert not old.database.read.has(top)


async def test_a_present_image_is_verified_by_its_record_after_a_reboot(node) -> None:
    assert await node.is_served()
    node.layers._devices.clear()

    await node.served.prepare("container", node.top(), {})

    assert node.pool.mounted[0] == node.pool.mounted[1]
