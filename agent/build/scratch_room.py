"""Where mkfs.erofs works: what the layers at work take there together is bounded.

It writes the files of a layer uncompressed before it makes the image. Where a builder's volume
has a limit, the kubelet evicts a pod that exceeds it, seconds later; where it has none, a full
disk harms everything else on the node. So what is handed to mkfs.erofs is counted, and refused
before either happens.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator

from agent import errors
from agent.build import mkfs_erofs
from agent.kits import units

RESERVE = 1 << 30
"""Bytes of a disk that are left free; of a small one a twentieth."""

_LOOK = 64 << 20
"""Bytes between two looks at what is free."""


class ScratchExceeded(errors.PermanentError):
    """The layers at work need more room than they may have. `folder` is where, `limit` bytes."""

    def __init__(self, folder: str, limit: int) -> None:
        super().__init__(
            f"the layers at work unpack to more than the {units.size(limit)} that they may take"
            f" together in {folder}: raise the controller's --scratch, or leave the image to pulls"
        )
        self.folder = folder
        self.limit = limit


class Room:
    """The room in `folder` for all layers at work: `limit` bytes, None where the disk decides."""

    def __init__(self, folder: pathlib.Path, limit: int | None = None) -> None:
        self.folder = folder
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def share(self) -> Iterator["Share"]:
        """The room that one layer takes, until the context is left."""
        share = Share(self)
        try:
            yield share
        finally:
            self.change(-share.taken)

    def change(self, count: int) -> None:
        """Take more bytes, or give some back; raise ScratchExceeded."""
        with self._lock:
            self._taken += count
            if count > 0 and self._limit is not None and self._taken > self._limit:
                raise ScratchExceeded(str(self.folder), self._limit)

    def require_free(self) -> None:
        """Raise mkfs_erofs.DiskFull where the disk is nearly full."""
        space = os.statvfs(self.folder)
        reserve = min(RESERVE, space.f_blocks * space.f_frsize // 20)
        if space.f_bavail * space.f_frsize < reserve:
            raise mkfs_erofs.DiskFull(str(self.folder))


class Share:
    """What one layer has taken of it. For one thread."""

    def __init__(self, room: Room) -> None:
        self.taken = 0
        self._room = room
        self._next_look = 0

    def take(self, count: int) -> None:
        """Count bytes before they are written; raise ScratchExceeded, mkfs_erofs.DiskFull."""
        self.taken += count
        self._room.change(count)
        if self.taken >= self._next_look:
            self._next_look = self.taken + _LOOK
            self._room.require_free()
