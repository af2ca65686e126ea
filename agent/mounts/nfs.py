"""An NFS export as the store: which options, where it appears, and what is left to do; pure.

The store's place `DIR` is a symbolic link to one of the mounts in `DIR.mounts/`,
so that a new mount can take over from one that went stale in one step, with no
moment in which the store is missing, and with nothing unmounted below a
running container. The name of a mount says what was mounted with which
options; the mount table need not be trusted for that (mounts of one server
share what the first of them was given: the kernel shows its name and timeouts
for all).
"""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence

from agent import errors
from agent.mounts import mountinfo

VERSIONS = ("4.2", "4.1", "4.0")
"""Tried in this order where the options name none."""

# Nodes only read, and what they read never changes under its name; docs/operate/nfs.md has
# the figures.
DEFAULTS: Mapping[str, str] = {
    # An error for a late answer would reach the programs in the containers.
    "hard": "",
    "proto": "tcp",
    # One connection is one queue and, in the cloud, one limit of speed; but a server of thousands
    # of nodes has to keep them all.
    "nconnect": "2",
    # Layers never change: their attributes may be old. Found records may be 5 s old...
    "acregmin": "600",
    "acregmax": "3600",
    "acdirmin": "1",
    "acdirmax": "5",
    # ...but what was not found is asked for each time: it may have been built since.
    "lookupcache": "positive",
    # A connection on which nothing comes back for timeo x (retrans + 1) = 30 s is made anew.
    "timeo": "100",
    "retrans": "2",
}

_REFUSED = {
    "rw": "nodes only read the store",
    "soft": "running containers would get read errors in an outage; look-ups have deadlines anyway",
    "softerr": "running containers would get read errors in an outage",
    "addr": "it comes from the server's name",
}
_IMPLIED = ("ro", "nodev", "nosuid", "noexec", "noatime", "nodiratime", "_netdev")
"""Flags of every mount, or notes for other programs: no option of the NFS client."""


