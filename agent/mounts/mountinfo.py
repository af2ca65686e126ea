"""The kernel's mount table, /proc/self/mountinfo. Source: proc_pid_mountinfo(5)."""

import dataclasses
import os
import re
from collections.abc import Iterator

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One mount: `device` is the st_dev of what is mounted, `options` those of the superblock.

    `root` is the folder of the file system that is mounted ("/" unless it is a bind mount).
    `shared`: other mount namespaces get what is mounted there, and the mount itself.
    """

    device: int
    root: str
    target: str
    kind: str
    source: str
    options: str
    shared: bool = False


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def parse(text: str) -> Iterator[Entry]:
    """Parse the table, oldest mount first."""
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        major, _, minor = fields[2].partition(":")
        yield Entry(
            device=os.makedev(int(major), int(minor)),
            root=_unescape(fields[3]),
            target=_unescape(fields[4]),
            kind=rest[0],
            source=_unescape(rest[1]),
            options=_unescape(rest[2]) if len(rest) > 2 else "",
            shared=any(field.startswith("shared:") for field in fields[6:]),
        )


def read(process: str = "self") -> list[Entry]:
    """The mounts that a process sees, oldest first; OSError when it is gone."""
    with open(f"/proc/{process}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return list(parse(file.read()))


def backing_file(source: str) -> str:
    """The file behind a loop device, else `source` itself."""
    name = source.removeprefix("/dev/")
    if name == source or not name.startswith("loop"):
        return source
    try:
        with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as file:
            return file.read().rstrip("\n")
    except OSError:
        return source
