"""The agent mounts the store, keeps it through its own ends, and heals a replaced export."""

import collections
import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from agent.model import images
from agent.model.starts import profile_codec, start_profiles
from agent.mounts import mountinfo, nfs, nfs_worker, syscalls, teardown
from agent.mounts.devices import layer_files, layer_mounting, loop_devices
from agent.settings import agent_settings
from agent.store import profile_files
from agent.store.lookup import chain_index
from lab.guest import nfsd
from tests.guest.inside import conftest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def node(store, registry, tmp_path_factory) -> Iterator[conftest.Node]:
    """A node that copies nothing: these tests are of what is read from the store's mount."""
    made = conftest.Node(tmp_path_factory.mktemp("n"), registry)
    made.agent.environment = {**made.agent.environment, "UIMGACC_LOCAL_BYTES": "0"}
    with made as running:
        running.warm()
        yield running


def run(client, node, name: str, script: str = conftest.READ_ALL) -> str:
    """Run a pod on the stored image to its end; what it said."""
    with client.pod(node.pod(name, conftest.STORED, script)) as pod:
        assert client.wait_for_exit(pod) == [0], pod.output
        return pod.output


def mount_table() -> list[str]:
    """NFS and layers, with the numbers that the kernel gave these mounts."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if " - nfs4 " in line or " - erofs " in line]


def test_a_pod_runs_from_the_export(node, client, registry) -> None:
    seconds = conftest.wait_until(node.capable)
    conftest.note(f"capable {seconds:.2f} s after the agent was ready")
    mark = registry.mark()
    node.schedule(node.pod("first", conftest.STORED, conftest.READ_ALL))
    seconds = conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    conftest.note(f"registered {seconds:.2f} s after the manifest appeared")
    run(client, node, "first")

    assert registry.layer_gets(mark) == []
    assert len(node.mounts()) == 1


def test_the_next_start_is_read_ahead_as_the_first_was_observed(node, client, store) -> None:
    """Even where nothing of the image is left: neither in containerd, nor in memory."""
    reference = images.parse_reference(node.reference(conftest.STORED))
    folder = node.root / "local" / "profiles"
    seconds = conftest.wait_until(lambda: profile_files.read(folder, reference))
    record = profile_files.read(folder, reference)
    assert record is not None
    profile = profile_codec.decode(record.profiles[0].profile)
    read = sum(file.stat().st_size for file in (store / "sha256").glob("*/*.erofs"))
    conftest.note(
        f"observed after {seconds:.1f} s: {profile.size >> 10} KiB in {len(profile.pieces)} pieces"
        f" of {read >> 10} KiB, {len(record.profiles[0].profile)} letters"
    )
    # The pod reads all files: what is missing are the layer's metadata and holes.
    assert 0.5 * read < profile.size <= read + start_profiles.UNIT * len(profile.layers)

    client.remove_image(node.reference(conftest.STORED))
    conftest.wait_until(lambda: not [line for line in mount_table() if " - erofs " in line])
    conftest.drop_caches()
    node.schedule(node.pod("ahead", conftest.STORED, conftest.READ_ALL))
    conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    conftest.wait_until(
        lambda: node.metric("uimgacc_read_ahead_bytes_total") >= profile.size - (1 << 20)
    )
    run(client, node, "ahead")

    conftest.wait_until(lambda: node.metric("uimgacc_start_bytes_total"))
    assert node.metric("uimgacc_read_ahead_stopped_total") == 0
    lines = node.get("/metrics").splitlines()
    conftest.note("; ".join(line for line in lines if line.startswith("uimgacc_start_bytes_total")))


def test_what_is_new_in_the_store_is_found_at_once(node, store) -> None:
    """A miss is not remembered, what was found for a few seconds, whatever is in it for long."""
    shown = node.place / "meta/chains/ab"
    (store / "meta/chains/ab").mkdir()
    for name in ("new", "replaced"):
        assert not (shown / name).exists()
        (store / "meta/chains/ab" / name).write_text("1")
        assert (shown / name).read_text() == "1"

    (store / "meta/chains/ab/draft").write_text("2")
    (store / "meta/chains/ab/draft").rename(store / "meta/chains/ab/replaced")
    seconds = conftest.wait_until(lambda: (shown / "replaced").read_text() == "2")
    conftest.note(f"a replaced record is seen after {seconds:.2f} s")


def test_look_ups_and_mounts_are_quick(node, store, tmp_path) -> None:
    """Figures for docs/operate/nfs.md; what is asserted is that they do what they should."""
    chain = min(path.stem for path in (store / "meta/chains").glob("*/*.json"))
    took: dict[str, list[float]] = collections.defaultdict(list)
    for number in range(5):
        conftest.drop_caches()
        for kind in ("look-up, cold", "look-up, warm"):
            with timed(took[kind]):
                found = chain_index.find_chain(str(node.place), chain)
            assert found is not None
        file = pathlib.Path(chain_index.file_of(str(node.place), chain_index.layer_of(found[0])))
        target = tmp_path / str(number)
        target.mkdir()
        with timed(took["mount of a layer"]):
            layer_mounting.mount_layer(str(file), str(target), file.stat().st_size)
        assert target.is_mount()
        syscalls.unmount(str(target))
        with timed(took["mount of the export, the server being known"]):
            options = nfs.attempts(nfs.parse_options(""))
            nfs_worker.mount(conftest.EXPORT, nfsd.ADDRESS, str(target), options)
        assert (target / "store.json").exists()
        assert nfs_worker.unmount(str(target))
    for kind, times in took.items():
        conftest.note(f"{kind}: {statistics.median(times) * 1000:.1f} ms")


@contextlib.contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Add the seconds of the block to a list."""
    started = time.perf_counter()
    yield
    times.append(time.perf_counter() - started)


