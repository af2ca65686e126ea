"""SELinux, enforcing: what containers may read of layers with a label, and of layers without.

The reader is a process of the type that the policy has for containers; what it reads is an image
volume, as only the files of the container itself get the container's label from containerd.
"""

import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.kits.processes import workers
from agent.mounts import layer_mounts, mountinfo, syscalls
from agent.mounts.devices import layer_labels, layer_mounting
from agent.setup.doctor import checks, selinux_check
from lab.kernels import selinux

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("policy")]

OF_A_CONTAINER = "system_u:object_r:container_file_t:s0"
AS_A_CONTAINER = """
import os, sys
os.chroot(sys.argv[1])
os.chdir("/")
# Its own descriptors are the test's: none of them is the container's.
with open("/proc/thread-self/attr/exec", "w") as file:
    file.write(sys.argv[2])
os.execv("/bin/busybox", ["busybox", "cat", "/volume/file"])
"""


class Layers:
    """Two layers of an image, one with a program and one with a file, at their places."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        trees = folder / "program", folder / "file"
        for name in ("bin", "proc", "volume"):
            (trees[0] / name).mkdir(parents=True)
        (folder / "empty").mkdir()
        shutil.copy("/bin/busybox", trees[0] / "bin")
        trees[1].mkdir()
        (trees[1] / "file").write_text("content")
        self.files = []
        for number, tree in enumerate(trees):
            name = f"{number}" * 64
            file = folder / f"store/sha256/{name[:2]}/{name}.erofs"
            file.parent.mkdir(parents=True)
            subprocess.run(["mkfs.erofs", "--quiet", "-zlz4", file, tree], check=True)
            self.files.append(file)
        self.targets = [self.root / "layers" / file.stem[:16] for file in self.files]
        for target in self.targets:
            target.mkdir(parents=True)
        selinux.label(self.root, "system_u:object_r:container_var_lib_t:s0")

    def mount(self, way: str, label: str) -> None:
        for file, target in zip(self.files, self.targets, strict=True):
            size = file.stat().st_size
            layer_mounting.mount_layer(str(file), str(target), size, None, way, label)

    def labels(self) -> list[str]:
        """What each mount of theirs is labelled with, oldest first."""
        below = f"{self.root}/layers/"
        return [layer_labels.of(each) for each in mountinfo.read() if each.target.startswith(below)]

    def read(self) -> subprocess.CompletedProcess[str]:
        """Read the file in a container, to which the layers are an image volume.

        Its own files containerd mounts with the container's label, the volume's as they are.
        """
        place = self.folder / "container"
        place.mkdir(exist_ok=True)
        own = f"lowerdir={self.targets[0]}:{self.folder / 'empty'}"
        layers = f"lowerdir={':'.join(map(str, self.targets))}"
        mounts = {
            place: ("overlay", f"{own},{layer_labels.options(OF_A_CONTAINER)}"),
            place / "volume": ("overlay", layers),
            place / "proc": ("proc", ""),
        }
        for target, (kind, options) in mounts.items():
            flags = syscalls.MS_RDONLY if kind == "overlay" else 0
            syscalls.mount(kind, str(target), kind, flags, options)
        selinux.enforce(on=True)
        try:
            done = subprocess.run(
                [sys.executable, "-c", AS_A_CONTAINER, place, selinux.CONTAINER],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            selinux.enforce(on=False)
            for target in reversed(mounts):
                syscalls.unmount(str(target))
        done.stderr += selinux.denials()
        return done

    def close(self) -> None:
        for target in self.targets:
            layer_mounting.unmount_layer(str(target))


@pytest.fixture
def layers(tmp_path) -> Iterator[Layers]:
    made = Layers(tmp_path)
    yield made
    made.close()


async def label(wanted: str = layer_labels.AUTO) -> layer_labels.State:
    """What SELinux is here, as the snapshotter finds it."""
    name = "agent.mounts.devices.layer_labels"
    async with workers.Pool(name, name="the test", size=1) as pool:
        return layer_labels.State(*await pool.call("state", wanted, deadline=60))


async def test_the_label_is_the_policys_for_images() -> None:
    found = await label()

    assert found == ("permissive", "system_u:object_r:container_ro_file_t:s0", "")


async def test_a_label_is_the_settings_or_none() -> None:
    own = "system_u:object_r:container_file_t:s0:c1,c2"

    assert (await label(own)).label == own
    assert (await label(layer_labels.OFF)) == ("permissive", "", "")
    unknown = await label("system_u:object_r:no_such_t:s0")
    assert unknown.label == ""
    assert "no_such_t" in unknown.problem


@pytest.mark.parametrize("way", [layer_mounting.STORED, layer_mounting.FILE, layer_mounting.LOOP])
async def test_a_container_may_read_what_is_mounted(way, layers) -> None:
    """Mounted from files it might not: it would have to be allowed to read the layers' files."""
    layers.mount(way, (await label()).label)

    done = layers.read()

    assert (done.returncode, done.stdout) == (0, "content"), done.stderr
    assert layers.labels() == ["system_u:object_r:container_ro_file_t:s0"] * 2


async def test_without_a_label_it_may_not(layers) -> None:
    """That is what the label is for: this test fails where the policy refuses nothing."""
    layers.mount(layer_mounting.LOOP, "")

    done = layers.read()

    assert done.returncode != 0
    assert "Permission denied" in done.stderr
    assert layers.labels() == ["", ""]


async def test_what_was_mounted_without_is_mounted_anew_for_new_containers(layers) -> None:
    layers.mount(layer_mounting.LOOP, "")
    with (layers.targets[1] / "file").open() as running:
        wanted = (await label()).label
        async with workers.Pool(
            "agent.snapshotter.lookup.store_worker", name="the test", size=1
        ) as pool:
            table = layer_mounts.LayerMounts(
                layers.root / "layers",
                pool,
                deadline=60,
                manner=layer_mounts.Manner(way=layer_mounting.LOOP, label=wanted),
            )
            table.adopt()
            names = [f"sha256:{file.stem}" for file in layers.files]
            assert table.missing(names) == names
            for name, file in zip(names, layers.files, strict=True):
                await table.ensure(name, file, file.stat().st_size)
            assert table.missing(names) == []
        assert layers.labels() == ["", "", wanted, wanted]
        assert running.read() == "content"
    assert layers.read().stdout == "content"


async def test_the_doctor_names_layers_without_a_label(layers) -> None:
    layers.mount(layer_mounting.LOOP, "")
    selinux.enforce(on=True)
    try:
        found = await selinux_check.examine(layers.root, layer_labels.AUTO, deadline=60)
    finally:
        selinux.enforce(on=False)

    assert [finding.level for finding in found] == [checks.Level.OK, checks.Level.FAIL]
    assert "enforcing" in found[0].what
    assert "2 layers" in found[1].what


async def test_the_doctor_names_a_folder_without_a_label(layers) -> None:
    layers.mount(layer_mounting.LOOP, (await label()).label)
    selinux.label(layers.root, "system_u:object_r:default_t:s0")

    found = await selinux_check.examine(layers.root, layer_labels.AUTO, deadline=60)

    assert [finding.level for finding in found] == [checks.Level.OK, checks.Level.WARN]
    assert "default_t" in found[1].what
    assert "restorecon" in found[1].fix


async def test_the_doctor_names_a_label_that_the_policy_does_not_know(layers) -> None:
    found = await selinux_check.examine(layers.root, "system_u:object_r:no_such_t:s0", deadline=60)

    assert found[0].level is checks.Level.WARN
    assert "no_such_t" in found[0].what
