"""Taking our mounts and files off a node: only ours, and only what nobody uses."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from agent.mounts import nfs

pytestmark = pytest.mark.root

# In mounts of its own, which end with it. What it is told on stdin it does, and answers.
SCRIPT = """
import json, pathlib, subprocess, sys
from agent.mounts import mountinfo, syscalls, teardown
from agent.mounts.devices import layer_mounting
from agent.mounts.idmaps import mapped_folders
from agent.setup.doctor import trial_mounts

def mount(target):
    pathlib.Path(target).mkdir(parents=True)
    syscalls.mount("none", target, "tmpfs", 0)

def cover(target):
    pathlib.Path(target).mkdir(parents=True, exist_ok=True)
    syscalls.mount("none", target, "tmpfs", 0)

def share(target):
    pathlib.Path(target).mkdir(parents=True, exist_ok=True)
    syscalls.share(target)

def layer(target):
    import base64, zlib
    image = pathlib.Path(target + ".erofs")
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(zlib.decompress(base64.b64decode(trial_mounts._IMAGE)))
    pathlib.Path(target).mkdir()
    layer_mounting.mount_layer(str(image), target, image.stat().st_size)

def show(folder, target):
    mapped_folders.show_folders([(folder, target, "0 65536 65536\\n", "0 65536 65536\\n")])

started = []

def sit(folder):
    started.append(subprocess.Popen(["sleep", "600"], cwd=folder))
    return started[-1].pid

def contain(lower, target):
    # A container: an overlay on a layer, in mounts of its own.
    pathlib.Path(target).mkdir()
    overlay = f"mount -t overlay -o lowerdir={lower}:{target} none {target}"
    command = f"{overlay} && echo && exec sleep 600"
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", command], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    started.append(process)
    return process.pid

def see(inside):
    # node_exporter: a container that sees the node's files, and what is mounted there later.
    pathlib.Path(inside).mkdir()
    command = f"mount --rbind / {inside} && echo && exec sleep 600"
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-c", command],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    started.append(process)
    return process.pid

def bind(source, target):
    pathlib.Path(target).mkdir()
    subprocess.run(["mount", "--bind", source, target], check=True)

def unbind(target):
    subprocess.run(["umount", target], check=True)

def seen_by(process, folder):
    # Kernels before 6.8 have them in another order.
    return sorted(each.target for each in mountinfo.read(process) if folder in each.target)

def end(_=None):
    while started:
        started[-1].kill()
        started.pop().wait()

def mounted(folder):
    return [each.target for each in mountinfo.read() if each.target.startswith(folder)]

