"""Which layers are mounted on this node, what uses them, and which file each reads; for workers.

Standard library only. Asks no server: the kernel knows all of it.
"""

import contextlib
import glob
import os

from agent.local import copy_paths, disk
from agent.mounts import mount_users, mountinfo
from agent.mounts.devices import layer_files, loop_devices
from agent.store.lookup import chain_index

Mounted = tuple[str, str, list[str], bool, list[str], int]
"""The name of a layer and its mountpoint; the loop devices below; whether it reads its local
copy; where what uses it is mounted, one place for each container and image volume; the bytes of
the layer."""

_OWN_ROOT = "/"
"""Where each container sees its file system itself."""


def survey(root: str) -> tuple[list[Mounted], disk.Look]:
    """The mounted layers below a snapshotter's root, and the local copies."""
    where = copy_paths.of(root)
    folder = f"{root}/layers"
    tables = list(mount_users.all_tables())
    used = mount_users.of(folder, tables).used
    overlays: dict[int, str] = {}
    for entry in (each for table in tables for each in table):
        if entry.kind == "overlay" and entry.target != _OWN_ROOT:
            # A container sees an image volume at a place of its own.
            overlays.setdefault(entry.device, entry.target)
    containers = set(overlays.values())
    mounted = []
    for entry in tables[0]:
        if entry.kind == "erofs" and entry.target.startswith(f"{folder}/"):
            users = used.get(os.path.basename(entry.target), frozenset())
            mounted.append(_mounted(entry, sorted(users & containers or users), where))
    return mounted, disk.look(where.folder)


def _mounted(entry: mountinfo.Entry, users: list[str], where: copy_paths.CopyPaths) -> Mounted:
    loops = loop_devices.beneath(entry.source)
    file = layer_files.read(entry.source)
    name = file.name.removesuffix(".erofs")
    return name, entry.target, loops, file.is_at(where.layer(name)), users, _size(entry.target)


def _size(target: str) -> int:
    """The bytes of a mounted layer, as its superblock says."""
    try:
        file_system = os.statvfs(target)
    except OSError:
        return 0
    return file_system.f_blocks * file_system.f_frsize


def variants(folder: str) -> dict[str, list[str]]:
    """The names of the layer files that stand for layers, by the names that images have for these:
    of those that have variants, as the mirrored records say."""
    files: dict[str, set[str]] = {}
    for path in glob.iglob(f"{folder}/meta/chains/*/*.json"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            chain = file.read()
            files.setdefault(chain_index.real_layer_of(chain), set()).add(
                chain_index.layer_of(chain)
            )
    return {name: sorted(names) for name, names in files.items() if names != {name}}


OPERATIONS = {"survey": survey, "variants": variants}
