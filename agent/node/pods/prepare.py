"""One pod: decide what the store does for it, and have its images present in time.

Nothing of the kubelet's is in the way: what cannot be registered is pulled as ever.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from agent import errors, metrics
from agent.kits.aio import tasks
from agent.matching import annotations, decisions, exclusions, rules, runtimes, subjects
from agent.model import caches, images, pods, records
from agent.node.images import register, registration_plan
from agent.node.pods import recent_caches

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 10.0


class Repairer(Protocol):
    """Removes what containerd still knows of a chain that the snapshotter has lost."""

    def watch(self, top: str) -> None:
        """Look after an image that is registered now, by its top chain ID."""

    async def repair(self, chain: Sequence[str]) -> None:
        """Remove it; raises TemporaryError when that must be tried again."""


class CacheCreator(Protocol):
    """Has caches made for pods that asked for one and matched none. Never waits, never raises."""

    def create(self, pod: pods.Pod, wanted: decisions.AutoCreate) -> None:
        """Take one wish; the same one comes again with each such pod."""

    def matched(self, group: str, name: str) -> None:
        """Note that a pod is served from the cache of this object, by its API group and name."""


class LogCreator:
    """Without a cluster nobody makes caches on demand: the log says what to create."""

    def create(self, pod: pods.Pod, wanted: decisions.AutoCreate) -> None:
        """Log the wish."""
        logger.info(
            "a cache is asked for",
            extra={
                "namespace": pod.namespace,
                "pod": pod.name,
                "cache": wanted.cache_id,
                "name_of_cache": wanted.request.name,
                "images": [str(image) for image in wanted.request.images],
            },
        )

    def matched(self, group: str, name: str) -> None:
        """Nothing: without a cluster there are no objects."""


class Clearer(Protocol):
    """Removes images that pods of other runtimes would take for present in vain."""

    async def clear(self, names: Iterable[str]) -> Sequence[str]:
        """Those that were removed; raises TemporaryError."""


class Ledger(Protocol):
    """Keeps the account of what was spared."""

    async def registered(
        self,
        record: records.ImageRecord,
        done: register.Registered,
        *,
        seconds: float,
    ) -> None:
        """An image was registered within so many seconds. Raises nothing foreseen."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a pod: the decision, and in a sentence what was done.

    `registered` are the images that are present now, `seconds` what it took.
    """

    decision: decisions.Decision
    sentence: str
    registered: tuple[str, ...] = ()
    seconds: float = 0.0


class Premounter:
    """Serves one pod after the other; any number may be served side by side."""

    def __init__(
        self,
        catalog: recent_caches.Catalog,
        registrar: register.Registrar,
        repairer: Repairer,
        ledger: Ledger,
        creator: CacheCreator,
        clearer: Clearer,
        *,
        platform: images.Platform,
        snapshotter: str,
        classes: Mapping[str, str] | None = None,
        only_ours: bool = True,
    ) -> None:
        """`only_ours` is False where our snapshotter is containerd's default one."""
        self._catalog = catalog
        self._caches = recent_caches.Caches(catalog)
        self._registrar = registrar
        self._repairer = repairer
        self._ledger = ledger
        self._creator = creator
        self._clearer = clearer
        self._platform = platform
        self._snapshotter = snapshotter
        self._classes = classes
        self._only_ours = only_ours

    async def serve(self, pod: pods.Pod, *, running: bool = False) -> Result:
        """Decide for a pod and register what may be. Raises AgentError: try again later.

        One that is `running` has its images, from wherever: they are registered for its
        next container, but that is no event, and neither makes a cache nor counts as a match.
        """
        request = annotations.request_of(pod, self._classes)
        handler = runtimes.handler_of(pod, self._classes)
        if not self._is_ours(handler):
            decision = exclusions.foreign(pod, request, handler=handler)
            return await self._make_way(pod, _silent(decision) if running else decision)
        begun = asyncio.get_running_loop().time()
        try:
            decision = await self._decide(pod, request)
        except errors.TemporaryError:
            metrics.image_left("store_unavailable")
            raise
        if running:
            decision = _silent(decision)
        else:
            self._tell_creator(pod, decision)
        if not decision.registrable:
            return Result(decision=decision, sentence=decision.summary)
        return await self._register_all(pod, decision, begun)

    def _is_ours(self, handler: str) -> bool:
        return runtimes.is_ours(handler) if self._only_ours else handler != runtimes.WITHOUT

    def _tell_creator(self, pod: pods.Pod, decision: decisions.Decision) -> None:
        if decision.auto_create is not None:
            self._creator.create(pod, decision.auto_create)
        for candidate in decision.candidates:
            if candidate.cache_id == decision.reported:
                group = caches.group_of(candidate.cache_id, candidate.name)
                self._creator.matched(group, candidate.name)

    async def _register_all(
        self, pod: pods.Pod, decision: decisions.Decision, begun: float
    ) -> Result:
        """Register what may be; `begun` is the loop's time at which the pod's turn came."""
        wanted = await tasks.together(*(self._register(image) for image in decision.registrable))
        seconds = asyncio.get_running_loop().time() - begun
        metrics.PREMOUNT.observe(seconds)
        present = [
            (image, registration)
            for image, registration in zip(decision.registrable, wanted, strict=True)
            if registration is not None
        ]
        for image, registration in present:
            if _is_always_pulled(pod, image):
                await self._lay_out(registration)
        registered = tuple(image.image for image, _ in present)
        sentence = f"{decision.summary} Registered {len(registered)}."
        return Result(decision=decision, sentence=sentence, registered=registered, seconds=seconds)

    async def _make_way(self, pod: pods.Pod, decision: decisions.Decision) -> Result:
        """See that a pod of another runtime can start; nothing is registered for it."""
        if cleared := await self._clearer.clear(pod.images):
            # Somebody else may have it present again before this pod's kubelet has looked.
            raise errors.TemporaryError(
                f"made way for an ordinary pull of {', '.join(cleared)}", delay=_LOOK_AGAIN_SECONDS
            )
        return Result(decision=decision, sentence=decision.summary)

    async def _decide(self, pod: pods.Pod, request: annotations.Request) -> decisions.Decision:
        """What the store does for a pod. A verdict against it rests on caches just read."""
        if not request.asks:
            return rules.decide(pod, request, (), {})
        started = asyncio.get_running_loop().time()
        views, read_at = await self._caches.get()
        decision = await self._decide_by(pod, request, views)
        if decision.outcome is not decisions.Outcome.HIT and read_at < started:
            views, _ = await self._caches.get(not_before=started)
            decision = await self._decide_by(pod, request, views)
        return decision

    async def _decide_by(
        self, pod: pods.Pod, request: annotations.Request, views: Sequence[caches.Cache]
    ) -> decisions.Decision:
        references = subjects.references_to_look_up(pod, views)
        found = await tasks.together(*(self._catalog.image(each) for each in references))
        image_records = {
            str(reference): record for reference, record in zip(references, found, strict=True)
        }
        return rules.decide(pod, request, views, image_records, platform=self._platform)

    async def _register(
        self, image: decisions.ImageDecision
    ) -> registration_plan.Registration | None:
        """Register one image; what was registered, None where it is not for this platform."""
        record, reference = image.registrable, image.reference
        if record is None or reference is None:
            return None
        wanted = registration_plan.registration_of(
            reference, record, self._platform, snapshotter=self._snapshotter
        )
        if wanted is None:
            return None
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            done = await self._registrar.register(wanted)
        except register.BrokenError as error:
            await self._repairer.repair(error.chain)
            done = await self._registrar.register(wanted)
        except errors.AgentError as error:
            metrics.image_left(_reason(error))
            raise
        self._repairer.watch(wanted.top)
        await self._ledger.registered(record, done, seconds=loop.time() - started)
        return wanted

    async def _lay_out(self, wanted: registration_plan.Registration) -> None:
        """Be ready for a pull of an image that is present; without, the pull is slower."""
        try:
            await self._registrar.lay_out(wanted)
        except errors.AgentError as error:
            logger.info("not laid out", extra={"image": wanted.tag, "reason": str(error)})


def _silent(decision: decisions.Decision) -> decisions.Decision:
    """A decision that nobody is told of."""
    return dataclasses.replace(decision, events=(), auto_create=None)


def _is_always_pulled(pod: pods.Pod, image: decisions.ImageDecision) -> bool:
    """Whether the kubelet pulls an image whether it is present or not."""
    newest = image.reference is not None and image.reference.version == "latest"
    default = "Always" if newest else "IfNotPresent"
    return any(
        (container.pull_policy or default) == "Always"
        for container in pod.containers
        if container.image == image.image
    )


def _reason(error: errors.AgentError) -> metrics.ImageReason:
    """The label of uimgacc_fallback_total."""
    if isinstance(error, register.NotServedError):
        return "not_served"
    if isinstance(error, register.BlobMissingError):
        return "damaged_record"
    return "not_registered"
