"""The folders of ordinary snapshots, `<root>/s/<id>/{fs,work}`: as overlayfs's own.

All of it is on the local disk. A folder is made before its record and removed
after it, so a crash leaves folders without records, never the other way round.
"""

import contextlib
import itertools
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterator

from agent.mounts import mount_users, mountpoints

_OWN_ROOT = re.compile(r"/s/(\d+)/fs$")
_MENTIONED = re.compile(r"(?:^|[,:=])((?:[^,:=]*/)?)(\d+)/(?:fs|work)(?=$|[,:])")
_REMOVED_AT_ONCE = 10_000


class Ids:
    """Numbers of snapshots, none given twice; `last` is the highest that was given before.

    A reserved one has folders and no record yet: a clean-up leaves them alone.
    """

    def __init__(self, last: int) -> None:
        self._last = last
        self._reserved: set[int] = set()

    @property
    def reserved(self) -> frozenset[int]:
        """Those that are reserved now."""
        return frozenset(self._reserved)

    def next(self) -> int:
        """A new one."""
        self._last += 1
        return self._last

    def reserve(self) -> int:
        """A new one, reserved until it is released."""
        id_ = self.next()
        self._reserved.add(id_)
        return id_

    def release(self, id_: int) -> None:
        """End a reservation: the number has a record now, or its folders may go."""
        self._reserved.discard(id_)


class Folders:
    """The snapshots' folders below `root`."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = f"{root}/s"
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        self._spellings = {f"{self._root}/", f"{os.path.realpath(self._root)}/"}
        self._roots = {f"{root}", os.path.realpath(root)}
        self._below = re.compile(rf"{re.escape(os.path.realpath(self._root))}/(\d+)/")
        self.stopped = threading.Event()
        """Once set, `remove` returns early: what it leaves is removed after the next start."""

    def upper(self, id_: int) -> str:
        """Where the snapshot's files are."""
        return f"{self._root}/{id_}/fs"

    def work(self, id_: int) -> str:
        """Overlay's working folder; a view does not need it."""
        return f"{self._root}/{id_}/work"

    def make(self, id_: int) -> None:
        """Make the folders of a snapshot. Modes are set apart: the umask is the caller's."""
        base = f"{self._root}/{id_}"
        os.mkdir(base)
        os.chmod(base, 0o700)
        os.mkdir(f"{base}/fs")
        os.chmod(f"{base}/fs", 0o755)  # noqa: S103 - the root folder of a container
        os.mkdir(f"{base}/work", 0o711)

    def set_owner(self, id_: int, like: str) -> None:
        """Give a snapshot's own root the owner of another one."""
        owner = os.stat(like)
        self.give(id_, (owner.st_uid, owner.st_gid))

    def give(self, id_: int, owner: tuple[int, int]) -> None:
        """Give a snapshot's own root to a user and a group."""
        if owner != (0, 0):
            os.chown(self.upper(id_), *owner)

    def owner(self, id_: int) -> tuple[int, int]:
        """The user and the group that a snapshot's own root belongs to."""
        status = os.stat(self.upper(id_))
        return status.st_uid, status.st_gid

    def remove(self, id_: int) -> None:
        """Remove a snapshot's folders, as far as they are there.

        What is in them was written by a container, which may nest folders deeper than
        any recursion, path or table of open files goes. So each folder inside is moved
        up before it is emptied. The kernel neither moves nor removes what something is
        mounted on (EBUSY): nothing is ever removed through a mount.
        """
        top = f"{self._root}/{id_}"
        # A removal that was broken off has left folders with such names.
        names = (f"{top}/{time.time_ns()}.{number}" for number in itertools.count())
        with contextlib.suppress(FileNotFoundError):
            while left := os.listdir(top):
                for name in left:
                    self._empty(f"{top}/{name}", names)
                    if self.stopped.is_set():
                        return
                    os.rmdir(f"{top}/{name}")
            os.rmdir(top)

    def _empty(self, folder: str, names: Iterator[str]) -> None:
        """Remove the files of a folder and give the folders in it new names."""
        while not self.stopped.is_set():
            with os.scandir(folder) as entries:
                some = list(itertools.islice(entries, _REMOVED_AT_ONCE))
            if not some:
                return
            for entry in some:
                if entry.is_dir(follow_symlinks=False):
                    os.rename(entry.path, next(names))
                else:
                    os.unlink(entry.path)

    def ids(self) -> set[int]:
        """The ids of all folders that are there."""
        return {int(name) for name in os.listdir(self._root) if name.isdigit()}

    def mounted_ids(self) -> set[int]:
        """The ids of folders that a mount uses, so also those of running containers.

        A mount inside a folder counts too: mounts on a bind mount of it appear there.
        """
        used: set[int] = set()
        for entry in itertools.chain.from_iterable(mount_users.all_tables()):
            if match := _OWN_ROOT.search(entry.root) or self._below.match(entry.target):
                used.add(int(match[1]))
            if entry.kind == "overlay":
                used |= self._mentioned(entry.options)
        return used

    def _mentioned(self, options: str) -> set[int]:
        """The ids in an overlay's options.

        containerd makes the lower folders of a long list relative, but never the upper
        one: that distinguishes this snapshotter's folders from those of containerd's own
        overlayfs snapshotter, which has the same numbers. A list that is all relative may be
        of this one: better one too many.
        """
        own: set[int] = set()
        relative: set[int] = set()
        foreign = False
        plain = mountpoints.without_mapped(options, self._roots)
        for before, number in _MENTIONED.findall(plain):
            if before in self._spellings:
                own.add(int(number))
            elif before.startswith("/"):
                foreign = True
            else:
                relative.add(int(number))
        return own if foreign and not own else own | relative


def count(folder: str, stopped: threading.Event) -> tuple[int, int]:
    """Bytes and inodes of a folder and all below it, as containerd counts them (fs.DiskUsage).

    Blocks, not lengths, and a file with several names once; files that vanish meanwhile are
    left out. Gives up early, with what it has, once `stopped` is set.
    """
    size = inodes = 0
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting and not stopped.is_set():
        path = waiting.pop()
        try:
            own = os.lstat(path)
            with os.scandir(path) as listing:
                entries = list(listing)
        except OSError:
            continue
        size, inodes = size + own.st_blocks * 512, inodes + 1
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                stat = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.st_nlink > 1:
                if (stat.st_dev, stat.st_ino) in seen:
                    continue
                seen.add((stat.st_dev, stat.st_ino))
            size, inodes = size + stat.st_blocks * 512, inodes + 1
    return size, inodes
