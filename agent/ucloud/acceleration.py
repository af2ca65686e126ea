"""What UCloud's five actions do here: image caches, a second tag, and a switch.

Everything that is known is in the cluster's objects, so any controller may answer and
one that was restarted goes on. An image is an ImageCache object; its other name is
pushed when it is Ready (agent.ucloud.alias_push), and the object then holds both
names: pods of the namespaces that it serves, which run the other one, find it ahead of
their pull; those of others have the registry asked, and then its layers.

One operation at a time, as at UCloud's: the script waits for it by asking how it is. A
deletion that nodes hold up is told as an error after a while and goes on by itself: it
keeps nobody from the next operation, which is told of from then on.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from agent import errors
from agent.control.objects import operation_lock
from agent.model import times
from agent.ucloud import accelerated_images, protocol

LEADERLESS = (
    "no controller leads, so nothing is built or deleted: look at the Deployment uimgacc-controller"
)
"""What is told to whoever waits for a controller in vain."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """What was said when acceleration was switched on. None of it is secret."""

    enabled: bool = False
    nfs: str = ""
    subnet: str = ""
    has_login: bool = False


class Objects(Protocol):
    """The cluster's objects behind the actions. Each may raise AgentError, and may be repeated."""

    async def all(self) -> Sequence[accelerated_images.Accelerated]:
        """The image caches that were made by this API."""

    async def create(self, name: str, original: str, target: str) -> None:
        """Make an image cache; one of this name is asked to build anew."""

    async def delete(self, each: accelerated_images.Accelerated) -> None:
        """Delete an image cache, which may take its time."""

    async def tell(self, each: accelerated_images.Accelerated, *, told: bool) -> None:
        """Note whether it was told that the deletion of an image cache is held up."""

    async def led(self) -> bool:
        """Whether a controller leads: without one nothing is built and nothing deleted."""

    async def switch(self) -> Switch:
        """How the switch is."""

    async def turn(self, wanted: protocol.Enable | None) -> None:
        """Switch acceleration of the whole cluster on, or off with None."""


