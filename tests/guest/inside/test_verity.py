"""With `--verify always` no byte that was not built reaches a container, whatever the server sends.

Tests change one image in the store, at rest, as an attacker or a rotten disk on the server does;
what the node has in its caches is dropped, as time does. Each finds the image built anew where the
one before has changed it, and a node that has nothing of it.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from agent.model import images
from agent.mounts import mountinfo
from agent.mounts.devices import device_mapper
from agent.store import layout
from agent.store.lookup import direct_reader
from lab import processes
from lab.runtime import cri, nodes
from lab.web import registries
from tests.guest.inside import conftest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(500)]

BLOCK = 4096
IMAGE = conftest.STORED
LINES = "find / -xdev -type f | sort | xargs md5sum"
ALWAYS = ("--verify", "always", "--verify-seconds", "1")
CORRUPT = 'uimgacc_fallback_total{reason="corrupt_layer"}'
NOT_VERIFIABLE = 'uimgacc_fallback_total{reason="not_verifiable"}'


class Node(conftest.Node):
    """A node that verifies."""

    def __init__(self, folder: pathlib.Path, registry, export: str) -> None:
        super().__init__(folder, registry, export)
        self.metrics_port = processes.free_port()
        address = f"127.0.0.1:{self.metrics_port}"
        self.snapshotter.command += [*ALWAYS, "--metrics-address", address]

    def counted(self, line: str) -> float:
        """A line of the snapshotter's metrics; 0 while it is not there."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return sum(float(each.split()[-1]) for each in text.splitlines() if each.startswith(line))


