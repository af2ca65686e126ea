"""The lower folders of snapshots whose containers have a user namespace, shown with its owners.

containerd can map lower folders itself, by the mount options `uidmap=` and `gidmap=`, and its own
overlayfs snapshotter leaves it to that. Here that would be wrong: containerd 2.0.11, 2.1.5 to 2.1.9
and 2.2 map one copy of the folder that all lower folders are in, without what is mounted in there,
so that each layer of the store would be an empty folder; 2.3 copies all mounts of the node's
layers, for each container; 1.7 does not know the options. (core/mount/mount_linux.go,
doPrepareIDMappedOverlay; recursive since containerd commit 552500360.) So the snapshotter shows
each container the layers of its image, and no others, by mounts of its own.

They exist while the snapshot does, are made again where they are gone, and follow from its record:
nothing is lost with this process. The upper folder is not mapped: what a container
writes has the owners that its processes have on the node, as with containerd's own snapshotter.
"""

import os
from collections.abc import Sequence

from agent import errors
from agent.kits.processes import workers
from agent.mounts import mountpoints
from agent.mounts.idmaps import id_ranges, mapped_folders

_MOST_AT_ONCE = 64
"""Snapshots whose folders are hidden in one call of a worker."""


class MapError(errors.TemporaryError):
    """The folders below a snapshot cannot be shown with other owners; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the layers cannot be shown to a user namespace: {reason} (`uimgacc doctor` on this"
            " node looks closer)"
        )
        self.reason = reason


class MappedLowers:
    """What is shown below `<root>/m`; `pool` runs the OPERATIONS of idmaps.mapped_folders."""

    def __init__(self, root: str, pool: workers.Caller, *, deadline: float) -> None:
        self._root = root
        self._folder = f"{root}/{mountpoints.MAPPED}"
        self._pool = pool
        self._deadline = deadline

    async def show(
        self, id_: int, lowers: Sequence[tuple[str, id_ranges.IdMaps | None]]
    ) -> list[str]:
        """Folders for a snapshot, each mapped or as it is; where they are seen. Raises MapError."""
        shown, missing = [], []
        for path, maps in lowers:
            target = path if maps is None else mountpoints.mapped(self._root, id_, path)
            shown.append(target)
            if maps is not None and not mapped_folders.is_shown(path, target):
                texts = map(id_ranges.kernel_text, (maps.uids, maps.gids))
                missing.append((path, target, *texts))
        # A layer may be in a chain twice.
        missing = list(dict.fromkeys(missing))
        if missing:
            try:
                await self._pool.call("show_folders", missing, deadline=self._deadline)
            except (OSError, errors.AgentError) as error:
                raise MapError(str(error)) from error
        return shown

    def ids(self) -> set[int]:
        """The snapshots to which something is shown, or was."""
        return {int(name) for name in self._names() if name.isdecimal()}

    async def hide_all_but(self, ids: set[int]) -> None:
        """Take away what is shown to other snapshots than these. Raises OSError, AgentError."""
        kept = set(map(str, ids))
        idle = [f"{self._folder}/{name}" for name in self._names() if name not in kept]
        for start in range(0, len(idle), _MOST_AT_ONCE):
            some = idle[start : start + _MOST_AT_ONCE]
            await self._pool.call("hide_folders", some, deadline=self._deadline)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []
