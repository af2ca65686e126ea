"""Node set-up says that containerd names images where that is so, and only there."""

import dataclasses
import pathlib
import shutil

import pytest

from agent.cli.machine import node_setup_command
from agent.setup.config import settings_view
from agent.setup.doctor import checks
from agent.setup.node import host, image_refs
from agent.store.lookup import layer_requests
from tests.unit.setup import machines

OVERRIDE = "[plugins.'io.containerd.cri.v1.images']\ndisable_snapshot_annotations = true\n"
FOLDER = "io.containerd.snapshotter.v1.uimgacc"


@pytest.fixture(autouse=True)
def _no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """These machines are folders without a containerd."""
    machines.without_program(monkeypatch)


@dataclasses.dataclass(frozen=True)
class Node:
    """A machine with a configuration of tests/golden."""

    root: pathlib.Path
    release: str

    def set_up(self, **more: object) -> None:
        wanted = node_setup_command.Wanted(
            address="/run/uimgacc/snapshotter.sock",
            containerd_version=self.release,
            host_root=self.root,
            **more,
        )
        node_setup_command.node_setup(wanted, as_json=True)

    @property
    def is_noted(self) -> bool:
        return any(path.name == layer_requests.IMAGE_REFS for path in self.root.rglob("*"))

    @property
    def folder(self) -> pathlib.Path:
        return next(path for path in self.root.rglob("*") if path.name == FOLDER)


def node_of(folder: pathlib.Path, case: str, release: str) -> Node:
    machines.make(folder / "node", case, release)
    return Node(folder / "node", "2.1" if release == "2" else release)


@pytest.mark.parametrize(
    ("case", "release", "expected"),
    [
        ("kubeadm", "1.7", True),
        ("kubeadm", "2", True),
        ("missing", "2", True),
        ("k3s-2", "2", True),
        # Their template turns the names off, and nothing after it can turn them on.
        ("k3s-1.7", "1.7", False),
        ("k3s-2-no-drop-ins", "2", False),
    ],
)
def test_it_is_noted_where_containerd_names_images(case, release, expected, tmp_path) -> None:
    node = node_of(tmp_path, case, release)
    node.set_up(dry_run=True)
    assert not node.is_noted

    node.set_up()
    assert node.is_noted is expected
    if expected:
        assert node.folder.stat().st_mode & 0o777 == 0o700
    node.set_up(undo=True)
    assert not node.is_noted


def test_it_is_noted_no_longer_where_another_tool_turns_the_names_off(tmp_path) -> None:
    node = node_of(tmp_path, "nvidia-drop-in-2", "2")
    node.set_up()
    assert node.is_noted

    later = node.root / "etc/containerd/conf.d/zz.toml"
    later.write_text(OVERRIDE)
    with pytest.raises(settings_view.ConfigError):
        node.set_up(dry_run=True)
    assert node.is_noted, "a trial changes nothing"
    with pytest.raises(settings_view.ConfigError):
        node.set_up()
    assert not node.is_noted

    later.unlink()
    node.set_up()
    assert node.is_noted


def test_a_folder_that_is_gone_is_not_made_again_by_a_later_look(tmp_path) -> None:
    """In a container, the disk of containerd's folder may not be seen any more."""
    node = node_of(tmp_path, "kubeadm", "2")
    node.set_up()
    shutil.rmtree(node.folder)
    wanted = node_setup_command.Wanted(
        address="/run/uimgacc/snapshotter.sock",
        containerd_version=node.release,
        host_root=node.root,
        again=True,
    )
    main = settings_view.Path("/etc/containerd/config.toml")
    node_setup_command._changed(host.Host(node.root), main, wanted)

    assert not node.is_noted


@pytest.mark.parametrize(
    ("is_noted", "possible", "level"),
    [
        (True, True, checks.Level.OK),
        (False, True, checks.Level.WARN),
        (False, False, checks.Level.WARN),
    ],
)
def test_the_doctor_says_what_to_do(is_noted, possible, level, tmp_path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if is_noted:
        (root / layer_requests.IMAGE_REFS).touch()
    wanted = checks.inputs.Wanted(root=str(root))
    main = settings_view.Path("/etc/containerd/config.toml")
    finding = checks._image_names(host.Host(), main, wanted, possible=possible)

    assert finding.level is level
    assert bool(finding.fix) is (level is checks.Level.WARN)


def test_the_doctor_of_a_person_who_is_not_root_goes_on(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image_refs, "is_noted", refuse)
    main = settings_view.Path("/etc/containerd/config.toml")
    wanted = checks.inputs.Wanted(root=str(tmp_path))
    finding = checks._image_names(host.Host(), main, wanted, possible=True)

    assert (finding.level, finding.fix) == (checks.Level.WARN, "run it with sudo")
