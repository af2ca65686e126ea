"""What may block on a hung store while starts are observed and read ahead, for workers.

Standard library only and few imports: it runs in children without site-packages.
"""

import errno
import os
from collections.abc import Sequence

from agent.local import copy_paths
from agent.mounts import mount_users, mountinfo, mountpoints
from agent.mounts.devices import layer_files, loop_devices
from agent.mounts.pages import page_cache
from agent.store.lookup import chain_index

Look = tuple[bool, bool, list[tuple[int, bytes, bool]]]
"""Whether a container runs on exactly these layers, whether another one uses any of them, and of
each layer the size, the units in memory (b"" unless somebody uses them, or all are wanted), and
whether its mount is read through the page cache of the store's file."""


def files_of(store: str, chains: Sequence[str]) -> list[str]:
    """The names of the layer files of chain IDs (64 hex digits each); OSError where one lacks."""
    names = []
    for chain in chains:
        record = chain_index.confirm_chain(store, chain)
        if record is None:
            raise OSError(errno.ENOENT, "the store has no such chain", chain)
        names.append(chain_index.layer_of(record))
    return names


def look(store: str, root: str, process: int, names: Sequence[str], everything: bool) -> Look:
    """Look at the layers of one image, which are mounted below `root` or will be.

    Overlays are in the mount table of containerd, which is `process`.
    """
    folder = f"{root}/layers"
    table = _table(process)
    used = mount_users.of(folder, [mountinfo.read(), *([table] if table else [])]).used
    targets: dict[str, set[str]] = {}
    for short, places in used.items():
        for place in places:
            targets.setdefault(place, set()).add(short)
    own = {os.path.basename(mountpoints.mountpoint(folder, name)) for name in names}
    runs = own in targets.values()
    shared = not own.isdisjoint(used)
    through_cache = _through_cache(folder, own)
    paths = [chain_index.file_of(store, name) for name in names]
    if not (everything or shared):
        return runs, shared, [(0, b"", True) for _ in names]
    units = page_cache.units_in_memory(paths)
    return (
        runs,
        shared,
        [
            (*of_layer, through_cache.get(mountpoints.mountpoint(folder, name), True))
            for of_layer, name in zip(units, names, strict=True)
        ],
    )


def _table(process: int) -> list[mountinfo.Entry]:
    try:
        return mountinfo.read(str(process))
    except OSError:
        return []


def _through_cache(folder: str, names: set[str]) -> dict[str, bool]:
    """Whether what is mounted on these mountpoints is read through the page cache of its file
    in the store."""
    found = {}
    for entry in layer_files.mounted_below(folder):
        if os.path.basename(entry.target) in names:
            loop = loop_devices.of_layer(entry.source)
            found[entry.target] = loop is None or not (
                loop_devices.status(loop).is_direct
                or layer_files.read(entry.source).is_copy(entry.target)
            )
    return found


def unused(store: str, names: Sequence[str]) -> list[bytes]:
    """As page_cache.units_unused for layers by name."""
    return page_cache.units_unused([chain_index.file_of(store, name) for name in names])


def read_ahead(
    store: str, copies: str, pieces: Sequence[tuple[str, int, int]], requests: int
) -> tuple[int, int]:
    """As page_cache.read_ahead for layers by name; not those of which the node has a copy."""
    local = copy_paths.CopyPaths(copies)
    names = {name for name, _, _ in pieces}
    absent = {name for name in names if not (copies and os.path.exists(local.layer(name)))}
    wanted = [
        (chain_index.file_of(store, name), start, length)
        for name, start, length in pieces
        if name in absent
    ]
    return page_cache.read_ahead(wanted, requests)


OPERATIONS = {"files_of": files_of, "look": look, "read_ahead": read_ahead, "unused": unused}
