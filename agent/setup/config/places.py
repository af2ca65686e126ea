"""Where the containerd of a node's kubelet has its files: the distributions differ.

k3s and RKE2 bring a containerd of their own. Its configuration is made anew at each
start and says where the rest is; both listen on the same socket.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from agent.model import keys
from agent.setup.config import fixed_systems, settings_view
from agent.setup.node import host

DEFAULT_CONFIG = settings_view.Path("/etc/containerd/config.toml")
DEFAULT_SOCKET = settings_view.Path("/run/containerd/containerd.sock")
RANCHER = {
    name: settings_view.Path(f"/var/lib/rancher/{name}/agent/etc/containerd/config.toml")
    for name in ("k3s", "rke2")
}
TEMPLATES = ("config.toml.tmpl", "config-v3.toml.tmpl")
"""What k3s and RKE2 make the main file from, beside it."""

RANCHER_SOCKET = settings_view.Path("/run/k3s/containerd/containerd.sock")


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """What a containerd's configuration says about where things are.

    `socket` is containerd's, `root` the folder of uimgacc's snapshotter; `is_default`:
    whether that one is containerd's default snapshotter.
    """

    socket: settings_view.Path
    root: settings_view.Path
    is_default: bool


def rancher(main: settings_view.Path) -> str | None:
    """`k3s` or `rke2` where that makes the file at each start, else None."""
    for name, path in RANCHER.items():
        if main.parent == path.parent or f"/{name}/agent/etc/containerd" in str(main.parent):
            return name
    return None


def fixed_system(machine: host.Host) -> fixed_systems.FixedSystem | None:
    """The operating system, where that makes containerd's configuration by itself."""
    texts = map(machine.text, fixed_systems.OS_RELEASE)
    return next((fixed_systems.of(text) for text in texts if text is not None), None)


def find_config(machine: host.Host) -> settings_view.Path:
    """The main file of the containerd that this node's kubelet uses.

    A node may have two: Docker's package brings one, which a k3s beside it does not use;
    and a k3s that was removed leaves its files. The socket that exists decides, as
    sockets are gone after a reboot. Of k3s and RKE2 the one that was started last counts.
    """
    if system := fixed_system(machine):
        return system.config
    made = [path for path in RANCHER.values() if machine.read(path) is not None]
    made.sort(key=lambda path: machine.place(path).stat().st_mtime)
    if made and machine.place(RANCHER_SOCKET).exists():
        return made[-1]
    if machine.read(DEFAULT_CONFIG) is not None or machine.place(DEFAULT_SOCKET).exists():
        return DEFAULT_CONFIG
    return made[-1] if made else DEFAULT_CONFIG


def main_of(path: settings_view.Path) -> settings_view.Path:
    """The rendered file where a person names a template of k3s or RKE2."""
    if path.suffix == ".tmpl":
        return path.with_name("config.toml")
    return path


def find_binary(main: settings_view.Path) -> str:
    """The containerd program, as the node has it, to ask about a configuration."""
    if rancher(main) is not None:
        return str(main.parents[3] / "data/current/bin/containerd")
    return "containerd"


def default_socket(main: settings_view.Path) -> settings_view.Path:
    """Where containerd listens unless its configuration says otherwise."""
    return RANCHER_SOCKET if rancher(main) else DEFAULT_SOCKET


def default_root(main: settings_view.Path) -> settings_view.Path:
    """containerd's own folder unless its configuration says otherwise."""
    return (
        main.parents[2] / "containerd"
        if rancher(main)
        else settings_view.Path("/var/lib/containerd")
    )


def of(machine: host.Host, main: settings_view.Path) -> Places:
    """What the files that are there now say, else what holds without them."""
    merged: dict[str, object] = {}
    for data in _files(machine, main):
        settings_view.merge(merged, data)
    exports = settings_view.table_at(merged, ("proxy_plugins", keys.SNAPSHOTTER, "exports"))
    root = settings_view.value_at(merged, ("root",)) or default_root(main)
    socket = str(_address(merged) or default_socket(main))
    if socket.startswith("/var/run/"):
        # On most distributions a link with an absolute target, which leads astray in a container.
        socket = socket.removeprefix("/var")
    return Places(
        socket=settings_view.Path(socket),
        root=settings_view.Path(
            str(exports.get("root") or f"{root}/{keys.SNAPSHOTTER_PLUGINS}.{keys.SNAPSHOTTER}")
        ),
        is_default=any(
            settings_view.value_at(merged, (*settings_view.keys_of(version).images, "snapshotter"))
            == keys.SNAPSHOTTER
            for version in (1, 2, 3)
        ),
    )


def _address(merged: Mapping[str, object]) -> object:
    """Where containerd listens: since version 4 a setting of the plugin that listens."""
    listener = ("plugins", "io.containerd.server.v1.grpc", "address")
    return settings_view.value_at(merged, listener) or settings_view.value_at(
        merged, ("grpc", "address")
    )


def _files(machine: host.Host, main: settings_view.Path) -> Iterator[dict[str, object]]:
    text = machine.text(main)
    if text is None:
        return
    file = settings_view.File(main, text)
    yield settings_view.parse(file)
    for pattern in settings_view.imports_of(file):
        for path in machine.matching(pattern):
            imported = machine.text(path)
            if path != main and imported is not None:
                yield settings_view.parse(settings_view.File(path, imported))
