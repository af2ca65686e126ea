"""A node with layers of a store that are really mounted, and the keeper of its copies."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import subprocess
from collections.abc import AsyncIterator, Iterator

import msgspec

from agent.kits.processes import workers
from agent.local import copy_paths
from agent.model import caches, records
from agent.mounts import mountinfo, mountpoints, syscalls
from agent.mounts.devices import layer_mounting, loop_devices
from agent.node.near import copies, copy_records, layer_copy, starts
from agent.node.pods import served_pods
from agent.store import layout
from agent.store.lookup import catalog


class Store:
    """A store's records, as the catalog reads them; `away` where it does not answer."""

    def __init__(self) -> None:
        self.records: dict[str, records.LayerRecord] = {}
        self.away = False
        self.id = "a"
        self.deletions = 0
        self.asked = 0

    async def store(self) -> records.StoreRecord:
        self._ask()
        return records.StoreRecord(format=1, id=self.id)

    async def layer(self, diff_id: str) -> records.LayerRecord | None:
        self._ask()
        self.asked += 1
        return self.records.get(diff_id)

    async def generation(self) -> int:
        self._ask()
        return self.deletions

    def _ask(self) -> None:
        if self.away:
            raise catalog.StoreUnavailable("read", "it hangs")


@dataclasses.dataclass
class Wishes:
    modes: dict[str, caches.LocalMode] = dataclasses.field(default_factory=dict)

    def layers(self) -> dict[str, caches.LocalMode]:
        return self.modes


class World:
    """One node. `limits` may be replaced before `keeper` is opened."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.root = str(folder / "root")
        self.where = copy_paths.of(self.root)
        self.store = Store()
        self.files = layout.Layout(folder / "store")
        self.folder = folder
        self.wishes = Wishes()
        self.limits = copies.Limits(mode="after-start", taken="1Gi", free="0")
        (folder / "root/layers").mkdir(parents=True)

    def add(self, letter: str, *, size: int = 1 << 20) -> str:
        """Put a layer with a file of random bytes into the store; its name."""
        name = letter * 64
        path = self.files.layer(f"sha256:{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = self.folder / f"content-{letter}"
        content.mkdir()
        (content / "file").write_bytes(os.urandom(size))
        subprocess.run(["mkfs.erofs", "--quiet", path, content], check=True)
        self.store.records[f"sha256:{name}"] = records.LayerRecord(
            diff_id=f"sha256:{name}",
            size=path.stat().st_size,
            tar_size=size,
            sha256=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
            blobs=[],
            mkfs=records.Toolchain(version="", options=[]),
            implied=["usr"],
        )
        return name

    def add_tree(self, name: str) -> bytes:
        """Give a layer a hash tree in a file of its own; what is in it."""
        content = os.urandom(9000)
        self.files.layer_tree(f"sha256:{name}").write_bytes(content)
        record = self.store.records[f"sha256:{name}"]
        tree = records.VerityTree(
            root_hash="0" * 64,
            salt="0" * 64,
            data_blocks=1,
            offset=0,
            tree_size=len(content),
            sha256=f"sha256:{hashlib.sha256(content).hexdigest()}",
        )
        self.store.records[f"sha256:{name}"] = msgspec.structs.replace(record, verity=tree)
        return content

    def stored(self, name: str) -> pathlib.Path:
        return self.files.layer(f"sha256:{name}")

    def target(self, name: str) -> str:
        return mountpoints.mountpoint(f"{self.root}/layers", name)

    def mount(self, name: str, way: str = layer_mounting.LOOP) -> None:
        os.makedirs(self.target(name), exist_ok=True)
        size = self.store.records[f"sha256:{name}"].size
        layer_mounting.mount_layer(str(self.stored(name)), self.target(name), size, None, way)

    def start(self, name: str) -> None:
        """Have a container stand on a layer."""
        self.mount(name)
        container = self.folder / f"container-{name[0]}"
        container.mkdir(exist_ok=True)
        syscalls.mount(self.target(name), str(container), "none", 1 << 12)

    def end(self, name: str) -> None:
        syscalls.unmount(str(self.folder / f"container-{name[0]}"))

    def content(self, name: str) -> bytes:
        return (self.folder / f"container-{name[0]}/file").read_bytes()

    def expected(self, name: str) -> bytes:
        return (self.folder / f"content-{name[0]}/file").read_bytes()

    def has_copy(self, name: str) -> bool:
        return os.path.exists(self.where.layer(name))

    def reads_copy(self, name: str) -> bool:
        """Whether the layer's mount reads the file at the copy's place."""
        source = [each.source for each in mountinfo.read() if each.target == self.target(name)][-1]
        (loop,) = loop_devices.beneath(source)
        seen = loop_devices.status(loop)
        try:
            wanted = os.stat(self.where.layer(name))
        except FileNotFoundError:
            return False
        return (seen.device, seen.inode) == (wanted.st_dev, wanted.st_ino)

    @contextlib.asynccontextmanager
    async def keeper(self, pool: workers.Pool | None = None) -> AsyncIterator[copies.Keeper]:
        """An agent's keeper, until it is killed."""
        async with contextlib.AsyncExitStack() as stack:
            if pool is None:
                pool = await stack.enter_async_context(
                    workers.Pool("agent.local.copy_worker", name="the test", size=1, kept=0)
                )
            keeper = copies.Keeper(
                self,
                pool,
                layer_copy.Copier(pool, self.files, rate=0),
                copy_records.Records(self.store, pool),
                starts.Needs(starts.Starts(served_pods.ServedPods()), (self.wishes,)),
                self.limits,
            )
            stack.callback(keeper.close)
            yield keeper

    async def settle(self, keeper: copies.Keeper) -> str:
        """Take steps until nothing is left to do; what the last one says."""
        sentence = ""
        for _ in range(50):
            keeper.look_now()
            sentence = await keeper.step()
            keeper.state.sentence = sentence
            if not keeper.has_more:
                return sentence
        raise AssertionError(f"it does not come to an end: {sentence}")


@contextlib.contextmanager
def world(folder: pathlib.Path) -> Iterator[World]:
    made = World(folder)
    try:
        yield made
    finally:
        for entry in reversed(mountinfo.read()):
            if entry.target.startswith(f"{folder}/"):
                syscalls.unmount(entry.target, syscalls.MNT_DETACH)