class Unusable(errors.PermanentError):
    """What the operator asked for cannot be; `reason` says why.

    `setting` is the field of `agent.settings.agent_settings.Agent` whose value makes no sense; ""
    where the cause is the node.
    """

    def __init__(self, reason: str, *, setting: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.setting = setting


_MOUNT_NAME = re.compile(r"/.+\.mounts/[0-9a-f]{8}-[1-9][0-9]*")
"""As Wanted.folder, Wanted.key and a number make the places of mounts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """SERVER:/PATH, as in fstab(5); an IPv6 address stands in brackets."""

    server: str
    path: str

    @property
    def source(self) -> str:
        """As mount(2) takes it and the mount table shows it."""
        server = f"[{self.server}]" if ":" in self.server else self.server
        return f"{server}:{self.path}"


def parse_export(text: str) -> Export:
    """Read SERVER:/PATH; raise Unusable."""
    if text.startswith("["):
        server, separator, path = text[1:].partition("]:/")
        forbidden = "[]/, "
    else:
        server, separator, path = text.partition(":/")
        forbidden = "[]/, :"
    if not separator or not server or any(mark in server for mark in forbidden):
        raise Unusable(f"{text!r} is no NFS export: SERVER:/PATH is expected", setting="nfs")
    return Export(server, "/" + path.strip("/"))


def parse_options(text: str) -> dict[str, str]:
    """The options to mount with: the defaults with those of `text` in place; raise Unusable."""
    options = dict(DEFAULTS)
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, value = word.partition("=")
        if name in _REFUSED:
            reason = f"the NFS option {word} cannot be: {_REFUSED[name]}"
            raise Unusable(reason, setting="nfs_options")
        name = {"nfsvers": "vers"}.get(name, name)
        if name not in _IMPLIED:
            options[name] = value
    if options.get("vers", "").startswith("3"):
        # Locks would need a daemon on the node, and what is only read needs no locks.
        options.setdefault("nolock", "")
    return options


def data(options: Mapping[str, str]) -> str:
    """Options as one string for mount(2)."""
    return ",".join(f"{name}={value}" if value else name for name, value in options.items())


def attempts(options: Mapping[str, str]) -> list[tuple[str, str]]:
    """(file system type, options) to try, in order, until the server speaks one of them."""
    versions = (options["vers"],) if "vers" in options else VERSIONS
    return [
        ("nfs" if version.startswith("3") else "nfs4", data({**options, "vers": version}))
        for version in versions
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """The export to have at `place`, and the options to have it with."""

    export: Export
    options: Mapping[str, str]
    place: pathlib.Path

    @property
    def folder(self) -> pathlib.Path:
        """Where the mounts are, beside the place so that a link to them is relative."""
        return self.place.with_name(f"{self.place.name}.mounts")

    @property
    def key(self) -> str:
        """What the names of mounts of this export with these options begin with."""
        text = f"{self.export.source} {data(dict(sorted(self.options.items())))}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def wanted(export: str, options: str, place: pathlib.Path) -> Wanted:
    """From what the operator wrote; raise Unusable."""
    return Wanted(parse_export(export), parse_options(options), place)


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """How it looks on the node. `kind` is "" (nothing), "link", "folder" or "file".

    `link` is what a link points to, `empty` whether a folder is; `mounts` the mount table,
    `layers` the files of the layers that are mounted.
    """

    kind: str
    link: str = ""
    empty: bool = False
    mounts: Sequence[mountinfo.Entry] = ()
    layers: Collection[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do, in this order.

    mount: a folder to mount the export on; "" where it is there already.
    link: what the place must point to from now on; "" where it does, or is a mount itself.
    old: mounts by this agent that are not the store any more.
    unmount: those of them that no layer is from.
    path: where the store is then.
    """

    path: pathlib.Path
    mount: str = ""
    link: str = ""
    old: tuple[str, ...] = ()
    unmount: tuple[str, ...] = ()


def plan(aim: Wanted, seen: Seen, stale: Collection[str] = ()) -> Plan:
    """Decide what to do. `stale` are mounts whose export is gone; raise Unusable.

    A mount at the place that the agent has not made is used as it is, if it is the export,
    and never changed.
    """
    own = {entry.target for entry in seen.mounts if entry.target.startswith(f"{aim.folder}/")}
    if foreign := [entry for entry in seen.mounts if entry.target == str(aim.place)]:
        _check_foreign(aim, foreign[-1], stale)
        return Plan(aim.place, old=tuple(sorted(own)), unmount=_idle(own, seen.layers))
    if seen.kind == "file" or (seen.kind == "folder" and not seen.empty):
        raise Unusable(
            f"{aim.place} exists already: the store is to appear there as a link to its mount;"
            " move it away or name another --store"
        )
    linked = str(aim.place.parent / seen.link) if seen.link else ""
    usable = sorted(path for path in own - set(stale) if _is_of(aim, path))
    target = linked if linked in usable else next(iter(usable), "")
    mount = "" if target else _unused(aim, own)
    path = target or mount
    return Plan(
        pathlib.Path(path),
        mount=mount,
        link="" if path == linked else f"{aim.folder.name}/{pathlib.PurePath(path).name}",
        old=tuple(sorted(own - {path})),
        unmount=_idle(own - {path}, seen.layers),
    )


def is_agents_mount(target: str) -> bool:
    """Whether a mount was made by an agent, of whatever export: its name says so."""
    return _MOUNT_NAME.fullmatch(target) is not None


def _is_of(aim: Wanted, path: str) -> bool:
    return pathlib.PurePath(path).name.startswith(f"{aim.key}-")


def _idle(paths: Collection[str], layers: Collection[str]) -> tuple[str, ...]:
    """Those without a layer. The kernel would not know: a layer holds the mount that its
    snapshotter saw, and after a restart of the snapshotter that is another one."""
    return tuple(
        path for path in sorted(paths) if not any(file.startswith(f"{path}/") for file in layers)
    )


def _unused(aim: Wanted, taken: Collection[str]) -> str:
    number = 1
    while (path := f"{aim.folder}/{aim.key}-{number}") in taken:
        number += 1
    return path


def _check_foreign(aim: Wanted, entry: mountinfo.Entry, stale: Collection[str]) -> None:
    if not entry.kind.startswith("nfs") or entry.source.rstrip("/") != aim.export.source.rstrip(
        "/"
    ):
        raise Unusable(
            f"{entry.source} ({entry.kind}) is mounted on {aim.place}, not {aim.export.source};"
            " unmount it, or leave out --nfs to use it"
        )
    if entry.target in stale:
        raise Unusable(
            f"{aim.place} was not mounted by the agent and its export is gone (stale file handle):"
            f" unmount it (umount -l {aim.place}), then the agent mounts it itself"
        )