def test_a_reader_notices_no_end_and_no_upgrade_of_ours(node, client) -> None:
    with conftest.Reader(node, client, "reader") as reader:
        before = mount_table()
        node.agent.end(signal.SIGKILL)
        reader.wait_for_more()
        node.start_agent()
        conftest.wait_until(node.capable)
        # As a rolling upgrade does it: both go, then both come, in whatever order.
        node.agent.end()
        node.snapshotter.end()
        reader.wait_for_more()
        node.start_snapshotter()
        node.start_agent()
        conftest.wait_until(node.capable)
        reader.wait_for_more()

        # The files' paths lack that of the mount now: the container that opened them has ended.
        run(client, node, "again")
        assert mount_table() == before
        assert node.mounts() == [mount for mount in node.mounts() if mount.endswith("-1")]


def read_ahead(mounted: str) -> pathlib.Path:
    """Where the kernel has the read-ahead of a mount."""
    number = os.stat(mounted).st_dev
    return pathlib.Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")


def test_the_stores_mount_is_read_ahead_as_the_agent_is_told(node) -> None:
    (mounted,) = node.mounts()
    wanted = f"{agent_settings.Agent(store=node.place).read_ahead_kb}\n"
    assert read_ahead(mounted).read_text() == wanted

    read_ahead(mounted).write_text("128")
    assert nfs_worker.read_ahead(mounted, 4096)
    assert not nfs_worker.read_ahead(mounted, 4096)
    assert read_ahead(mounted).read_text() == "4096\n"


def test_pods_go_on_after_the_export_was_replaced(node, client, server) -> None:
    (old,) = node.mounts()
    server.replace("store")
    seconds = conftest.wait_until(lambda: str(node.place.resolve()) != old)
    assert int(read_ahead(str(node.place.resolve())).read_text()) > 128
    conftest.note(f"healed {seconds:.2f} s after the export was replaced")
    conftest.wait_until(node.capable)

    assert (node.place / "store.json").exists()
    conftest.drop_caches()
    run(client, node, "after")
    # The old mount stays for as long as layers of it are mounted below the new ones.
    assert node.mounts() == [old, str(node.place.resolve())]


