"""Pods in user namespaces (`hostUsers: false`) on real containerds, through the CRI.

containerd 1.7 starts them with the machine's runc, 2 asks for one that it calls able (1.2).
"""

import contextlib
import os
import pathlib
import struct
from collections.abc import Iterator

import pytest

from agent.mounts import mountinfo
from lab.runtime import cri
from tests import waiting
from tests.containerd import conftest, trees

pytestmark = [pytest.mark.root, pytest.mark.containerd]

FIRST, IDS = cri.FIRST_ID, cri.IDS
SLEEP = ("sh", "-c", "echo ready; exec sleep 1000")
CAPABILITY = b"security.capability"


@pytest.fixture
def passable(folder: pathlib.Path) -> pathlib.Path:
    """The folder of a node, which a container's root comes through: it is nobody there."""
    os.chmod(folder, 0o711)
    return folder


@pytest.fixture
def node(version, passable, registry, pristine):
    made = conftest.Node(version, passable, registry, pristine, newer_runc=version != "1.7")
    yield from conftest.opened(made)


@pytest.fixture
def client(node):
    with node.containerd.cri() as opened:
        yield opened


def manifest(node, image: str, *, host_users: bool, handler: str = "uimgacc", **more) -> dict:
    made = cri.manifest("pod", node.reference(image), command=SLEEP, handler=handler, **more)
    made["spec"]["hostUsers"] = host_users
    return made


@contextlib.contextmanager
def running(client, made: dict) -> Iterator[cri.Pod]:
    with client.pod(made, handler=made["spec"].get("runtimeClassName", "")) as pod:
        client.wait_for_output(pod, "ready")
        yield pod


def root_of(node, pod: cri.Pod, at: int = 0) -> pathlib.Path:
    tasks = node.containerd.state / "io.containerd.runtime.v2.task/k8s.io"
    return tasks / pod.containers[at].id / "rootfs"


def tree(node, pod: cri.Pod, first: int = 0) -> dict:
    """The root of a container, each owner as the container sees it."""
    entries = trees.describe(os.fsencode(root_of(node, pod)))
    for entry in entries.values():
        entry["owner"] = tuple(
            one - first if first <= one < first + IDS else "nobody" for one in entry["owner"]
        )
        xattrs = entry["xattrs"]
        if first and CAPABILITY.decode() in map(os.fsdecode, xattrs):
            name = next(each for each in xattrs if os.fsencode(each) == CAPABILITY)
            magic, *sets, root = struct.unpack("<6I", xattrs[name])
            # Revision 3: of the namespace whose root is this one of the node.
            assert (magic >> 24, root) == (3, first)
            xattrs[name] = struct.pack("<5I", 2 << 24 | magic & 1, *sets)
    return entries


@pytest.mark.parametrize("image", ["lab/odd:1", "lab/layers127:1"])
def test_the_tree_is_the_one_without_a_user_namespace(node, client, image) -> None:
    mark = node.registry.mark()
    with running(client, manifest(node, image, host_users=False)) as pod:
        ours = tree(node, pod, FIRST)
        assert node.registry.layer_gets(mark) == []
        # No byte of the image is on the node's disk: what is there is what containerd has written.
        held = node.snapshotter.root / "s"
        sizes = [path.lstat().st_size for path in held.rglob("*") if path.is_file()]
        assert sum(sizes) < 4096
        assert not [name for name in node.snapshotter.walk() if "-remap" in name]
    # Which is that of containerd's own unpack: test_fidelity.
    with running(client, manifest(node, image, host_users=True)) as pod:
        theirs = tree(node, pod)

    assert len(theirs) > 5
    assert {entry["mode"] for entry in theirs.values()} & {"0o4755", "0o600", "0o755"}
    assert trees.differences(theirs, ours, unpacked_after=0) == []


