"""Three nodes with real mounts, one store, one collector: layers go when nobody holds them."""

import dataclasses
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from agent.control.gc import roster
from agent.model import records
from agent.mounts import mount_users
from agent.store import decoding
from agent.store.gc import collection, generations
from agent.store.publish import writer
from tests.snapshotter import conftest, stores
from tests.unit.store import making

pytestmark = pytest.mark.root

REF = "containerd.io/snapshot.ref"
IMAGE = "registry.io/team/app:1"
LAYERS = ({"a": "1" * 70_000}, {"b": "2" * 70_000})


@dataclasses.dataclass
class Node:
    """A snapshotter of its own, and the agent's half of deleting: look, then acknowledge."""

    name: str
    snapshotter: conftest.Process
    acknowledged: int = 0

    def pull(self, chain_ids: list[str]) -> list[str]:
        """What containerd does; the names of the snapshots, top last."""
        names = [""]
        for chain_id in chain_ids:
            with pytest.raises(grpc.RpcError) as caught:
                self.snapshotter.prepare(f"extract-1 {chain_id}", names[-1], {REF: chain_id})
            assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
            found = self.snapshotter.walk(f'labels."{REF}"=={chain_id},parent=="{names[-1]}"')
            names.append(next(iter(found)))
        return names[1:]

    def let_go(self, names: list[str]) -> None:
        """What containerd does when an image is removed."""
        for name in reversed(names):
            self.snapshotter.remove(name)
        self.snapshotter.cleanup()

    def look(self, place) -> None:
        """Acknowledge what can be proven, from the snapshotter's list and the mount table."""
        newest = generations.newest(place)
        snapshots = {info.labels.get(REF) for info in self.snapshotter.walk().values()}
        layers = mount_users.of(f"{self.snapshotter.root}/layers")
        for number in range(self.acknowledged + 1, newest + 1):
            record = generations.content(place, number)
            for layer in record.layers if record is not None else ():
                short = layer.diff_id.removeprefix("sha256:")[:16]
                if short in layers.mounted or short in layers.used:
                    return
                if not snapshots.isdisjoint(layer.chains):
                    return
            self.acknowledged = number


class Cluster:
    """Three nodes and a collector for which everything announced has settled."""

    def __init__(self, folder: pathlib.Path, store: stores.Store) -> None:
        self.store = store
        self.place = store.layout
        self.nodes = []
        for name in ("n1", "n2", "n3"):
            (folder / name).mkdir()
            process = conftest.Process(folder / name, store.layout.root)
            self.nodes.append(Node(name, process))
        self.known: dict[str, records.KnownNode] = {}
        self.in_cluster = {node.name for node in self.nodes}
        self.announced: tuple[str, ...] = ()
        self.now = 0.0

    def create(self) -> list[str]:
        """Have the cache built (again); its chain."""
        chain = self.store.add_chain(*LAYERS) if not self.files() else self.again()
        made = [
            decoding.layer(self.place.layer_record(diff_id).read_bytes(), diff_id)
            for diff_id in self.diff_ids(chain)
        ]
        for data in making.blobs(IMAGE):
            writer.publish_blob(self.place, data)
        image = making.image_record(IMAGE, made)
        writer.publish_image(self.place, image)
        making.cache(self.place, "imc-app", image)
        return chain

    def again(self) -> list[str]:
        """A build that finds the layers in the store writes only the chains."""
        diff_ids = [stores.diff_id_of(contents) for contents in LAYERS]
        return self.store.publish_chain(diff_ids)

    def diff_ids(self, chain: list[str]) -> list[str]:
        return [
            decoding.chain(self.place.chain_record(one).read_bytes(), one).diff_id for one in chain
        ]

    def files(self) -> list[str]:
        return sorted(path.name for path in self.place.layer_files.glob("*/*.erofs"))

    def inodes(self) -> list[int]:
        return sorted(path.stat().st_ino for path in self.place.layer_files.glob("*/*.erofs"))

    def rounds(self, count: int) -> None:
        """Let collector and agents take turns."""
        for _ in range(count):
            here = [node for node in self.nodes if node.name in self.in_cluster]
            for node in here:
                node.look(self.place)
            seen = [roster.Node(node.name, node.acknowledged) for node in here]
            self.known = roster.merge(self.known, seen, now=self.now, grace=100.0)
            floor = roster.floor(self.known.values(), generations.newest(self.place))
            orders = collection.Orders(settled=self.announced, floor=floor)
            self.announced = collection.collect(self.place, orders).announced

    def until(self, what: Callable[[], bool]) -> None:
        """Wait: a snapshotter unmounts in its own time."""
        end = time.monotonic() + 60
        while not what():
            assert time.monotonic() < end
            self.rounds(1)
            time.sleep(0.05)