@dataclasses.dataclass
class Export:
    """A store on the server with the image, which was built into it as it is now."""

    source: str
    """What nodes mount."""
    path: pathlib.Path
    registry: registries.Registry
    changed: bool = False

    def build(self) -> None:
        """Build what is not there, or known to be damaged."""
        command = [nodes.COMMAND, "create", "tests", "--image", f"{self.registry.address}/{IMAGE}"]
        command += ["--store", self.path, "--plain-http", self.registry.address]
        subprocess.run(command, check=True, timeout=100)

    def check(self) -> list[str]:
        """Look at all that was built; the kinds of what is wrong."""
        command = [nodes.COMMAND, "store", "check", "--store", self.path, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        kinds = [finding["kind"] for finding in json.loads(done.stdout)["findings"]]
        assert done.returncode == bool(kinds), done.stderr
        return kinds

    def heal(self) -> None:
        """Build again what a test has changed."""
        if self.changed:
            self.check()
            self.build()
            self.changed = False


@pytest.fixture(scope="module")
def built(server, registry) -> Export:
    made = Export(f"{conftest.nfsd.ADDRESS}:/verity", server.add("verity"), registry)
    made.build()
    return made


@pytest.fixture
def export(built) -> Export:
    built.heal()
    return built


@pytest.fixture(scope="module")
def running(built, registry, tmp_path_factory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("n"), registry, built.source) as made:
        made.warm()
        yield made


@pytest.fixture
def node(running, client, export) -> Node:
    """The node, with nothing of the image."""
    for manifest in running.pods.iterdir():
        manifest.unlink()
    client.remove_image(running.reference(IMAGE))
    conftest.wait_until(lambda: not layer_sources(running))
    conftest.wait_until(lambda: not devices())
    conftest.wait_until(running.capable)
    return running


@pytest.fixture(scope="module")
def client(running) -> Iterator[cri.Client]:
    with cri.Client(running.containerd.address, running.folder / "logs") as made:
        yield made


def layers(export: Export) -> list:
    """The records of the layers that are mounted for the image, bottom first."""
    reader = direct_reader.Reader(layout.Layout(export.path))
    image = reader.image(images.parse_reference(f"{export.registry.address}/{IMAGE}"))
    assert image is not None
    chains = [reader.chain(layer.chain_id) for layer in image.platforms[0].layers]
    found = [reader.layer(chain.diff_id) for chain in chains if chain is not None]
    return [record for record in found if record is not None]


def flip(export: Export, record, *places: int) -> None:
    """Change a bit at each of some places of a layer file on the server."""
    export.changed = True
    with layout.Layout(export.path).layer(record.diff_id).open("r+b") as file:
        for at in places:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
    conftest.drop_caches()


def change(export: Export, record) -> None:
    """Change many blocks of a layer, of content above all."""
    blocks = range(record.verity.data_blocks // 3, record.verity.data_blocks, 5)
    flip(export, record, *(block * BLOCK + 17 for block in blocks))


def devices() -> list[str]:
    """The dm devices, and the loop devices that are in use."""
    block = pathlib.Path("/sys/block")
    names = [path.name for path in block.glob("dm-*")]
    return names + [path.parent.parent.name for path in block.glob("loop*/loop/backing_file")]


def layer_sources(node: Node) -> list[str]:
    """What the node's layers are mounted from."""
    below = f"{node.root}/layers/"
    return [entry.source for entry in mountinfo.read() if entry.target.startswith(below)]


def read_all(client, node: Node, name: str) -> tuple[list[int], list[str]]:
    """Run a pod on the image that prints a line for each file that it can read."""
    with client.pod(node.pod(name, IMAGE, f"({LINES}) 2>/dev/null")) as pod:
        return client.wait_for_exit(pod), pod.output.splitlines()


def provide(node: Node, client, name: str) -> None:
    """Have the image registered for a pod."""
    node.schedule(node.pod(name, IMAGE, "true"))
    conftest.wait_until(lambda: node.is_registered(client, IMAGE))


def is_gone(node: Node, client) -> bool:
    return not node.is_registered(client, IMAGE)


MOUNT = """
import os, signal
from agent.mounts import syscalls
from agent.mounts.devices import layer_mounting

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

real_open = os.open

def open_or_die(path, *more):
    return die() if path.startswith("/dev/dm-") else real_open(path, *more)

{patch}
layer_mounting.mount_layer({source!r}, {target!r}, {size}, {tree!r})
print(sorted(os.listdir({target!r})))
"""
OWN_DEV = """
mount -t tmpfs dev /dev
mknod /dev/null c 1 3
mknod /dev/loop-control c 10 237
exec "$@"
"""


def mounting(record, store: pathlib.Path, target: pathlib.Path, patch: str = "") -> list[str]:
    """A command that mounts a layer; `patch` kills it on the way."""
    source = str(layout.Layout(store).layer(record.diff_id))
    verity = record.verity
    tree = (verity.root_hash, verity.salt, verity.data_blocks, verity.offset, "")
    words = {"source": source, "target": str(target), "size": record.size, "tree": tree}
    return [sys.executable, "-c", MOUNT.format(patch=patch, **words)]


def test_a_killed_process_leaves_no_device_for_good(tmp_path, export) -> None:
    """Killed before the device is open it leaves one, which the next start removes."""
    record = layers(export)[0]
    before = sorted(devices())
    for patch, left in (("os.open = open_or_die", 1), ("syscalls.mount = die", 0)):
        command = mounting(record, export.path, tmp_path, patch)
        assert subprocess.run(command, check=False, timeout=60).returncode < 0

        assert device_mapper.remove_unused() == left
        conftest.wait_until(lambda: sorted(devices()) == before)


def test_a_container_with_a_dev_of_its_own_can_mount(tmp_path, export) -> None:
    """It has no /dev/mapper, and none of the devices that the kernel makes."""
    record = layers(export)[0]
    command = ["unshare", "--mount", "sh", "-ec", OWN_DEV, "sh"]
    command += mounting(record, export.path, tmp_path)

    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)

    assert "bin" in done.stdout, done.stderr
    conftest.wait_until(lambda: not devices())


def test_a_pod_runs_from_verified_layers(node, client, registry) -> None:
    mark = registry.mark()
    provide(node, client, "good")
    status, output = read_all(client, node, "good")

    assert status == [0], output
    assert registry.layer_gets(mark) == []
    assert layer_sources(node)
    assert all(source.startswith("/dev/dm-") for source in layer_sources(node))

    before = layer_sources(node), sorted(devices())
    node.snapshotter.end()
    node.start_snapshotter()
    assert read_all(client, node, "again") == (status, output)
    assert (layer_sources(node), sorted(devices())) == before

    client.remove_image(node.reference(IMAGE))
    conftest.wait_until(lambda: not layer_sources(node))
    conftest.wait_until(lambda: not devices())


def test_a_flipped_byte_is_never_content_and_the_image_is_pulled(
    node, client, registry, export
) -> None:
    before = node.counted("uimgacc_corrupt_layers_total"), node.counted(CORRUPT)
    provide(node, client, "first")
    status, expected = read_all(client, node, "first")
    assert status == [0]
    top = layers(export)[-1]
    running = client.run_pod(node.pod("running", IMAGE, "sleep 1000"))
    change(export, top)

    _, seen = read_all(client, node, "flipped")

    assert set(seen) < set(expected)
    conftest.wait_until(lambda: node.counted("uimgacc_corrupt_layers_total") > before[0])
    log = node.snapshotter.said()
    assert top.diff_id in log
    # The agent has the image pulled from now on.
    conftest.wait_until(lambda: is_gone(node, client), seconds=120)
    mark = registry.mark()
    assert read_all(client, node, "pulled") == ([0], expected)
    assert registry.layer_gets(mark)
    assert node.counted(CORRUPT) > before[1]
    # What was sound of the old container's files still is, and it keeps what it writes.
    write = ["sh", "-c", "echo kept > /kept && cat /kept"]
    assert client.execute(running.containers[0], write) == (0, "kept\n")
    client.remove_pod(running)

    assert export.check() == ["damaged"]
    export.heal()
    assert export.check() == []
    client.remove_image(node.reference(IMAGE))
    mark = registry.mark()
    provide(node, client, "healed")
    assert read_all(client, node, "healed") == ([0], expected)
    assert registry.layer_gets(mark) == []


def test_a_layer_that_cannot_even_be_mounted_is_left_to_the_pull(
    node, client, registry, export
) -> None:
    before = node.counted("uimgacc_corrupt_layers_total"), node.counted(CORRUPT)
    for record in layers(export):
        flip(export, record, 1024 + 100)
    mark = registry.mark()

    status, output = read_all(client, node, "pulled")

    assert status == [0], output
    assert registry.layer_gets(mark)
    assert node.counted("uimgacc_corrupt_layers_total") > before[0]
    assert node.counted(CORRUPT) > before[1]


def test_layers_without_trees_are_served_once_they_have_them(
    node, client, registry, export
) -> None:
    before = node.counted(NOT_VERIFIABLE)
    place = layout.Layout(export.path)
    for record in layers(export):
        path = place.layer_record(record.diff_id)
        old = json.loads(path.read_text())
        del old["verity"]
        path.write_text(json.dumps(old))
    mark = registry.mark()
    _, expected = read_all(client, node, "pulled")
    assert registry.layer_gets(mark)
    assert node.counted(NOT_VERIFIABLE) > before
    client.remove_image(node.reference(IMAGE))

    command = [nodes.COMMAND, "store", "verity", "--store", export.path]
    subprocess.run(command, check=True, timeout=60)
    mark = registry.mark()
    provide(node, client, "later")

    assert read_all(client, node, "later") == ([0], expected)
    assert registry.layer_gets(mark) == []
    assert all(source.startswith("/dev/dm-") for source in layer_sources(node))


def test_what_ran_without_verification_is_verified_after_a_restart(node, client, export) -> None:
    """Without it, what somebody has changed on the server is content: that is the attack."""
    node.snapshotter.end()
    command = node.snapshotter.command
    node.snapshotter.command = [word for word in command if word not in ALWAYS[:2]]
    node.start_snapshotter()
    provide(node, client, "before")
    _, expected = read_all(client, node, "before")
    assert not [source for source in layer_sources(node) if source.startswith("/dev/dm-")]

    change(export, layers(export)[-1])
    _, changed = read_all(client, node, "changed")
    assert set(changed) - set(expected)

    node.snapshotter.end()
    node.snapshotter.command = command
    node.start_snapshotter()

    _, verified = read_all(client, node, "after")
    assert set(verified) < set(expected)
    assert [source for source in layer_sources(node) if source.startswith("/dev/dm-")]
