"""The folders of ordinary snapshots, `<root>/s/<id>/{fs,work}`: as overlayfs's own.

All of it is on the local disk. A folder is made before its record and removed
after it, so a crash leaves folders without records, never the other way round.
"""

import contextlib
import os
import pathlib
import re
import shutil

from agent.mounts import mountinfo

_OWN_ROOT = re.compile(r"/s/(\d+)/fs$")
_MENTIONED = re.compile(r"(?:^|[:=/,])(\d+)/(?:fs|work)(?=$|[:,])")


class Folders:
    """The snapshots' folders below `root`."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = f"{root}/s"
        os.makedirs(self._root, mode=0o700, exist_ok=True)

    def upper(self, id_: int) -> str:
        """Where the snapshot's files are."""
        return f"{self._root}/{id_}/fs"

    def work(self, id_: int) -> str:
        """Overlay's working folder of an active snapshot."""
        return f"{self._root}/{id_}/work"

    def make(self, id_: int, *, work: bool, like: str | None) -> None:
        """Make the folders of a new snapshot; `like` is whose owner its root gets.

        Modes are set apart from mkdir(2): the umask is the caller's business.
        """
        base = f"{self._root}/{id_}"
        os.mkdir(base)
        os.chmod(base, 0o700)
        os.mkdir(f"{base}/fs")
        os.chmod(f"{base}/fs", 0o755)  # noqa: S103 - the root folder of a container
        if work:
            os.mkdir(f"{base}/work", 0o711)
        if like is not None:
            owner = os.stat(like)
            if (owner.st_uid, owner.st_gid) != (0, 0):
                os.chown(f"{base}/fs", owner.st_uid, owner.st_gid)

    def remove(self, id_: int) -> None:
        """Remove a snapshot's folders, as far as they are there."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(f"{self._root}/{id_}")

    def ids(self) -> set[int]:
        """The ids of all folders that are there."""
        return {int(name) for name in os.listdir(self._root) if name.isdigit()}

    def mounted_ids(self) -> set[int]:
        """The ids of folders that a mount uses, so also those of running containers.

        containerd shortens long lists of lower folders to relative paths, so any
        `<number>/fs` among an overlay's options counts: better one too many.
        """
        used: set[int] = set()
        for entry in mountinfo.read():
            if match := _OWN_ROOT.search(entry.root):
                used.add(int(match[1]))
            if entry.kind == "overlay":
                used.update(int(number) for number in _MENTIONED.findall(entry.options))
        return used
