"""Who uses a mounted layer beside its own place: bind mounts of it, and overlays on it.

The kernel does not tell: a layer can be unmounted under a running container without
EBUSY, because an overlay holds its lower layers by private clones of their mounts.
From then on nobody sees that the layer's file is still read. So a layer stays mounted
for as long as any mount table shows an overlay that names it, or another mount of the
same file system. All tables are looked at: each process may have one of its own.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from agent.mounts import mountinfo

_PLACE = re.compile(r"[0-9a-f]{16}")
_MENTIONED = re.compile(r"(?:^|[,:=])((?:[^,:=]*/)?)([0-9a-f]{16})(?=$|[,:])")


@dataclasses.dataclass(frozen=True, slots=True)
class Layers:
    """What mount tables show of the layers below one folder, by their 16 hex digits.

    `mounted` are the places that are mounted, with the device; `used` the targets of
    other mounts that use a layer.
    """

    mounted: Mapping[str, int] = dataclasses.field(hash=False)
    used: Mapping[str, frozenset[str]] = dataclasses.field(hash=False)


def of(folder: str, tables: Iterable[list[mountinfo.Entry]] | None = None) -> Layers:
    """The layers below `folder` (`<root>/layers`); `tables` default to all there are."""
    known = list(all_tables() if tables is None else tables)
    spellings = {f"{folder}/", f"{os.path.realpath(folder)}/"}
    mounted: dict[str, int] = {}
    for entry in (each for table in known for each in table):
        name = os.path.basename(entry.target)
        is_place = _PLACE.fullmatch(name) and entry.target.removesuffix(name) in spellings
        if is_place and entry.kind == "erofs":
            mounted[name] = entry.device
    used: dict[str, set[str]] = {}
    # containerd shortens a long list of lower folders to what differs: `layers/<name>`, `<name>`.
    before = {*spellings, f"{os.path.basename(folder)}/", ""}
    names = {device: name for name, device in mounted.items()}
    for entry in (each for table in known for each in table):
        for name in _uses(entry, before, names):
            if entry.target.removesuffix(name) not in spellings:
                used.setdefault(name, set()).add(entry.target)
    return Layers(mounted, {name: frozenset(targets) for name, targets in used.items()})


def _uses(entry: mountinfo.Entry, before: set[str], names: Mapping[int, str]) -> Iterator[str]:
    if entry.kind == "erofs" and entry.device in names:
        yield names[entry.device]
    if entry.kind == "overlay":
        for prefix, name in _MENTIONED.findall(entry.options):
            if prefix in before:
                yield name


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
            # It has ended, or belongs to somebody whom we may not look at.
            continue
        seen.add(namespace)
        yield process, table
