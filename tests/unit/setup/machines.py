"""Nodes made from the configurations of real ones (tests/golden/containerd)."""

import dataclasses
import pathlib
import shutil

import pytest

from agent.cli.machine import node_setup_command
from agent.setup.config import containerd_binary, places, settings_view
from agent.setup.node import config_reader, host

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "containerd"
RELEASES = {
    "1.7": settings_view.Release(1, 7),
    "2": settings_view.Release(2, 1),
    "2.3": settings_view.Release(2, 3),
}

CASES = [
    ("default-1.7", "1.7"),
    ("default-2", "2"),
    ("kubeadm", "1.7"),
    ("kubeadm", "2"),
    ("eks-al2023-v2", "1.7"),
    ("eks-al2023-v2", "2"),
    ("eks-al2023-v3-nvidia", "2"),
    ("gke", "1.7"),
    ("gke", "2"),
    ("aks", "1.7"),
    ("aks", "2"),
    ("docker", "1.7"),
    ("docker", "2"),
    ("nvidia-drop-in-1.7", "1.7"),
    ("nvidia-drop-in-2", "2"),
    ("version-1", "1.7"),
    ("version-1", "2"),
    ("no-runtimes", "1.7"),
    ("no-runtimes", "2"),
    ("k3s-1.7", "1.7"),
    ("k3s-2", "2"),
    ("k3s-2-no-drop-ins", "2"),
    ("rke2-1.7", "1.7"),
    ("rke2-2", "2"),
    ("missing", "1.7"),
    ("missing", "2"),
    ("missing", "2.3"),
    ("version-1", "2.3"),
    ("version-4", "2.3"),
    ("version-none", "1.7"),
    ("version-none", "2"),
    ("version-none", "2.3"),
    ("nvidia-drop-in-2", "2.3"),
    ("mixed-versions", "2"),
    ("mixed-versions", "2.3"),
]


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """A node whose file system lies below a folder."""

    root: pathlib.Path
    target: config_reader.Target

    @property
    def host(self) -> host.Host:
        return host.Host(self.root)

    @property
    def config(self) -> pathlib.Path:
        return self.root / self.target.main.relative_to("/")

    def files(self) -> dict[str, bytes]:
        """Everything that is there."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }


def make(folder: pathlib.Path, case: str, release: str) -> Machine:
    """A node with the configuration of a case."""
    shutil.copytree(GOLDEN / case, folder, ignore=shutil.ignore_patterns("*.diff"))
    machine = host.Host(folder)
    main = places.find_config(machine)
    return Machine(folder, config_reader.Target(main, RELEASES[release]))


def without_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a given --containerd-version do: such a folder has no containerd that could be asked."""
    original = node_setup_command._target

    def target(
        machine: host.Host, main: settings_view.Path, wanted: node_setup_command.Wanted
    ) -> config_reader.Target:
        if not wanted.containerd_version:
            return original(machine, main, wanted)
        return config_reader.Target(
            main, containerd_binary.parse_release(wanted.containerd_version)
        )

    monkeypatch.setattr(node_setup_command, "_target", target)


def write(folder: pathlib.Path, text: str | None, release: str) -> Machine:
    """A node with one configuration file, or none."""
    place = folder / "etc" / "containerd"
    place.mkdir(parents=True)
    if text is not None:
        (place / "config.toml").write_text(text)
    return Machine(folder, config_reader.Target(places.DEFAULT_CONFIG, RELEASES[release]))
