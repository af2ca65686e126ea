"""The pods of a folder of manifests, for a machine without a cluster.

As with a kubelet's static pods, each file holds one or several documents, is best
replaced by a rename, and its pods are gone when it is. The file system's notifications
are hints only: a hint makes a file be read again. Files are read with aiofiles, so that
a slow disk does not stop the event loop.
"""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import aiofiles
import aiofiles.os
import asyncinotify
import yaml

from agent.model import manifests, pods, workloads
from agent.node.pods import pod_source

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


class Folder:
    """The pods of a folder's manifests (`*.yaml`, `*.yml`, `*.json`; not hidden files).

    A document that cannot be read is logged with the field at fault; its file's earlier
    pods stay, and other documents and files are not affected. Beside the hints the folder
    is read every `rescan` seconds: a hint may be lost, and the folder may be created later.
    """

    def __init__(self, folder: pathlib.Path, *, rescan: float = _RESCAN_SECONDS) -> None:
        self._folder = folder
        self._rescan = rescan
        self._signatures: dict[str, tuple[int, int, int]] = {}
        self._by_file: dict[str, Mapping[str, pods.Pod]] = {}
        self._known: dict[str, pods.Pod] = {}
        self._problems: dict[str, str] = {}
        self.synced = False

    @property
    def problems(self) -> Mapping[str, str]:
        """File name -> what is wrong with it now, for people."""
        return self._problems

    async def changes(self) -> AsyncIterator[pod_source.Change]:
        """See PodSource. Never raises for what is in the folder."""
        loop = asyncio.get_running_loop()
        self._known.clear()
        with asyncinotify.Inotify() as inotify:
            watched: _Watched | None = None
            while True:
                if watched and not await watched.exists_at(self._folder):
                    watched.end(inotify)
                    watched = None
                # The watch comes first: a change while the folder is read gives a hint already.
                watched = watched or await _watch(inotify, self._folder)
                await self._scan()
                for change in self._differences():
                    yield change
                self.synced = True
                # A folder that does not exist yet is looked for more often.
                until = loop.time() + (self._rescan if watched else min(self._rescan, 1.0))
                while (name := await _hint(inotify, until)) is not None:
                    await self._scan_file(name)
                    for change in self._differences():
                        yield change

    def is_running(self, key: str) -> bool:
        """See PodSource. A manifest does not say."""
        return False

    async def _scan(self) -> None:
        """Read the files that have changed since they were read last."""
        try:
            names = set(filter(_is_manifest, await aiofiles.os.listdir(self._folder)))
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
            await self._scan_file(name)

    async def _scan_file(self, name: str) -> None:
        """Read one file, if it has changed since it was read last."""
        try:
            data = await self._changed_content(name)
        except (FileNotFoundError, NotADirectoryError):
            self._signatures.pop(name, None)
            self._by_file.pop(name, None)
            self._problems.pop(name, None)
        except OSError as error:
            self._complain(name, "", str(error))
        else:
            if data is not None:
                self._read(name, data)

    async def _changed_content(self, name: str) -> bytes | None:
        """The bytes of a file; None where it is unchanged, or cannot be a manifest."""
        path = self._folder / name
        status = await aiofiles.os.stat(path)
        signature = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._signatures.get(name) == signature:
            return None
        self._signatures[name] = signature
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > _FILE_LIMIT:
            self._complain(name, "", f"larger than {_FILE_LIMIT >> 20} MiB")
            return None
        async with aiofiles.open(path, "rb") as file:
            return await file.read(_FILE_LIMIT)

    def _read(self, name: str, data: bytes) -> None:
        self._problems.pop(name, None)
        in_file: dict[str, pods.Pod] = {}
        try:
            for document in yaml.load_all(data, Loader=_Loader):
                self._read_document(name, document, in_file)
        except (yaml.YAMLError, RecursionError) as error:
            self._complain(name, "", " ".join(str(error).split()))
        if name in self._problems:
            # A mistake in a file takes no pod away.
            in_file = {**self._by_file.get(name, {}), **in_file}
        self._by_file[name] = in_file

    def _read_document(self, name: str, document: Any, in_file: dict[str, pods.Pod]) -> None:
        if document is None:
            return
        try:
            manifests.document(document)
            for pod in workloads.pods_of(document):
                in_file[pod_source.key_of(pod)] = pod
        except manifests.ManifestError as error:
            self._complain(name, error.field, error.reason)

    def _complain(self, name: str, field: str, reason: str) -> None:
        self._problems[name] = f"{field}: {reason}" if field else reason
        logger.warning(
            "a manifest cannot be used", extra={"file": name, "field": field, "reason": reason}
        )

    def _differences(self) -> Iterator[pod_source.Change]:
        """The changes since the last call; of several files with a key the first one counts."""
        current: dict[str, pods.Pod] = {}
        for name in sorted(self._by_file):
            for key, pod in self._by_file[name].items():
                current.setdefault(key, pod)
        for key in [key for key in self._known if key not in current]:
            del self._known[key]
            yield pod_source.Change(key, None)
        for key, pod in current.items():
            if self._known.get(key) != pod:
                self._known[key] = pod
                yield pod_source.Change(key, pod)


def _is_manifest(name: str) -> bool:
    return not name.startswith(".") and pathlib.PurePath(name).suffix in _SUFFIXES


@dataclasses.dataclass(frozen=True, slots=True)
class _Watched:
    """A folder that is watched, distinguishable from another one at the same path."""

    watch: asyncinotify.Watch
    identity: tuple[int, int]

    async def exists_at(self, folder: pathlib.Path) -> bool:
        """Whether the folder at the path is still this one."""
        try:
            return await _identity(folder) == self.identity
        except OSError:
            return False

    def end(self, inotify: asyncinotify.Inotify) -> None:
        """End the watch; the kernel has done so itself where the folder is gone."""
        with contextlib.suppress(OSError, ValueError):
            inotify.rm_watch(self.watch)


async def _watch(inotify: asyncinotify.Inotify, folder: pathlib.Path) -> _Watched | None:
    try:
        return _Watched(inotify.add_watch(folder, _CHANGES), await _identity(folder))
    except OSError:
        return None


async def _hint(inotify: asyncinotify.Inotify, until: float) -> str | None:
    """The name of a file that may have changed; None: read the whole folder."""
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
        if not _is_manifest(name):
            continue
        if _Mask.CREATE not in event.mask or await _is_link(event.path):
            return name


async def _is_link(path: pathlib.Path | None) -> bool:
    """Whether a new name is a link, which is complete. Other files give a hint when closed."""
    try:
        status = await aiofiles.os.stat(path, follow_symlinks=False) if path else None
    except OSError:
        return False
    return status is not None and (stat.S_ISLNK(status.st_mode) or status.st_nlink > 1)


async def _identity(folder: pathlib.Path) -> tuple[int, int]:
    status = await aiofiles.os.stat(folder)
    return status.st_dev, status.st_ino


# libyaml's is ten times as fast: a manifest in 0.3 ms. Wheels have it; a build without it works.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
