"""One mount per layer on this node, shared by all snapshots: `<root>/layers/<short>`.

One mount means one superblock and so one page cache. The table is rebuilt from
the kernel's at start (adopt, never unmount) and each use verifies, by st_dev, that
what is mounted is still the layer: an empty mountpoint under an overlay would be
silent wrong content.
"""

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from agent import errors
from agent.kits.processes import workers
from agent.mounts import mountinfo, mountpoints
from agent.mounts.devices import (
    device_mapper,
    layer_files,
    layer_labels,
    layer_mounting,
    loop_devices,
)

logger = logging.getLogger(__name__)

_SPARE_DEVICES = 32
"""Unused loop devices that are ready for the layers of the next image; each takes 75 KB."""

_SETTLED_SECONDS = 1.0
"""After a start or mounts: no device is made while an image is being mounted."""


class MountError(errors.TemporaryError):
    """A layer could not be mounted; `diff_id` names it, `reason` says why."""

    def __init__(self, diff_id: str, reason: str) -> None:
        super().__init__(f"layer {diff_id} cannot be mounted: {reason}")
        self.diff_id = diff_id
        self.reason = reason


class CorruptError(MountError):
    """Bytes of a layer are not what was built; `diff_id` names it."""


class NotVerifiableError(MountError):
    """A layer is to be verified, but has no hash tree; `diff_id` names it."""

    def __init__(self, diff_id: str) -> None:
        super().__init__(diff_id, "it has no hash tree: `uimgacc store verity` makes them")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How layers are mounted.

    `way` is one of those of devices.layer_mounting. With `verify` a layer that is mounted without
    dm-verity, from before, does not count as mounted; nor does, with `label`, one without that
    SELinux label.
    """

    way: str = layer_mounting.STORED
    label: str = ""
    verify: bool = False


class LayerMounts:
    """The mounted layers below `folder`, which must exist, on the local file system.

    `pool` runs the OPERATIONS of devices.layer_mounting and mount_users. `store` is where
    the store appears; if that is a link to one of several mounts (agent.mounts.nfs), a
    layer from another one than now is not taken for mounted: that one's export may be gone.
    That does not matter to a layer that is mounted from its local copy.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        pool: workers.Caller,
        *,
        deadline: float,
        store: pathlib.Path | None = None,
        manner: Manner | None = None,
    ) -> None:
        self._manner = manner or Manner()
        self._copies = f"{os.path.realpath(layer_files.copies_of(f'{folder}/-'))}/"
        self._files: dict[str, tuple[int, bool]] = {}
        self._unfit: set[str] = set()
        self._store = store
        self._linked = ""
        self._outdated: set[str] = set()
        self._folder = folder
        self._pool = pool
        self._deadline = deadline
        self._devices: dict[str, int] = {}
        self._under_way: dict[str, asyncio.Future[MountError | None]] = {}
        self._confirmed: set[str] = set()
        self._stay_mounted: set[str] = set()
        self._did_mount = asyncio.Event()
        self.untidy = asyncio.Event()
        """Set where layers may be mounted that no snapshot refers to; their owner clears it."""

    def __len__(self) -> int:
        return len(self._devices)

    def path(self, diff_id: str) -> str:
        """The mountpoint of a layer."""
        return mountpoints.mountpoint(str(self._folder), diff_id.removeprefix("sha256:"))

    def adopt(self) -> None:
        """Take over layers that are mounted already, from the kernel's mount table.

        They were mounted before a restart of this process, or by a worker that was given up.
        """
        for diff_id, (entry, _) in self._mounted().items():
            if diff_id not in self._under_way:
                self._devices[diff_id] = entry.device
                lacks_checks = self._manner.verify and not mountinfo.is_verified(entry.source)
                if lacks_checks or self._manner.label not in ("", layer_labels.of(entry)):
                    self._unfit.add(diff_id)

    async def identify(self) -> None:
        """Learn which files are behind the layers that another process has mounted.

        Their paths are not whole where that was in a container that has ended. Without an
        answer such a layer is not taken for mounted, and is looked at again when it is used.
        """
        if self._unknown(self._mounted().values()):
            await self._ask_for_files()

    def _unknown(self, mounts: Iterable[tuple[mountinfo.Entry, str]]) -> bool:
        """Whether the path of one of these layers' files is not whole."""
        places = [self._copies]
        if self._store is not None:
            places += [f"{os.path.realpath(self._store.parent)}/", f"{self._store}/"]
        return any(
            loop_devices.beneath(entry.source) and not file.startswith(tuple(places))
            for entry, file in mounts
        )

    async def _ask_for_files(self) -> None:
        try:
            self._files = await self._pool.call(
                "mounted_files", str(self._folder), deadline=self._deadline
            )
        except (OSError, errors.AgentError) as error:
            logger.warning("the files behind layers are not known", extra={"reason": str(error)})

    async def keep_devices(self) -> None:
        """Have some unused loop devices ready, for ever: to make one takes longer than a mount."""
        while True:
            await asyncio.sleep(_SETTLED_SECONDS)
            self._did_mount.clear()
            try:
                await self._pool.call("spare_devices", _SPARE_DEVICES, deadline=self._deadline)
            except (OSError, errors.AgentError) as error:
                logger.info("no spare loop devices", extra={"reason": str(error)})
            await self._did_mount.wait()

    async def copies(self, diff_ids: Iterable[str]) -> set[str]:
        """Those of some layers that are mounted from this node's own copies now."""
        mounted = self._mounted()
        known = [each for each in diff_ids if each in mounted]
        found = {each for each in known if mounted[each][1].startswith(self._copies)}
        if self._unknown(mounted[each] for each in known):
            await self._ask_for_files()
            sources = {source for source, (_, is_copy) in self._files.items() if is_copy}
            found |= {each for each in known if mounted[each][0].source in sources}
        return found

    def _mounted(self) -> dict[str, tuple[mountinfo.Entry, str]]:
        """The mount of each layer, and its file as far as known; of several the last."""
        mounted = {}
        for entry in layer_files.mounted_below(str(self._folder)):
            file = mountinfo.backing_file(entry.source)
            diff_id = f"sha256:{pathlib.PurePath(file).stem}"
            if self.path(diff_id) == entry.target:
                mounted[diff_id] = (entry, file)
        return mounted

    def is_mounted(self, diff_id: str) -> bool:
        """Whether the layer is mounted at its place now. Touches no file of the store."""
        return not self.missing((diff_id,))

    def missing(self, diff_ids: Iterable[str]) -> list[str]:
        """Those that are not mounted at their places now, each once; as `is_mounted`."""
        self._note_outdated()
        missing = []
        for diff_id in dict.fromkeys(diff_ids):
            device = self._devices.get(diff_id)
            if device is None or diff_id in self._outdated or diff_id in self._unfit:
                missing.append(diff_id)
                continue
            try:
                if os.stat(self.path(diff_id)).st_dev == device:  # noqa: PTH116 - hot, and a str
                    continue
            except OSError:
                pass
            del self._devices[diff_id]
            missing.append(diff_id)
        return missing

    def _note_outdated(self) -> None:
        """Note which layers are from a mount of the store that another one has replaced."""
        if self._store is None:
            return
        try:
            linked = os.readlink(self._store)  # noqa: PTH115 - hot
        except OSError:
            # The store is a folder, or is not there: no other mount has taken its place.
            self._outdated = set()
            self._linked = ""
            return
        if linked != self._linked:
            self._linked = linked
            place = os.path.realpath(self._store.parent)
            self._outdated = {
                known
                for known, (entry, file) in self._mounted().items()
                if not self._is_from(entry.source, file, place, linked)
            }

    def _is_from(self, source: str, file: str, place: str, linked: str) -> bool:
        """Whether a layer's file is on a mount of the store, `linked` in the folder `place`."""
        if file.startswith((f"{place}/{linked}/", self._copies)):
            return True
        if file.startswith(f"{place}/") or source not in self._files:
            return False
        # The path is not whole.
        device, is_copy = self._files[source]
        mounts = [each.device for each in mountinfo.read() if each.target == f"{place}/{linked}"]
        return is_copy or device in mounts[-1:]

    def is_confirmed(self, diff_id: str) -> bool:
        """Whether `confirm` was called since the layer was mounted."""
        return diff_id in self._confirmed

    def confirm(self, diff_id: str) -> None:
        """Note that the store was found to have the layer after it had been mounted."""
        self._confirmed.add(diff_id)

    def note_mounted(self, diff_id: str, device: int, *, confirmed: bool) -> None:
        """Take over what a worker has just mounted while it looked the layer up.

        Not where a mount or unmount of it is under way: `ensure` waits for that.
        """
        if diff_id in self._under_way:
            return
        self._devices[diff_id] = device
        self._did_mount.set()
        self._outdated.discard(diff_id)
        self._unfit.discard(diff_id)
        if confirmed:
            self._confirmed.add(diff_id)
        else:
            self._confirmed.discard(diff_id)

    async def ensure(
        self,
        diff_id: str,
        source: pathlib.Path,
        size: int,
        *,
        tree: device_mapper.Tree | None = None,
    ) -> None:
        """Mount the layer unless it is mounted; callers at the same time share one mount(2).

        And its failure: one after the other, a hundred would wait for a hundred deadlines
        of a store that hangs. With `tree` each block is verified. Raises MountError.
        """
        while not self.is_mounted(diff_id):
            under_way = self._under_way.get(diff_id)
            if under_way is None:
                how = (self._manner.way, self._manner.label)
                arguments = (str(source), self.path(diff_id), size, tree, *how)
                await self._mount(diff_id, arguments)
                return
            await asyncio.wait([under_way])
            if (failed := under_way.result()) is not None:
                raise type(failed)(diff_id, failed.reason) from failed.__cause__

    async def _mount(self, diff_id: str, arguments: tuple[Any, ...]) -> None:
        done = self._under_way[diff_id] = asyncio.get_running_loop().create_future()
        self._confirmed.discard(diff_id)
        failed: MountError | None = None
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path(diff_id), 0o700)  # noqa: PTH102 - hot, and a str
            self._devices[diff_id] = await self._pool.call(
                "mount_layer", *arguments, deadline=self._deadline
            )
            self._did_mount.set()
            self._outdated.discard(diff_id)
            self._unfit.discard(diff_id)
        except (OSError, errors.AgentError) as error:
            is_corrupt = isinstance(error, OSError) and error.errno == errno.EBADMSG
            failed = (CorruptError if is_corrupt else MountError)(diff_id, str(error))
            raise failed from error
        finally:
            del self._under_way[diff_id]
            done.set_result(failed)

    async def drop_all_but(
        self, wanted: set[str], *, is_wanted: Callable[[str], Awaitable[bool]]
    ) -> None:
        """Unmount the layers that are not in `wanted`; sets `untidy` where some stay mounted.

        The caller has made sure that no snapshot refers to the others. As each may take
        its time, `is_wanted` is called again for one just before it is unmounted. What a
        container runs on stays, with a snapshot or without (agent.mounts.mount_users).
        `ensure` waits for an unmount that is under way, and mounts the layer again.
        """
        self.adopt()
        idle = [known for known in self._devices if known not in wanted]
        if not idle:
            return
        try:
            used = await self._pool.call("used_layers", str(self._folder), deadline=self._deadline)
        except (OSError, errors.AgentError) as error:
            logger.warning("idle layers stay mounted", extra={"reason": str(error)})
            self.untidy.set()
            return
        for diff_id in idle:
            if pathlib.PurePath(self.path(diff_id)).name in used:
                self.untidy.set()
                continue
            # Nothing may be awaited between this answer and `_drop`.
            if await is_wanted(diff_id) or diff_id in self._under_way:
                continue
            if diff_id in self._devices:
                await self._drop(diff_id)

    async def _drop(self, diff_id: str) -> None:
        done = self._under_way[diff_id] = asyncio.get_running_loop().create_future()
        device = self._devices.pop(diff_id)
        dropped = False
        try:
            await self._pool.call("unmount_layer", self.path(diff_id), deadline=self._deadline)
            dropped = True
        except (OSError, errors.AgentError) as error:
            level = logging.DEBUG if diff_id in self._stay_mounted else logging.WARNING
            logger.log(
                level, "an idle layer stays mounted", extra={"layer": diff_id, "reason": str(error)}
            )
        finally:
            # Also where the caller is cancelled: else the layer would stay mounted for good.
            if dropped:
                self._stay_mounted.discard(diff_id)
            else:
                self._devices[diff_id] = device
                self._stay_mounted.add(diff_id)
                self.untidy.set()
            del self._under_way[diff_id]
            done.set_result(None)
