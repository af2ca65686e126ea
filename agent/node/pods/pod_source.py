"""Which pods are on this node: the seam, and the pods of a folder of manifests.

A folder serves a machine without a cluster, as static pods serve a kubelet: each
file holds one or several documents, is best replaced by a rename, and its pods go
when it does. What the file system reports is only a hint to read the file again.
"""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Protocol

import asyncinotify
import yaml

from agent.model import manifests, pods, workloads

logger = logging.getLogger(__name__)

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_FILE_LIMIT = 4 << 20
_RESCAN_SECONDS = 20.0
_Mask = asyncinotify.Mask
_CHANGES = (
    _Mask.CLOSE_WRITE
    | _Mask.CREATE
    | _Mask.MOVED_TO
    | _Mask.MOVED_FROM
    | _Mask.DELETE
    | _Mask.DELETE_SELF
    | _Mask.MOVE_SELF
    | _Mask.ONLYDIR
)


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """The pod under a key (`namespace/name`) is now this one; None: it is gone."""

    key: str
    pod: pods.Pod | None


class PodSource(Protocol):
    """The pods of this node.

    After a failure that it cannot get over itself, `changes` raises; a new call
    begins again with all pods.
    """

    @property
    def synced(self) -> bool:
        """Whether all pods that were there at the start have been told."""

    @property
    def problems(self) -> Mapping[str, str]:
        """Where something is wrong now (a file's name) -> what, for people."""

    def changes(self) -> AsyncIterator[Change]:
        """All pods that there are, then each change; a key's last change is the truth."""

    def is_running(self, key: str) -> bool:
        """Whether a pod's containers have all started already, with the images it has now."""


class Folder:
    """The pods of a folder's manifests (`*.yaml`, `*.yml`, `*.json`; not hidden files).

    A document that cannot be read is logged with the field at fault; what its file
    held before stays, and other documents and files are not affected. Beside the
    file system's hints the folder is looked through every `rescan` seconds: a hint
    may be lost, and the folder may come into being later.
    """

    def __init__(self, folder: pathlib.Path, *, rescan: float = _RESCAN_SECONDS) -> None:
        self._folder = folder
        self._rescan = rescan
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._by_file: dict[str, Mapping[str, pods.Pod]] = {}
        self._told: dict[str, pods.Pod] = {}
        self._problems: dict[str, str] = {}
        self.synced = False

    @property
    def problems(self) -> Mapping[str, str]:
        """File name -> what is wrong with it now, for people."""
        return self._problems

    async def changes(self) -> AsyncIterator[Change]:
        """See PodSource. Never raises for what is in the folder."""
        loop = asyncio.get_running_loop()
        self._told.clear()
        with asyncinotify.Inotify() as inotify:
            watched: _Watched | None = None
            while True:
                if watched and not watched.stands(self._folder):
                    watched.end(inotify)
                    watched = None
                # The watch comes first: what changes while the folder is read is a hint already.
                watched = watched or _watch(inotify, self._folder)
                for change in (*self._scan(), *self._differences()):
                    yield change
                self.synced = True
                # Until the folder is there, it is looked for more often than it is looked through.
                until = loop.time() + (self._rescan if watched else min(self._rescan, 1.0))
                while (name := await _hint(inotify, until)) is not None:
                    for change in self._scan_file(name):
                        yield change

    def is_running(self, key: str) -> bool:
        """See PodSource. A manifest does not tell."""
        return False

    def _scan(self) -> Iterator[Change]:
        """Read what has changed since it was read last."""
        try:
            names = {path.name for path in self._folder.iterdir() if _is_manifest(path.name)}
        except OSError as error:
            if self._problems.get("") != str(error):
                logger.warning("the folder of pods cannot be read", extra={"reason": str(error)})
            self._problems = {"": str(error)}
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                return
            names = set()
        else:
            self._problems.pop("", None)
        for name in sorted(names | self._by_file.keys()):
            yield from self._scan_file(name)

    def _scan_file(self, name: str) -> Iterator[Change]:
        path = self._folder / name
        try:
            found = path.stat()
            signature = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._seen.get(name) == signature:
                return
            self._seen[name] = signature
            if not stat.S_ISREG(found.st_mode):
                return
            if found.st_size > _FILE_LIMIT:
                self._complain(name, "", f"larger than {_FILE_LIMIT >> 20} MiB")
                return
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            self._seen.pop(name, None)
            self._by_file.pop(name, None)
            self._problems.pop(name, None)
        except OSError as error:
            self._complain(name, "", str(error))
            return
        else:
            self._read(name, data)
        yield from self._differences()

    def _read(self, name: str, data: bytes) -> None:
        self._problems.pop(name, None)
        found: dict[str, pods.Pod] = {}
        try:
            for document in yaml.load_all(data, Loader=_Loader):
                self._read_document(name, document, found)
        except (yaml.YAMLError, RecursionError) as error:
            self._complain(name, "", " ".join(str(error).split()))
        if name in self._problems:
            # Nothing that exists is taken away by a mistake in a file.
            found = {**self._by_file.get(name, {}), **found}
        self._by_file[name] = found

    def _read_document(self, name: str, document: Any, found: dict[str, pods.Pod]) -> None:
        if document is None:
            return
        try:
            manifests.document(document)
            for pod in workloads.pods_of(document):
                found[key_of(pod)] = pod
        except manifests.ManifestError as error:
            self._complain(name, error.field, error.reason)

    def _complain(self, name: str, field: str, reason: str) -> None:
        self._problems[name] = f"{field}: {reason}" if field else reason
        logger.warning(
            "a manifest cannot be used", extra={"file": name, "field": field, "reason": reason}
        )

    def _differences(self) -> Iterator[Change]:
        """What is there now against what has been told; the first file with a key has it."""
        current: dict[str, pods.Pod] = {}
        for name in sorted(self._by_file):
            for key, pod in self._by_file[name].items():
                current.setdefault(key, pod)
        for key in [key for key in self._told if key not in current]:
            del self._told[key]
            yield Change(key, None)
        for key, pod in current.items():
            if self._told.get(key) != pod:
                self._told[key] = pod
                yield Change(key, pod)