class OperationLock(Protocol):
    """One operation at a time in the cluster (operation_lock.OperationLock)."""

    def held(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Begin an operation within the context; raise Taken."""


class Actions:
    """The actions. `store_problem` says "" or why the store cannot be used now.

    `nfs` is the store that this controller has, as SERVER:/PATH.
    """

    def __init__(
        self,
        objects: Objects,
        lock: OperationLock,
        *,
        nfs: str,
        store_problem: Callable[[], str],
        clock: times.Clock,
    ) -> None:
        self._objects = objects
        self._cluster_lock = lock
        self._nfs = nfs
        self._store_problem = store_problem
        self._clock = clock
        self._lock = asyncio.Lock()

    async def do(self, request: protocol.Request) -> protocol.Situation | None:
        """Do what is asked, or begin it; a situation is returned for Get only.

        Raises ucloud.ApiError.
        """
        try:
            if isinstance(request, protocol.Get):
                return await self._look()
            # Requests to this process wait for each other; those to others find the lock taken.
            async with self._lock, self._cluster_lock.held():
                await self._change(request)
        except operation_lock.Taken as error:
            raise protocol.ApiError(
                protocol.RetCode.BUSY, f"{error}: one operation at a time"
            ) from error
        except errors.TemporaryError as error:
            raise protocol.ApiError(protocol.RetCode.UNAVAILABLE, str(error)) from error
        return None

    async def _change(self, request: protocol.Request) -> None:
        match request:
            case protocol.Enable():
                self._check_nfs(request)
                await self._objects.turn(request)
            case protocol.Create():
                await self._create(request)
            case protocol.Delete():
                await self._delete(request)
            case protocol.Disable():
                self._idle(await self._objects.all())
                await self._objects.turn(None)
            case _:
                raise AssertionError(request)

    def _check_nfs(self, request: protocol.Enable) -> None:
        """The store is where the nodes have it mounted; a request cannot move it.

        Where that is no export that we know of, any address stands for it.
        """
        server = self._nfs.partition(":/")[0]
        if self._nfs and request.nfs not in (self._nfs, server):
            raise protocol.ApiError(
                protocol.RetCode.WRONG_PARAMETER,
                f"Params [NfsAddr] not available: this cluster's store is on {server};"
                f" `uimgacc enable --nfs {request.nfs}:/...` moves it",
            )

    async def _create(self, request: protocol.Create) -> None:
        found = await self._enabled()
        original, target = str(request.original), str(request.target)
        name = accelerated_images.name_of(request.original)
        self._idle(found)
        for each in found:
            if each.deleted is not None:
                if each.name == name:
                    raise protocol.ApiError(protocol.RetCode.BUSY, f"{original} is being deleted")
                continue
            if each.target == target and each.original != original:
                raise protocol.ApiError(
                    protocol.RetCode.ALREADY_THERE, f"{target} is the other name of {each.original}"
                )
            if each.name == name and each.target != target:
                raise protocol.ApiError(
                    protocol.RetCode.ALREADY_THERE,
                    f"{original} is there, its other name is {each.target}: delete it first",
                )
        await self._forget([each for each in found if each.name != name])
        if any(
            each.name == name and accelerated_images.status_of(each) is protocol.Status.READY
            for each in found
        ):
            return
        await self._objects.create(name, original, target)

    async def _delete(self, request: protocol.Delete) -> None:
        found = await self._enabled()
        named = str(request.original)
        # The script says the original; whoever says the other name means the same.
        these = [each for each in found if named in (each.original, each.target)]
        if not these:
            raise protocol.ApiError(protocol.RetCode.NOT_FOUND, f"{named} is not there")
        others = [each for each in found if each not in these]
        self._idle(others)
        await self._forget(others)
        for each in these:
            if each.deleted is None:
                await self._objects.delete(each)
            elif each.told:
                await self._objects.tell(each, told=False)

    async def _forget(self, found: Sequence[accelerated_images.Accelerated]) -> None:
        """Let go of what failed: it was told, and must not be told of what begins now."""
        for each in found:
            if each.deleted is None and accelerated_images.has_failed(each):
                await self._objects.delete(each)
            elif each.deleted is not None and not each.told:
                await self._objects.tell(each, told=True)

    async def _enabled(self) -> Sequence[accelerated_images.Accelerated]:
        if not (await self._objects.switch()).enabled:
            raise protocol.ApiError(
                protocol.RetCode.NOT_ENABLED, "image acceleration is not enabled"
            )
        if problem := self._store_problem():
            raise protocol.ApiError(protocol.RetCode.UNAVAILABLE, f"the store: {problem}")
        if not await self._objects.led():
            raise protocol.ApiError(protocol.RetCode.UNAVAILABLE, LEADERLESS)
        return await self._objects.all()

    def _idle(self, found: Sequence[accelerated_images.Accelerated]) -> None:
        """Raise unless nothing is under way."""
        now = self._clock()
        for each in found:
            if accelerated_images.is_busy(each, now):
                raise protocol.ApiError(
                    protocol.RetCode.BUSY,
                    f"{each.original} is being"
                    f" {'deleted' if each.deleted else 'created'}: one operation at a time",
                )

    async def _look(self) -> protocol.Situation:
        switch = await self._objects.switch()
        if not switch.enabled:
            return protocol.Situation(status=protocol.Status.READY, nfs=switch.nfs)
        problem = self._store_problem()
        led = await self._objects.led()
        known = protocol.Situation(
            enabled=True,
            nfs_ready=not problem,
            agent_ready=led and not problem,
            nfs=switch.nfs,
            subnet=switch.subnet,
            error=problem or ("" if led else LEADERLESS),
        )
        if known.error:
            return known
        found = await self._objects.all()
        status, error = accelerated_images.overall(found, self._clock())
        shown = [
            accelerated_images.shown(each)
            for each in found
            if accelerated_images.status_of(each) is protocol.Status.READY
        ]
        return dataclasses.replace(known, status=status, error=error, images=shown)
