"""What UCloud's five actions do in a cluster: image caches, a second tag, and a switch.

All state is in objects of the cluster, so any replica of the controller can answer, and a restarted
one continues. An accelerated image is an ImageCache object. When it is Ready, its other name (the
target) is pushed to the registry (agent.ucloud.alias_push), and the object then has both names. In
the namespaces that the cache serves, a pod that runs the target finds the image present. In others
the kubelet asks the registry first, and the layers then come from the store.

There is one operation at a time, as in UCloud's cloud: the script polls until it has ended. If a
deletion waits for nodes, it is reported as an error after a while and continues in the background;
from then on it does not block the next operation.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from agent import errors
from agent.model import times
from agent.ucloud import accelerated_images, activation, operation_lock, protocol

LEADERLESS = (
    "no controller leads, so nothing is built or deleted: look at the Deployment uimgacc-controller"
)
"""The error where no controller leads."""


class Images(Protocol):
    """The image caches of this API. Each method may raise AgentError, and may be repeated."""

    async def all(self) -> Sequence[accelerated_images.Accelerated]:
        """The image caches that this API has created."""

    async def create(self, name: str, original: str, target: str) -> None:
        """Create an image cache; an existing one of this name is built again."""

    async def delete(self, each: accelerated_images.Accelerated) -> None:
        """Begin to delete an image cache."""

    async def mark_reported(self, each: accelerated_images.Accelerated, *, reported: bool) -> None:
        """Note whether it was reported as an error that its deletion waits."""


class Activation(Protocol):
    """The switch for the whole cluster (activation.Activation). Methods may raise AgentError."""

    async def has_leader(self) -> bool:
        """Whether a controller leads: without one nothing is built and nothing deleted."""

    async def read(self) -> activation.State:
        """The state of the switch."""

    async def turn_on(self, wanted: protocol.Enable) -> None:
        """Switch acceleration of the whole cluster on."""

    async def turn_off(self) -> None:
        """Switch it off."""


class Lock(Protocol):
    """The right to begin an operation (operation_lock.OperationLock)."""

    def held(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold the lock while in the context; raise Taken where another process holds it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """The store of this controller: `nfs` is SERVER:/PATH or "", `problem` why it is away or ""."""

    nfs: str
    problem: Callable[[], str]


class Actions:
    """Carries out the five actions."""

    def __init__(
        self,
        images: Images,
        switch: Activation,
        lock: Lock,
        store: Store,
        *,
        clock: times.Clock = times.now,
    ) -> None:
        self._images = images
        self._activation = switch
        self._cluster_lock = lock
        self._store = store
        self._clock = clock
        self._lock = asyncio.Lock()

    async def do(self, request: protocol.Request) -> protocol.Situation | None:
        """Do what is requested, or begin it. Only Get returns a situation.

        Raises protocol.ApiError.
        """
        try:
            if isinstance(request, protocol.Get):
                return await self._look()
            # Requests to this process wait for each other; requests to other replicas are refused.
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
                await self._activation.turn_on(request)
            case protocol.Create():
                await self._create(request)
            case protocol.Delete():
                await self._delete(request)
            case protocol.Disable():
                self._check_idle(await self._images.all())
                await self._activation.turn_off()
            case _:
                raise AssertionError(request)

    def _check_nfs(self, request: protocol.Enable) -> None:
        """Refuse the address of another server: a request cannot move the store.

        Where the export is not known, any address is accepted.
        """
        nfs = self._store.nfs
        server = nfs.partition(":/")[0]
        if nfs and request.nfs not in (nfs, server):
            raise protocol.ApiError(
                protocol.RetCode.WRONG_PARAMETER,
                f"Params [NfsAddr] not available: this cluster's store is on {server};"
                f" `uimgacc enable --nfs {request.nfs}:/...` moves it",
            )

    async def _create(self, request: protocol.Create) -> None:
        images = await self._enabled()
        original, target = str(request.original), str(request.target)
        name = accelerated_images.name_of(request.original)
        self._check_idle(images)
        for each in images:
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
                    f"{original} exists already, as {each.target}: delete it first",
                )
        await self._dismiss([each for each in images if each.name != name])
        if any(
            each.name == name and accelerated_images.status_of(each) is protocol.Status.READY
            for each in images
        ):
            return
        await self._images.create(name, original, target)

    async def _delete(self, request: protocol.Delete) -> None:
        images = await self._enabled()
        named = str(request.original)
        # The script gives the original name; the other name means the same image.
        these = [each for each in images if named in (each.original, each.target)]
        if not these:
            raise protocol.ApiError(protocol.RetCode.NOT_FOUND, f"{named} does not exist")
        others = [each for each in images if each not in these]
        self._check_idle(others)
        await self._dismiss(others)
        for each in these:
            if each.deleted is None:
                await self._images.delete(each)
            elif each.reported:
                await self._images.mark_reported(each, reported=False)

    async def _dismiss(self, images: Sequence[accelerated_images.Accelerated]) -> None:
        """Dismiss old errors: they were reported, and must not count for the new operation."""
        for each in images:
            if each.deleted is None and accelerated_images.has_failed(each):
                await self._images.delete(each)
            elif each.deleted is not None and not each.reported:
                await self._images.mark_reported(each, reported=True)

    async def _enabled(self) -> Sequence[accelerated_images.Accelerated]:
        if not (await self._activation.read()).enabled:
            raise protocol.ApiError(
                protocol.RetCode.NOT_ENABLED, "image acceleration is not enabled"
            )
        if problem := self._store.problem():
            raise protocol.ApiError(protocol.RetCode.UNAVAILABLE, f"the store: {problem}")
        if not await self._activation.has_leader():
            raise protocol.ApiError(protocol.RetCode.UNAVAILABLE, LEADERLESS)
        return await self._images.all()

    def _check_idle(self, images: Sequence[accelerated_images.Accelerated]) -> None:
        """Raise BUSY while an operation is under way."""
        now = self._clock()
        for each in images:
            if accelerated_images.is_busy(each, now):
                raise protocol.ApiError(
                    protocol.RetCode.BUSY,
                    f"{each.original} is being"
                    f" {'deleted' if each.deleted else 'created'}: one operation at a time",
                )

    async def _look(self) -> protocol.Situation:
        switch = await self._activation.read()
        if not switch.enabled:
            return protocol.Situation(status=protocol.Status.READY, nfs=switch.nfs)
        problem = self._store.problem()
        led = await self._activation.has_leader()
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
        images = await self._images.all()
        status, error = accelerated_images.overall(images, self._clock())
        shown = [
            accelerated_images.shown(each)
            for each in images
            if accelerated_images.status_of(each) is protocol.Status.READY
        ]
        return dataclasses.replace(known, status=status, error=error, images=shown)