def test_out_of_service_only_what_is_ours_is_unmounted(node, tmp_path) -> None:
    """Layers, and both of the agent's mounts: that of the export that is gone is stale."""
    own = tmp_path / "fstab"
    own.mkdir()
    nfs_worker.mount(conftest.EXPORT, nfsd.ADDRESS, str(own), nfs.attempts(nfs.parse_options("")))
    node.agent.end()
    node.snapshotter.end()
    assert len(node.mounts()) == 2

    assert teardown.unmount("", str(node.root)) == []

    assert node.mounts() == []
    assert not [line for line in mount_table() if " - erofs " in line]
    assert (own / "store.json").exists()


class Layer:
    """A layer of the store on a mount of its own, at its place on a node, and its local copy."""

    def __init__(self, server: nfsd.Server, store: pathlib.Path, folder: pathlib.Path) -> None:
        largest = max((store / "sha256").glob("*/*.erofs"), key=lambda path: path.stat().st_size)
        exported = server.add("switched") / largest.parent.name / largest.name
        exported.parent.mkdir()
        shutil.copyfile(largest, exported)
        nfsd.mount("switched", folder / "nfs")
        self.stored = folder / "nfs" / largest.parent.name / largest.name
        self.target = folder / "root/layers" / largest.name[:16]
        self.target.mkdir(parents=True)
        self.size = largest.stat().st_size
        self._source = largest
        self.copy = pathlib.Path(layer_files.copy_of(str(self.target), largest.name))

    def mount(self) -> None:
        way = layer_mounting.LOOP
        layer_mounting.mount_layer(str(self.stored), str(self.target), self.size, None, way)

    def make_copy(self) -> None:
        self.copy.parent.mkdir(parents=True)
        shutil.copyfile(self._source, self.copy)

    def switch(self, file: pathlib.Path) -> float:
        """Returns the seconds that it took."""
        started = time.perf_counter()
        layer_mounting.switch_layer(str(self.target), str(file), self.size)
        return time.perf_counter() - started

    def read(self) -> dict[str, str]:
        """The hashes of all files."""
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.target.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }


@contextlib.contextmanager
def read_all_the_time(layer: Layer) -> Iterator[list[dict[str, str]]]:
    """Two readers; what they saw that was not as at first, or an error, is in the list."""
    over, wrong, first = threading.Event(), [], layer.read()

    def read() -> None:
        while not over.is_set():
            try:
                if (seen := layer.read()) != first:
                    wrong.append(seen)
            except OSError as error:
                wrong.append({"error": str(error)})

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        yield wrong
    finally:
        over.set()
        for reader in readers:
            reader.join()


def test_a_mount_is_switched_under_readers_and_survives_its_server(server, store, tmp_path) -> None:
    layer = Layer(server, store, tmp_path)
    layer.mount()
    layer.make_copy()
    took: dict[str, list[float]] = {"a copy": [], "the store": []}
    with read_all_the_time(layer) as wrong:
        for _ in range(int(os.environ.get("UIMGACC_SWITCHES", "15"))):
            for name, file in (("a copy", layer.copy), ("the store", layer.stored)):
                conftest.drop_caches()
                took[name].append(layer.switch(file))
    assert wrong == []
    for name, times in took.items():
        median, most = statistics.median(times) * 1000, max(times) * 1000
        conftest.note(f"{len(times)} switches to {name}: median {median:.1f}, most {most:.1f} ms")

    layer.switch(layer.copy)
    expected = layer.read()
    conftest.drop_caches()
    server.cut()
    assert layer.read() == expected
    server.mend()
    layer.switch(layer.stored)

    # A read that hangs: the kernel would wait for it, in a way that nothing can kill.
    conftest.drop_caches()
    server.cut()
    reader = threading.Thread(target=layer.read)
    reader.start()
    try:
        (loop,) = loop_devices.beneath(
            next(each.source for each in mountinfo.read() if each.target == str(layer.target))
        )
        conftest.wait_until(lambda: loop_devices._reads(loop)[1])
        with pytest.raises(BlockingIOError, match="reads of its present file hang"):
            layer.switch(layer.copy)
    finally:
        server.mend()
        reader.join()
    layer.switch(layer.copy)
    assert layer.read() == expected
    layer_mounting.unmount_layer(str(layer.target))
