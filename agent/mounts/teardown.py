"""Remove from a node what uimgacc mounted and wrote; operations for kits.processes.workers.

They work in the mounts of the node, also from a container, for what is unmounted in a
container stays on the node. Only what uimgacc made goes, and its place shows that: layers lie
below the snapshotter's root, and the agent's mounts of the store are named by
agent.mounts.nfs. A store that the agent has not mounted stays.

What is in use stays, and is returned with the processes that use it. Standard library
only, and all of it loaded before the node's mounts are entered: Python is not there.
"""

import contextlib
import errno
import pathlib
import re
import shutil

from agent.mounts import mount_users, mountinfo, nfs, syscalls

_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_NAMED = 8

User = tuple[int, str, str]
"""A process that uses a mount: its id, its program's name, the UID of its pod or ""."""


def unmount(process: str, root: str) -> list[tuple[str, str, list[User]]]:
    """Unmount the layers below `root`, then the agent's mounts of the store.

    Returns what stays, each with the reason and with who uses it, as far as that can
    be seen. `process` is one of the node, "" where this is no container.
    """
    _enter(process)
    used = _uses_of_layers(f"{root}/layers")
    left = []
    for target in _own_mounts(root):
        if uses := used.get(pathlib.PurePath(target).name):
            reason = f"{min(uses.values())} stands on it"
            left.append((target, reason, _described(set(uses))))
            continue
        try:
            syscalls.unmount(target)
        except OSError as error:
            left.append((target, error.strerror or str(error), _described(_open_below(target))))
        else:
            _remove_empty(pathlib.Path(target))
    return left


def remove(process: str, root: str, store: str, state: str, links: str) -> None:
    """Remove the snapshotter's folder, the agent's state and its links to layers, and the link to
    the agent's mount.

    Raises OSError EBUSY, and removes nothing, while something is mounted in there.
    """
    _enter(process)
    folders = [pathlib.Path(root), pathlib.Path(state), pathlib.Path(links)]
    below = tuple(f"{folder.resolve()}/" for folder in folders)
    for entry in mountinfo.read():
        if entry.target.startswith(below):
            raise OSError(errno.EBUSY, "something is mounted there", entry.target)
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            _remove(path)
        _unshare(folder)
        _remove_empty(folder)
    place = pathlib.Path(store)
    mounts = place.with_name(f"{place.name}.mounts")
    if place.is_symlink() and place.readlink().is_relative_to(mounts.name):
        place.unlink()
    _remove_empty(mounts)
    _unshare(place.parent)
    _remove_empty(place.parent)


def _enter(process: str) -> None:
    if process:
        syscalls.enter_mounts_of(process)


def _own_mounts(root: str) -> list[str]:
    """What uimgacc has mounted, the last first: layers before the store that they lie on."""
    below = (f"{root}/", f"{pathlib.Path(root).resolve()}/")
    targets = [entry.target for entry in reversed(mountinfo.read())]
    layers = [target for target in targets if target.startswith(below)]
    return [*layers, *filter(nfs.is_agents_mount, targets)]


def _uses_of_layers(folder: str) -> dict[str, dict[str, str]]:
    """What uses layers: 16 digits -> process -> a mount of its own that needs the layer."""
    below = (f"{folder}/", f"{pathlib.Path(folder).resolve()}/")
    table = mountinfo.read()
    layers = [each for each in table if each.target.startswith(below)]
    parents = {each.parent for each in layers}
    layers += [each for each in table if each.id_ in parents]
    uses: dict[str, dict[str, str]] = {}
    for process, table in mount_users.tables():
        for name, targets in mount_users.of(folder, [layers, table]).used.items():
            uses.setdefault(name, {})[process] = min(targets)
    return uses


def _unshare(folder: pathlib.Path) -> None:
    """Unmount a folder that setup.node.shared_mounts mounted on itself, unless it has mounts."""
    table = mountinfo.read()
    target = str(folder.resolve())
    mounted = [entry for entry in table if entry.target == target]
    above = [
        entry
        for entry in table
        if pathlib.PurePath(target).is_relative_to(entry.target) and entry.target != target
    ]
    if not mounted or not above:
        return
    # Of two on the same folder the later one hides the earlier.
    parent = max(reversed(above), key=lambda entry: len(pathlib.PurePath(entry.target).parts))
    itself = pathlib.PurePath(parent.root, pathlib.PurePath(target).relative_to(parent.target))
    if (mounted[-1].device, mounted[-1].root) == (parent.device, str(itself)):
        with contextlib.suppress(OSError):
            syscalls.unmount(target)


def _open_below(target: str) -> set[str]:
    """The processes with something open below a mount. Asks no server."""
    processes = set()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        links = [folder / name for name in ("cwd", "root", "exe")]
        with contextlib.suppress(OSError):
            links += (folder / "fd").iterdir()
        for link in links:
            # It has ended, or is the kernel's own.
            with contextlib.suppress(OSError):
                if link.readlink().is_relative_to(target):
                    processes.add(folder.name)
    return processes


def _described(processes: set[str]) -> list[User]:
    users = []
    for process in sorted(processes - {"self"}, key=int)[:_NAMED]:
        folder = pathlib.Path("/proc", process)
        with contextlib.suppress(OSError):
            program = (folder / "comm").read_text(errors="replace").rstrip("\n")
            pod = _POD.search((folder / "cgroup").read_text())
            users.append((int(process), program, pod[1].replace("_", "-") if pod else ""))
    return users


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_empty(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


OPERATIONS = {"remove": remove, "unmount": unmount}