known = {**globals(), **teardown.OPERATIONS}
for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        print(json.dumps(known[name](*arguments)), flush=True)
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
end()
"""


class Machine:
    """A node's mounts and the folders where we are on it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.root = folder / "containerd" / "snapshots"
        self.store = folder / "uimgacc" / "store"
        self.state = folder / "uimgacc" / "agent"
        self.links = folder / "uimgacc" / "native"
        self.mounts = folder / "uimgacc" / "store.mounts"
        self._folder = folder
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, name: str, *arguments: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([name, *map(str, arguments)]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def unmount(self) -> list[tuple[str, str, list[tuple[int, str, str]]]]:
        return self.do("unmount", "", self.root)

    def remove(self) -> Any:
        return self.do("remove", "", self.root, self.store, self.state, self.links)

    def mounted(self) -> list[str]:
        return self.do("mounted", self._folder)

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


def test_ours_goes_and_the_administrator_s_store_stays(machine: Machine) -> None:
    layer = machine.root / "layers" / "0123456789abcdef"
    machine.do("layer", layer)
    machine.do("mount", machine.store)
    machine.do("mount", machine.mounts / "00c0ffee-2")
    machine.do("mount", machine.mounts / "by-hand")

    assert machine.unmount() == []

    assert machine.mounted() == [str(machine.store), str(machine.mounts / "by-hand")]
    assert machine.remove() is None
    assert not machine.root.exists()
    assert machine.store.is_dir()


def test_what_is_open_stays_and_who_has_it_open_is_told(machine: Machine) -> None:
    target = machine.mounts / "00c0ffee-1"
    machine.do("mount", target)
    process = machine.do("sit", target)

    ((path, reason, users),) = machine.unmount()

    assert (path, reason) == (str(target), os.strerror(16))
    assert [(user[0], user[1]) for user in users] == [(process, "sleep")]
    machine.do("end")
    assert machine.unmount() == []
    assert machine.mounted() == []


def test_a_layer_under_a_container_that_nobody_knows_stays(
    machine: Machine, tmp_path: pathlib.Path
) -> None:
    """The kernel would let it go: an overlay holds its layers without keeping them busy."""
    used, idle = (machine.root / "layers" / f"{digit}123456789abcdef" for digit in "01")
    machine.do("layer", used)
    machine.do("layer", idle)
    rootfs = tmp_path / "rootfs"
    process = machine.do("contain", used, rootfs)

    ((path, reason, users),) = machine.unmount()

    assert (path, reason) == (str(used), f"{rootfs} stands on it")
    assert process in [user[0] for user in users]
    assert machine.mounted() == [str(used)]
    assert "mounted" in machine.remove()["error"]
    assert machine.root.exists()
    machine.do("end")
    assert machine.unmount() == []


def test_what_is_shown_to_user_namespaces_goes_unless_a_container_stands_on_it(
    machine: Machine, tmp_path: pathlib.Path
) -> None:
    layer = machine.root / "layers" / "0123456789abcdef"
    shown = machine.root / "m" / "7" / "layers" / layer.name
    machine.do("layer", layer)
    machine.do("show", layer, shown)
    rootfs = tmp_path / "rootfs"
    machine.do("contain", shown, rootfs)

    left = machine.unmount()

    assert {path: reason for path, reason, _ in left} == {
        str(path): f"{rootfs} stands on it" for path in (layer, shown)
    }
    machine.do("end")
    assert machine.unmount() == []
    assert machine.mounted() == []
    assert machine.remove() is None
    assert not machine.root.exists()


def test_what_others_only_see_of_a_layer_goes_with_it(
    machine: Machine, tmp_path: pathlib.Path
) -> None:
    layer = machine.root / "layers" / "0123456789abcdef"
    machine.do("share", machine.root)
    process = machine.do("see", tmp_path / "host")
    machine.do("layer", layer)
    seen = sorted([str(layer), f"{tmp_path}/host{layer}"])
    assert machine.do("seen_by", process, layer) == seen
    view = tmp_path / "view"
    machine.do("bind", layer, view)

    ((path, reason, _),) = machine.do("unmount", "", machine.root)

    assert (path, reason) == (str(layer), f"{view} stands on it")
    assert machine.do("seen_by", process, layer) == seen
    machine.do("unbind", view)
    assert machine.unmount() == []
    assert machine.do("seen_by", process, layer) == []


def test_files_and_the_link_to_our_mount_go_and_others_stay(machine: Machine) -> None:
    (machine.root / "snapshots" / "1" / "fs").mkdir(parents=True)
    (machine.root / "metadata.db").touch()
    machine.state.mkdir(parents=True)
    (machine.state / "ledger.json").touch()
    (machine.mounts / "00c0ffee-1").mkdir(parents=True)
    (machine.mounts / "00c0ffee-1").rmdir()
    machine.store.symlink_to("store.mounts/00c0ffee-1")

    assert machine.remove() is None
    assert machine.remove() is None

    assert not machine.root.exists()
    assert not machine.store.parent.exists()


def test_folders_that_set_up_has_shared_are_mounted_no_more(machine: Machine) -> None:
    machine.do("share", machine.root)
    machine.do("share", machine.store.parent)
    (machine.root / "metadata.db").touch()

    assert machine.remove() is None

    assert machine.mounted() == []
    assert not machine.root.exists()
    assert not machine.store.parent.exists()


def test_so_are_they_where_one_mount_hides_another(machine: Machine) -> None:
    for _ in range(2):
        machine.do("cover", machine.root.parent)
    machine.do("share", machine.root)

    assert machine.remove() is None

    assert machine.mounted() == [str(machine.root.parent)] * 2


def test_a_shared_folder_in_which_somebody_has_mounted_something_stays(machine: Machine) -> None:
    machine.do("share", machine.store.parent)
    machine.do("mount", machine.store)

    assert machine.remove() is None

    assert machine.mounted() == [str(machine.store.parent), str(machine.store)]


def test_a_file_system_of_its_own_is_not_one_that_set_up_has_shared(machine: Machine) -> None:
    machine.do("mount", machine.root)

    assert machine.remove() is None

    assert machine.mounted() == [str(machine.root)]


def test_a_link_of_somebody_else_s_stays(machine: Machine) -> None:
    machine.store.parent.mkdir(parents=True)
    machine.store.symlink_to("/srv/store")

    machine.remove()

    assert machine.store.is_symlink()


def test_a_mount_is_known_by_its_place(tmp_path: pathlib.Path) -> None:
    aim = nfs.wanted("10.0.0.1:/x", "", tmp_path / "store")
    planned = nfs.plan(aim, nfs.Seen(""))

    assert nfs.is_agents_mount(planned.mount)
    for other in ("/var/lib/uimgacc/store", "/a.mounts/x-1", "/a.mounts/00c0ffee-1/b", "/data"):
        assert not nfs.is_agents_mount(other)