@pytest.fixture
def cluster(folder: pathlib.Path) -> Iterator[Cluster]:
    (folder / "store").mkdir()
    cluster = Cluster(folder, stores.Store(folder / "store"))
    try:
        yield cluster
    finally:
        for node in cluster.nodes:
            node.snapshotter.kill()


def is_whole(root: pathlib.Path) -> bool:
    """Whether a container reads all its files, from the store and not from memory."""
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")
    return [(root / name).read_text()[0] for name in ("a", "b")] == ["1", "2"]


def test_layers_go_when_the_last_node_has_let_go(cluster) -> None:
    chain = cluster.create()
    first, second, third = cluster.nodes
    running, idle = first.pull(chain), second.pull(chain)
    with first.snapshotter.mounted(first.snapshotter.prepare("c", running[-1])) as root:
        writer.delete_cache(cluster.place, "imc-app")
        cluster.rounds(6)
        assert is_whole(root)
        second.let_go(idle)
        cluster.until(lambda: second.acknowledged == 1)
        cluster.rounds(4)
        assert (third.acknowledged, first.acknowledged) == (1, 0)
        assert is_whole(root)
        first.snapshotter.kill()
        first.snapshotter.start()
        cluster.rounds(4)
        assert is_whole(root)
    first.snapshotter.remove("c")
    first.let_go(running)

    cluster.until(lambda: not cluster.files())
    assert [node.acknowledged for node in cluster.nodes] == [1, 1, 1]


def test_what_is_retired_is_served_to_nobody_new(cluster) -> None:
    chain = cluster.create()
    first, second, _ = cluster.nodes
    names = first.pull(chain)
    writer.delete_cache(cluster.place, "imc-app")
    cluster.rounds(4)

    assert cluster.files() != []
    assert second.snapshotter.prepare("extract-1", "", {REF: chain[0]}) != []
    with first.snapshotter.mounted(first.snapshotter.prepare("c", names[-1])) as root:
        assert is_whole(root)


def test_a_cache_that_is_created_again_keeps_the_files_that_nodes_hold(cluster) -> None:
    chain = cluster.create()
    first, second, _ = cluster.nodes
    names = first.pull(chain)
    before = cluster.inodes()
    with first.snapshotter.mounted(first.snapshotter.prepare("c", names[-1])) as root:
        writer.delete_cache(cluster.place, "imc-app")
        cluster.rounds(4)
        cluster.create()
        cluster.rounds(6)
        assert (cluster.inodes(), is_whole(root)) == (before, True)
        others = second.pull(chain)
    with second.snapshotter.mounted(second.snapshotter.prepare("c", others[-1])) as root:
        writer.delete_cache(cluster.place, "imc-app")
        first.snapshotter.remove("c")
        first.let_go(names)
        cluster.rounds(6)
        assert is_whole(root)


def test_a_node_that_the_cluster_has_lost_is_waited_for(cluster) -> None:
    chain = cluster.create()
    first, *_ = cluster.nodes
    names = first.pull(chain)
    cluster.rounds(1)
    with first.snapshotter.mounted(first.snapshotter.prepare("c", names[-1])) as root:
        cluster.in_cluster.remove("n1")
        writer.delete_cache(cluster.place, "imc-app")
        cluster.rounds(8)
        assert is_whole(root)

    cluster.now = 101.0
    cluster.rounds(4)
    assert cluster.files() == []


def test_a_collector_killed_anywhere_is_gone_on_with(cluster) -> None:
    """kill -9 before each change; a node reads on meanwhile."""
    chain = cluster.create()
    first, *_ = cluster.nodes
    names = first.pull(chain)
    with first.snapshotter.mounted(first.snapshotter.prepare("c", names[-1])) as root:
        writer.delete_cache(cluster.place, "imc-app")
        for place in ("generations:remove", "generations:move", "generations:publish_newest"):
            for when in ("before", "after"):
                for number in (1, 2, 3):
                    killed_round(cluster, f"agent.store.gc.{place}", when, number)
                    cluster.rounds(1)
                    assert is_whole(root)
    first.snapshotter.remove("c")
    first.let_go(names)
    cluster.until(lambda: not cluster.files())


def killed_round(cluster: Cluster, place: str, when: str, number: int) -> None:
    code = (
        "import pathlib, sys; from agent.store import layout;"
        "from agent.store.gc import collection;"
        "from tests import crashing; crashing.arm(*sys.argv[1:3], int(sys.argv[3]));"
        "collection.collect(layout.Layout(pathlib.Path(sys.argv[4])),"
        " collection.Orders(settled=sys.argv[6:], floor=float(sys.argv[5])))"
    )
    floor = min(node.acknowledged for node in cluster.nodes)
    arguments = [place, when, str(number), str(cluster.place.root), str(floor)]
    died = subprocess.run(
        [sys.executable, "-c", code, *arguments, *cluster.announced], timeout=60
    ).returncode
    assert died in (-9, 0)  # 0: this round has fewer such steps.
