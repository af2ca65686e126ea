"""The kernel's mount table, /proc/self/mountinfo. Source: proc_pid_mountinfo(5)."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from agent.mounts.devices import loop_devices

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One mount: `device` is the st_dev of what is mounted, `options` those of the superblock.

    `root` is the folder of the file system that is mounted ("/" unless it is a bind mount).
    `id_` is unique among all namespaces, `parent` the one that it is mounted on. `group` is the
    peer group, whose members get what is mounted at one of them (0: none, it is not shared);
    `master` the group from which it only receives (0: none).
    """

    device: int
    root: str
    target: str
    kind: str
    source: str
    options: str
    id_: int = 0
    parent: int = 0
    group: int = 0
    master: int = 0


def unescaped(text: str) -> str:
    """A path of the kernel's tables as it is: spaces and the like are written in octal there."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def parse(text: str) -> Iterator[Entry]:
    """Parse the table, oldest mount first."""
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        major, _, minor = fields[2].partition(":")
        yield Entry(
            device=os.makedev(int(major), int(minor)),
            root=unescaped(fields[3]),
            target=unescaped(fields[4]),
            kind=rest[0],
            source=unescaped(rest[1]),
            options=unescaped(rest[2]) if len(rest) > 2 else "",
            id_=int(fields[0]),
            parent=int(fields[1]),
            group=_number(fields, "shared:"),
            master=_number(fields, "master:"),
        )


def _number(fields: list[str], name: str) -> int:
    return next((int(each[len(name) :]) for each in fields[6:] if each.startswith(name)), 0)


def read(process: str = "self") -> list[Entry]:
    """The mounts that a process sees, oldest first; OSError when it is gone."""
    with open(f"/proc/{process}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return list(parse(file.read()))


def beneath(folder: pathlib.PurePath, table: Sequence[Entry], source: str = "") -> Entry | None:
    """The mount that a folder is on, or, where the folder is a link to one, the newest of `source`.

    Touches neither: to follow a link into a mount asks its server.
    """
    if source:
        under = [entry for entry in table if entry.source == source]
    else:
        under = [entry for entry in table if folder.is_relative_to(entry.target)]
    # Of two on the same folder the later one hides the earlier.
    return max(reversed(under), key=lambda entry: len(entry.target), default=None)


def backing_file(source: str) -> str:
    """The file behind a loop device, also below a device that verifies it, else `source` itself.

    Its name is sure, its path is not: see devices.layer_files. Asks no server, waits for nothing.
    """
    loop = loop_devices.of_layer(source)
    return (loop_devices.path_of(loop) if loop else None) or source


def is_verified(source: str) -> bool:
    """Whether the source of a layer's mount is a device that verifies it."""
    return source.startswith("/dev/dm-")
