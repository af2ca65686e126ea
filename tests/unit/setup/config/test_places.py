"""Which containerd a node's kubelet uses, and where that one has its files."""

import os
import pathlib

import pytest

from agent.setup.config import inputs, places, settings_view
from agent.setup.node import apply, host
from tests.unit.setup import machines

K3S = places.RANCHER["k3s"]
RKE2 = places.RANCHER["rke2"]


def make(root: pathlib.Path, *paths: settings_view.Path) -> host.Host:
    """A node with files at these paths, each newer than the one before."""
    for age, path in enumerate(paths):
        place = root / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("version = 3\n")
        os.utime(place, (age, age))
    return host.Host(root)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], places.DEFAULT_CONFIG),
        ([places.DEFAULT_CONFIG], places.DEFAULT_CONFIG),
        ([K3S], K3S),
        ([RKE2, places.RANCHER_SOCKET], RKE2),
        # Docker's containerd beside a k3s that runs.
        ([places.DEFAULT_CONFIG, places.DEFAULT_SOCKET, K3S, places.RANCHER_SOCKET], K3S),
        # What a k3s has left that was removed, before and after the next boot.
        ([K3S, places.DEFAULT_CONFIG, places.DEFAULT_SOCKET], places.DEFAULT_CONFIG),
        ([places.RANCHER_SOCKET, places.DEFAULT_CONFIG], places.DEFAULT_CONFIG),
        # containerd without a file, on its defaults.
        ([K3S, places.DEFAULT_SOCKET], places.DEFAULT_CONFIG),
        # RKE2 where k3s was before, and the other way round.
        ([K3S, RKE2, places.RANCHER_SOCKET], RKE2),
        ([RKE2, K3S, places.RANCHER_SOCKET], K3S),
    ],
)
def test_the_kubelet_s_containerd_is_found(
    paths: list[settings_view.Path], expected: settings_view.Path, tmp_path: pathlib.Path
) -> None:
    assert places.find_config(make(tmp_path, *paths)) == expected


@pytest.mark.parametrize(
    ("case", "release", "socket", "folder"),
    [
        ("default-2", "2", "/run/containerd/containerd.sock", "/var/lib/containerd"),
        ("missing", "1.7", "/run/containerd/containerd.sock", "/var/lib/containerd"),
        *(
            (
                f"{name}-{release}",
                release,
                "/run/k3s/containerd/containerd.sock",
                f"/var/lib/rancher/{name}/agent/containerd",
            )
            for name in ("k3s", "rke2")
            for release in ("1.7", "2")
        ),
    ],
)
def test_where_it_listens_and_where_our_folder_is_comes_from_its_configuration(
    case: str, release: str, socket: str, folder: str, tmp_path: pathlib.Path
) -> None:
    machine = machines.make(tmp_path / "node", case, release)

    found = places.of(machine.host, machine.target.main)

    root = settings_view.Path(folder) / "io.containerd.snapshotter.v1.uimgacc"
    assert found == places.Places(settings_view.Path(socket), root, is_default=False)


@pytest.mark.parametrize("release", ["1.7", "2"])
def test_what_node_setup_wrote_is_read_back(release: str, tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", "kubeadm", release)
    wanted = inputs.Wanted(root="/data/snapshots", default_snapshotter=True)
    apply.set_up(machine.host, machine.target, wanted)

    found = places.of(machine.host, machine.target.main)

    assert (found.root, found.is_default) == (settings_view.Path("/data/snapshots"), True)
    apply.undo(machine.host, machine.target.main)
    assert not places.of(machine.host, machine.target.main).is_default


def test_an_absolute_link_does_not_lead_out_of_the_node_s_root(tmp_path: pathlib.Path) -> None:
    machine = machines.write(
        tmp_path, '[grpc]\n  address = "/var/run/containerd/containerd.sock"\n', "2"
    )

    found = places.of(machine.host, machine.target.main)

    assert found.socket == places.DEFAULT_SOCKET