def test_what_containers_of_a_pod_write_is_owned_by_them(node, client) -> None:
    made = manifest(node, "lab/layers2:1", host_users=False)
    made["spec"]["containers"].append({**made["spec"]["containers"][0], "name": "second"})
    with running(client, made) as pod:
        for at, container in enumerate(pod.containers):
            script = (
                "id -u; touch /of-root; chown 1000:33 /of-root; echo x >> /etc/passwd;"
                " chmod 4711 /bin; stat -c %u:%g:%a / /of-root /etc/passwd /bin; ls -R /layers"
            )
            code, output = client.execute(container, ["sh", "-c", script])

            assert (code, output.split()[:5]) == (
                0,
                ["0", "0:0:755", "1000:33:644", "0:0:644", "0:0:4711"],
            )
            root = root_of(node, pod, at)
            options = next(e.options for e in mountinfo.read() if e.target == str(root))
            upper = pathlib.Path(
                dict(o.partition("=")[::2] for o in options.split(","))["upperdir"]
            )
            owners = {
                name: (upper / name).stat()[4:6] for name in ("", "of-root", "etc/passwd", "bin")
            }
            assert owners == {
                "": (FIRST, FIRST),
                "of-root": (FIRST + 1000, FIRST + 33),
                "etc/passwd": (FIRST, FIRST),
                "bin": (FIRST, FIRST),
            }


def test_a_restart_of_the_snapshotter_and_the_end_of_a_pod(node, client) -> None:
    with running(client, manifest(node, "lab/layers40:1", host_users=False)) as pod:
        node.snapshotter.kill()
        assert client.execute(pod.containers[0], ["ls", "-R", "/layers"])[0] == 0
        node.start_snapshotter()
        other = manifest(
            node,
            "lab/layers40:1",
            host_users=False,
            annotations={cri.HOST_IDS: str(2 * FIRST)},
        )
        other["metadata"]["name"] = "other"
        with running(client, other) as second:
            assert root_of(node, pod).stat().st_uid == FIRST
            assert root_of(node, second).stat().st_uid == 2 * FIRST
            code, output = client.execute(second.containers[0], ["stat", "-c", "%u", "/layers"])
            assert (code, output.strip()) == (0, "0")
    # Which has containerd collect what nothing needs, the containers' snapshots as well.
    for image in client.list_images():
        client.remove_image(image.id)
    below = f"{node.snapshotter.root}/"
    waiting.wait_until(lambda: not [e for e in mountinfo.read() if e.target.startswith(below)])


def test_an_image_that_is_not_in_the_store(node, client) -> None:
    with running(client, manifest(node, "lab/estargz:1", host_users=False)) as pod:
        ours = tree(node, pod, FIRST)
        assert not [name for name in node.snapshotter.walk() if "-remap" in name]
    assert {entry["owner"] for entry in ours.values()} == {(0, 0)}


@pytest.mark.parametrize("version", ["2"])
def test_without_the_capability_containerd_copies_the_image(
    version, passable, registry, pristine
) -> None:
    """What a node does whose kernel maps no ids, and what each node did before."""
    made = conftest.Node(version, passable, registry, pristine, newer_runc=True, capabilities=())
    for node in conftest.opened(made):
        with (
            node.containerd.cri() as client,
            running(client, manifest(node, "lab/layers40:1", host_users=False)) as pod,
        ):
            code, output = client.execute(pod.containers[0], ["stat", "-c", "%u", "/layers"])
            assert (code, output.strip()) == (0, "0")
            # The folder of the copy has every file of the image.
            files = list((node.snapshotter.root / "s").rglob("layers/*"))
            assert len(files) >= 40


@pytest.mark.parametrize("version", ["2"])
def test_several_ranges_by_ctr(node) -> None:
    node.pull("lab/layers2:1")
    maps = ("0:100000:1000", "1000:300000:60000")
    flags = [f"--{kind}={each}" for kind in ("uidmap", "gidmap") for each in maps]
    script = "touch /a /b; chown 1000:1000 /b; stat -c %u:%g / /layers /a /b"
    output = node.containerd.ctr(
        *("run", "--rm", "--snapshotter", "uimgacc", "--remap-labels", *flags),
        *(node.reference("lab/layers2:1"), "ranges", "sh", "-c", script),
    )

    assert output.split() == ["0:0", "0:0", "0:0", "1000:1000"]