def key_of(pod: pods.Pod) -> str:
    """What a pod is known by on its node: `namespace/name`."""
    return f"{pod.namespace}/{pod.name}"


def _is_manifest(name: str) -> bool:
    return not name.startswith(".") and pathlib.PurePath(name).suffix in _SUFFIXES


@dataclasses.dataclass(frozen=True, slots=True)
class _Watched:
    """A folder that is watched, told from another one that may stand there later."""

    watch: asyncinotify.Watch
    identity: tuple[int, int]

    def stands(self, folder: pathlib.Path) -> bool:
        """Whether the folder at the path is still this one."""
        try:
            return _identity(folder) == self.identity
        except OSError:
            return False

    def end(self, inotify: asyncinotify.Inotify) -> None:
        """Watch it no more; the kernel has ended that itself where the folder is gone."""
        with contextlib.suppress(OSError, ValueError):
            inotify.rm_watch(self.watch)


def _watch(inotify: asyncinotify.Inotify, folder: pathlib.Path) -> _Watched | None:
    try:
        return _Watched(inotify.add_watch(folder, _CHANGES), _identity(folder))
    except OSError:
        return None


async def _hint(inotify: asyncinotify.Inotify, until: float) -> str | None:
    """The name of a file that may have changed; None: look through the folder."""
    while True:
        try:
            async with asyncio.timeout_at(until):
                event = await inotify.get()
        except TimeoutError:
            return None
        name = "" if event.name is None else event.name.name
        # Two dots: a volume of Kubernetes swaps its whole content.
        if not name or name.startswith("..") or _Mask.Q_OVERFLOW in event.mask:
            return None
        if _is_manifest(name) and (_Mask.CREATE not in event.mask or _is_link(event.path)):
            return name


def _is_link(path: pathlib.Path | None) -> bool:
    """Whether a new name is whole at once: a link. Another file is reported when it is closed."""
    try:
        found = path.lstat() if path else None
    except OSError:
        return False
    return found is not None and (stat.S_ISLNK(found.st_mode) or found.st_nlink > 1)


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


# libyaml's is ten times as fast: a manifest in 0.3 ms. Wheels have it; a build without it works.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
