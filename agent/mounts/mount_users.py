"""Who uses a mounted layer beside its own place: bind mounts of it, and overlays on it.

The kernel does not say: a layer can be unmounted under a running container without
EBUSY, because an overlay holds its lower layers by private clones of their mounts.
From then on no mount table shows that the layer's file is still read. So a layer stays mounted
for as long as any mount table shows an overlay that names it, or another mount of the
same file system. All tables are looked at: each process may have one of its own.

A copy that the kernel made of the layer's own mount, for a container that sees the node's
folders and what is mounted there (node_exporter's /host/root), does not count: it goes
when the layer is unmounted. Only where it is busy does the kernel refuse, with EBUSY.
Source: mount_namespaces(7).
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from agent.mounts import mountinfo, mountpoints
from agent.mounts.devices import layer_files

_PLACE = re.compile(r"[0-9a-f]{16}")
_MENTIONED = re.compile(r"(?:^|[,:=])((?:[^,:=]*/)?)([0-9a-f]{16})(?=$|[,:])")


@dataclasses.dataclass(frozen=True, slots=True)
class Layers:
    """What mount tables show of the layers below one folder, by their 16 hex digits.

    `mounted` are the places that are mounted, with the device; `used` the targets of
    other mounts that use a layer. `copied` are those places of which all mounts, one over the
    other, read the node's own copy: no file of the store is behind them.
    """

    mounted: Mapping[str, int] = dataclasses.field(hash=False)
    used: Mapping[str, frozenset[str]] = dataclasses.field(hash=False)
    copied: frozenset[str] = frozenset()


def of(folder: str, tables: Iterable[list[mountinfo.Entry]] | None = None) -> Layers:
    """The layers below `folder` (`<root>/layers`); `tables` default to all there are.

    Which are `copied` is not looked at: see `with_copies`.
    """
    known = list(all_tables() if tables is None else tables)
    spellings = _spellings(folder)
    places = _places(spellings, known)
    mounted = {os.path.basename(entry.target): entry.device for entry in places}
    used: dict[str, set[str]] = {}
    # containerd shortens a long list of lower folders to what differs: `layers/<name>`, `<name>`.
    before = {*spellings, f"{os.path.basename(folder)}/", ""}
    names = {device: name for name, device in mounted.items()}
    copies = _Copies(known, places)
    roots = {os.path.dirname(spelling.rstrip("/")) for spelling in spellings}
    for entry in (each for table in known for each in table):
        # What is shown to a user namespace goes with its snapshot, which is what uses the layer.
        place = mountpoints.without_mapped(entry.target, roots)
        for name in _uses(entry, before, names, roots):
            if place.removesuffix(name) not in spellings and not copies.has(entry):
                used.setdefault(name, set()).add(entry.target)
    return Layers(mounted, {name: frozenset(targets) for name, targets in used.items()})


def with_copies(folder: str) -> Layers:
    """The layers below `folder`, also which of them are copied. Waits while one is switched."""
    known = list(all_tables())
    layers = of(folder, known)
    mounts = {entry.id_: entry for table in known for entry in table}
    # By their folders: in another namespace the same one may have another path. The mounts of
    # another node on this machine (one in a container) have the same names and other folders.
    folders = {_folder(entry, mounts) for entry in _places(_spellings(folder), known)} | {None}
    sources: dict[str, set[str]] = {}
    for entry in mounts.values():
        name = os.path.basename(entry.target)
        if entry.kind == "erofs" and name in layers.mounted and _folder(entry, mounts) in folders:
            sources.setdefault(name, set()).add(entry.source)
    copied = {
        name
        for name, of_it in sources.items()
        if all(layer_files.read(source).is_copy(f"{folder}/{name}") for source in of_it)
    }
    return dataclasses.replace(layers, copied=frozenset(copied))


def _spellings(folder: str) -> set[str]:
    return {f"{folder}/", f"{os.path.realpath(folder)}/"}


def _places(
    spellings: set[str], tables: Iterable[Iterable[mountinfo.Entry]]
) -> list[mountinfo.Entry]:
    """The layers that are mounted below a folder, of which these are the paths."""
    places: list[mountinfo.Entry] = []
    for entry in (each for table in tables for each in table):
        name = os.path.basename(entry.target)
        is_place = _PLACE.fullmatch(name) and entry.target.removesuffix(name) in spellings
        if is_place and entry.kind == "erofs":
            places.append(entry)
    return places


def _folder(
    entry: mountinfo.Entry, mounts: Mapping[int, mountinfo.Entry]
) -> tuple[int, str] | None:
    """The folder that something is mounted on: its file system's st_dev, and its path there.

    None where it is not known, as the process does not see what that is part of.
    """
    beneath = mounts.get(entry.parent)
    while beneath is not None and beneath.target == entry.target:
        # One of several mounts on the same folder.
        beneath = mounts.get(beneath.parent)
    if beneath is None:
        return None
    return beneath.device, os.path.join(beneath.root, os.path.relpath(entry.target, beneath.target))


class _Copies:
    """Finds the mounts that the kernel made of those at `places`, and unmounts with them.

    They have the place's name, on a mount that receives what is mounted where the place is.
    """

    def __init__(self, tables: list[list[mountinfo.Entry]], places: list[mountinfo.Entry]) -> None:
        self._mounts = {entry.id_: entry for table in tables for entry in table}
        self._devices = {os.path.basename(entry.target): entry.device for entry in places}
        parents = [self._mounts[each.parent] for each in places if each.parent in self._mounts]
        # The place itself may be seen by a process that only receives mounts, and from where.
        self._groups = {group for each in parents for group in (each.group, each.master)} - {0}
        size = 0
        while self._groups and size < len(self._groups):
            # A mount that receives may be shared itself, and pass it on.
            size = len(self._groups)
            for entry in self._mounts.values():
                if entry.group and entry.master in self._groups:
                    self._groups.add(entry.group)

    def has(self, entry: mountinfo.Entry) -> bool:
        """Whether a mount is one of them."""
        parent = self._mounts.get(entry.parent)
        return (
            entry.kind == "erofs"
            and entry.root == "/"
            and self._devices.get(os.path.basename(entry.target)) == entry.device
            and parent is not None
            and not self._groups.isdisjoint({parent.group, parent.master})
        )


def _uses(
    entry: mountinfo.Entry, before: set[str], names: Mapping[int, str], roots: set[str]
) -> Iterator[str]:
    if entry.kind == "erofs" and entry.device in names:
        yield names[entry.device]
    if entry.kind == "overlay":
        for prefix, name in _MENTIONED.findall(mountpoints.without_mapped(entry.options, roots)):
            if prefix in before:
                yield name


def used_layers(folder: str) -> list[str]:
    """The layers below `folder` that something uses, by their 16 hex digits; for workers."""
    return sorted(of(folder).used)


def all_tables() -> Iterator[list[mountinfo.Entry]]:
    """The mount tables of all processes that can be seen, each namespace's once."""
    for _, table in tables():
        yield table


def tables() -> Iterator[tuple[str, list[mountinfo.Entry]]]:
    """The same, each with a process ("self" for our own) that has it.

    In a container that means the container's own, unless it sees the host's processes.
    """
    seen: set[str] = set()
    for process in ("self", *filter(str.isdigit, os.listdir("/proc"))):
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace in seen:
                continue
            table = mountinfo.read(process)
        except OSError:
            # It has ended, or belongs to a user whose processes may not be read.
            continue
        seen.add(namespace)
        yield process, table


OPERATIONS = {"used_layers": used_layers}
