"""Main files of every version, another tool's drop-in of every version, real containerds.

A node must start containerd after node set-up wherever it did before, or be refused and left
alone; and what another tool wrote stays as it is. Rules: agent.setup.config.settings_view.
"""

import os
import pathlib
import tomllib

import pytest

from agent import errors
from agent.setup.config import containerd_binary, inputs, settings_view
from agent.setup.node import apply, config_reader, host
from lab import places

LAB_2 = places.CONTAINERDS["2"]
BINARIES = [pathlib.Path(os.environ.get("UIMGACC_CONTAINERD") or LAB_2) / "containerd"]
if BINARIES[0].parent != LAB_2:
    BINARIES.append(LAB_2 / "containerd")

ROOTS = ("absent", "none", "1", "2", "3", "4")
OTHERS = ("nothing", "none", "1", "2", "3", "4")

pytestmark = [
    pytest.mark.skipif(not BINARIES[0].exists(), reason="lab/setup was not run"),
    pytest.mark.parametrize("binary", BINARIES, ids=lambda path: path.parent.name),
    pytest.mark.parametrize("other", OTHERS, ids=lambda version: f"other-{version}"),
    pytest.mark.parametrize("root", ROOTS, ids=lambda version: f"root-{version}"),
]


def versioned(version: str, text: str) -> str:
    return text if version == "none" else f"version = {version}\n{text}"


def handler(version: str) -> str:
    """A runtime handler as another tool adds it, in the words of a version."""
    settings = 'runtime_type = "io.containerd.runc.v2"\n'
    names = {
        "none": "plugins.cri.containerd",
        "1": "plugins.cri.containerd",
        "2": 'plugins."io.containerd.grpc.v1.cri".containerd',
    }
    table = names.get(version, "plugins.'io.containerd.cri.v1.runtime'.containerd")
    return versioned(version, f"[{table}.runtimes.nvidia]\n{settings}")


class Node:
    """A folder with containerd's configuration, and a containerd that reads it."""

    def __init__(self, folder: pathlib.Path, binary: pathlib.Path, root: str) -> None:
        self.main = folder / "config.toml"
        self.other = folder / "conf.d" / "99-nvidia.toml"
        self.own = folder / "conf.d" / inputs.DROP_IN
        self.binary = str(binary)
        self.release = containerd_binary.release_of(self.binary)
        folder.mkdir(parents=True, exist_ok=True)
        if root != "absent":
            self.main.write_text(versioned(root, ""))

    @property
    def starts(self) -> bool:
        """Whether containerd reads its configuration."""
        try:
            self.view()
        except containerd_binary.ContainerdError:
            return False
        return True

    def view(self) -> settings_view.View:
        """What containerd makes of the files."""
        text = containerd_binary.dump(self.binary, str(self.main))
        return containerd_binary.view_of_dump(text, self.release)

    def add_other(self, version: str) -> None:
        """Another tool adds its drop-in, and the import of its folder, as NVIDIA's toolkit does."""
        if version == "nothing":
            return
        self.other.parent.mkdir(exist_ok=True)
        self.other.write_text(handler(version))
        pattern = f'"{self.other.parent}/*.toml"'
        text = self.main.read_text() if self.main.exists() else ""
        imports = tomllib.loads(text).get("imports", [])
        lines = [line for line in text.splitlines() if not line.startswith("imports")]
        named = ", ".join([*(f'"{entry}"' for entry in imports), pattern])
        self.main.write_text("\n".join([f"imports = [{named}]", *lines, ""]))

    def set_up(self, *, again: bool = False) -> apply.Outcome:
        """Run node set-up; `again`: as `--keep` does, which looks before it changes anything."""
        target = config_reader.Target(settings_view.Path(self.main), self.release, self.binary)
        if again:
            apply.set_up(host.Host(), target, inputs.Wanted(), dry_run=True, again=True)
        return apply.set_up(host.Host(), target, inputs.Wanted(), again=again)

    def undo(self) -> None:
        """Undo node set-up."""
        apply.undo(host.Host(), settings_view.Path(self.main))

    def files(self) -> dict[str, str]:
        """All configuration files."""
        return {str(path): path.read_text() for path in self.main.parent.rglob("*.toml")}

    def stated(self, path: pathlib.Path) -> int:
        """The version that a file states; 0 where it states none."""
        return int(tomllib.loads(path.read_text()).get("version", 0))

    def check_set_up(self, other: str) -> None:
        """What must hold after a run of node set-up that reported no error."""
        twins = {"uimgacc", "uimgacc-runc"}
        view = self.view()
        if "nvidia" in view.runtimes:
            twins.add("uimgacc-nvidia")
        assert {name for name in view.runtimes if name.startswith("uimgacc")} == twins
        assert {view.runtimes[name]["snapshotter"] for name in twins} == {"uimgacc"}
        if self.own.exists():
            first = self.stated(self.main) or (other.isdigit() and self.stated(self.other))
            assert self.stated(self.own) <= first
        if other != "nothing":
            assert self.other.read_text() == handler(other)
            assert f"{self.other.parent}/*.toml" in self.main.read_text()


def attempt(node: Node, other: str, *, again: bool = False) -> bool:
    """Set a node up; whether that was possible. One that is refused is left as it was."""
    before, did_start = node.files(), node.starts or not node.main.exists()
    reason = ""
    try:
        node.set_up(again=again)
    except errors.AgentError as error:
        reason = str(error)
    if not reason:
        node.check_set_up(other)
        return True
    assert not did_start, reason
    assert str(node.main) in reason
    assert node.files() == before
    return False


def test_another_tool_came_first(
    root: str, other: str, binary: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    node = Node(tmp_path / "D", binary, root)
    node.add_other(other)
    before = node.files()

    if attempt(node, other):
        again = node.set_up()
        node.undo()

        assert not again.changed
    assert node.files() == before


def test_another_tool_comes_later(
    root: str, other: str, binary: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    node = Node(tmp_path / "D", binary, root)
    was_set_up = attempt(node, "nothing")
    node.add_other(other)
    pattern = f"{node.other.parent}/*.toml"

    attempt(node, other, again=was_set_up)
    node.undo()

    assert not node.own.exists()
    if other != "nothing":
        assert node.other.read_text() == handler(other)
        assert pattern in tomllib.loads(node.main.read_text())["imports"]
