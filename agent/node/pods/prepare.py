"""One pod: decide what the store does for it, and have its images present before it starts.

Nothing here stops the kubelet: an image that cannot be registered is pulled as usual.
Each image of a pod stands for itself: one that fails does not keep the others from being
registered.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.kits.aio import tasks
from agent.matching import annotations, decisions, events, subjects
from agent.metrics import image_metrics
from agent.model import caches, images, pods, records
from agent.node.images import registration_plan
from agent.node.pods import decide

logger = logging.getLogger(__name__)

SWITCHED_OFF = "acceleration is switched off for the whole cluster (`uimgacc enable`)"
"""Why no pod is prepared and the node does not count as capable, while that is so."""

_LOOK_AGAIN_SECONDS = 10.0


class AbsentError(errors.TemporaryError):
    """The store does not answer, and this node does not have `image` itself."""

    def __init__(self, image: str) -> None:
        super().__init__(f"the image store does not answer, and {image} is not here")
        self.image = image


class Decider(Protocol):
    """Decides what the store does for a pod: agent.node.pods.decide.Decider."""

    async def decide(self, pod: pods.Pod) -> decisions.Decision:
        """Decide; TemporaryError: the store does not answer."""


class Provider(Protocol):
    """Has one image present: agent.node.images.provide.Provider."""

    async def provide(
        self, reference: images.Reference, record: records.ImageRecord, *, each: bool = False
    ) -> registration_plan.Registration | None:
        """Register it, with a snapshot for `each` layer where it is to be a volume.

        None where it is not for this platform; AgentError where that fails.
        """

    async def provide_layers(
        self, reference: images.Reference, record: records.ImageRecord
    ) -> registration_plan.Registration | None:
        """Have its layers ready for the kubelet's pull of it; as `provide`."""

    async def lay_out(self, wanted: registration_plan.Registration) -> None:
        """Prepare for a pull of an image that is present. Raises nothing foreseen."""

    async def withdraw(self, reference: images.Reference) -> None:
        """Take back the tag of an image that was registered. Raises AgentError."""


class Volumes(Protocol):
    """Looks after images that are present: agent.node.pods.volume_images.VolumeImages."""

    async def make_usable(self, names: Iterable[str]) -> None:
        """Have those that are present mountable as volumes; raises TemporaryError."""


class CacheCreator(Protocol):
    """Creates caches for pods that asked for one and matched none. Never waits, never raises."""

    def create(self, pod: pods.Pod, wanted: decisions.AutoCreate) -> None:
        """Take one request; the same one comes again with each such pod."""

    def matched(self, group: str, name: str) -> None:
        """Note that a pod is served from the cache of this object, by its API group and name."""


class LogCreator:
    """The CacheCreator without a cluster: the log says which cache to create by hand."""

    def create(self, pod: pods.Pod, wanted: decisions.AutoCreate) -> None:
        """Log the request."""
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
        """Do nothing: without a cluster there are no objects."""


class Clearer(Protocol):
    """Removes images that pods of other runtimes would take for present, and could not run."""

    async def clear(self, names: Iterable[str]) -> Sequence[str]:
        """Remove them and return their names; raises TemporaryError."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was done for a pod: the decision, and a sentence for people.

    `registered` are the images that are present now, `laid_out` those whose layers are,
    `seconds` how long that took. `failed` are the images that could not be made ready, with
    the reason; those with a TemporaryError are worth a retry.
    """

    decision: decisions.Decision
    sentence: str
    registered: tuple[str, ...] = ()
    laid_out: tuple[str, ...] = ()
    failed: Mapping[str, errors.AgentError] = dataclasses.field(default_factory=dict, hash=False)
    seconds: float = 0.0

    @property
    def ready(self) -> tuple[str, ...]:
        """The images that need no download any more."""
        return (*self.registered, *self.laid_out)

    @property
    def retry(self) -> errors.TemporaryError | None:
        """Why to try again; None where another try would change nothing."""
        failures = self.failed.values()
        return next((each for each in failures if isinstance(each, errors.TemporaryError)), None)


class Starts(Protocol):
    """What is done ahead of starts: agent.node.starts.expected_starts.ExpectedStarts."""

    def expect(self, record: records.ImageRecord, cache: tuple[str, str] | None) -> None:
        """An image is being made ready for a pod, from the cache of an object (API group, name).

        Never waits.
        """


class SwitchedOff:
    """Prepares nothing: what an agent does while acceleration is switched off.

    Pods that use the snapshotter still run then, and ordinary ones take their place: an
    image of the store that the former use is removed for the latter.
    """

    def __init__(self, node: decide.Node, clearer: Clearer) -> None:
        self._node = node
        self._clearer = clearer

    async def serve(self, pod: pods.Pod, *, running: bool = False) -> Result:
        """Leave a pod to the kubelet, and say why. Raises TemporaryError: try again later."""
        foreign = not self._node.serves(pod)
        if foreign:
            await _clear_for(pod, self._clearer)
        decision = decisions.Decision(
            pod=pod,
            request=annotations.Request(),
            outcome=decisions.Outcome.NOT_ASKED,
            summary=SWITCHED_OFF,
            foreign=foreign,
        )
        return Result(decision=decision, sentence=SWITCHED_OFF)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """How images are made present.

    `volumes` looks after the images that pods mount as volumes. With `register_private`, images
    that not all namespaces may use are registered as well.
    """

    provider: Provider
    volumes: Volumes | None = None
    register_private: bool = False


class Preparer:
    """Serves one pod after the other; any number may be served side by side.

    `starts` gets the images of pods that are about to start.
    """

    def __init__(
        self,
        decider: Decider,
        supply: Supply,
        clearer: Clearer,
        creator: CacheCreator,
        *,
        starts: Starts | None = None,
    ) -> None:
        self._decider = decider
        self._provider = supply.provider
        self._clearer = clearer
        self._creator = creator
        self._volumes = supply.volumes
        self._starts = starts
        self._register_private = supply.register_private

    async def serve(self, pod: pods.Pod, *, running: bool = False) -> Result:
        """Decide for a pod and make ready what may be. Raises AgentError: try again later.

        A pod that is `running` has its images already: they are registered for its next
        container, but that emits no event, creates no cache and counts as no match.
        """
        started = asyncio.get_running_loop().time()
        decision = await self._decider.decide(pod)
        if running:
            decision = dataclasses.replace(decision, events=(), auto_create=None)
        if decision.foreign:
            await _clear_for(pod, self._clearer)
            return Result(decision=decision, sentence=decision.summary)
        if not running:
            self._note_caches(pod, decision)
            await self._withdraw(decision)
        if self._volumes is not None and pod.volume_images:
            await self._volumes.make_usable(pod.volume_images)
        absent = {image: AbsentError(image) for image in decision.absent}
        if not decision.registrable:
            return Result(decision=decision, sentence=decision.summary, failed=absent)
        if self._starts is not None and not running:
            _expect(self._starts, decision)
        result = await self._provide_all(pod, decision, started)
        return dataclasses.replace(result, failed={**absent, **result.failed})

    async def _withdraw(self, decision: decisions.Decision) -> None:
        """Have the kubelet pull what the registry has under tags that have moved.

        It would run an image that was registered here before, and would not ask the registry.
        """
        for image in decision.images:
            if image.withheld and image.reference is not None:
                await self._provider.withdraw(image.reference)
                image_metrics.IMAGES_WITHHELD.inc()

    def _note_caches(self, pod: pods.Pod, decision: decisions.Decision) -> None:
        """Ask for the cache that is missing, and note the one that is used."""
        if decision.auto_create is not None:
            self._creator.create(pod, decision.auto_create)
        for candidate in decision.candidates:
            if candidate.cache_id == decision.reported:
                group = caches.group_of(candidate.cache_id, candidate.name)
                self._creator.matched(group, candidate.name)

    async def _provide_all(
        self, pod: pods.Pod, decision: decisions.Decision, started: float
    ) -> Result:
        """Make all images ready that may be; `started` is the loop's time when serving began.

        Raises only where none could be made ready.
        """
        volumes = pod.volume_images
        results = await tasks.together(
            *(self._provide(image, each=image.image in volumes) for image in decision.registrable)
        )
        seconds = asyncio.get_running_loop().time() - started
        by_image = dict(zip((each.image for each in decision.registrable), results, strict=True))
        failed = {
            name: result for name, result in by_image.items() if isinstance(result, Exception)
        }
        present = {
            name: result
            for name, result in by_image.items()
            if isinstance(result, registration_plan.Registration)
        }
        if failed and not present:
            raise _worth_retrying(failed.values())
        if not failed:
            image_metrics.PREMOUNT.observe(seconds)
        private = {each.image for each in decision.registrable if self._is_left_to_pull(each)}
        registered = {name: each for name, each in present.items() if name not in private}
        for name, registration in registered.items():
            if subjects.is_always_pulled(pod, name):
                await self._provider.lay_out(registration)
        result = _result(decision, tuple(registered), failed, seconds)
        return _with_laid_out(result, tuple(name for name in present if name in private))

    def _is_left_to_pull(self, image: decisions.ImageDecision) -> bool:
        return image.is_private and not self._register_private

    async def _provide(
        self, image: decisions.ImageDecision, *, each: bool
    ) -> registration_plan.Registration | errors.AgentError | None:
        """Make one image ready, with a snapshot for `each` layer or one for all of them.

        The reason where it fails, None where there is nothing to do.
        """
        if image.registrable is None or image.reference is None:
            return None
        try:
            if self._is_left_to_pull(image):
                return await self._provider.provide_layers(image.reference, image.registrable)
            return await self._provider.provide(image.reference, image.registrable, each=each)
        except errors.AgentError as error:
            return error


async def _clear_for(pod: pods.Pod, clearer: Clearer) -> None:
    """See that a pod of another runtime can start; nothing is registered for it."""
    if cleared := await clearer.clear(pod.images):
        # Another pod may have it registered again before this pod's kubelet has looked.
        raise errors.TemporaryError(
            f"removed {', '.join(cleared)} so that the pod can pull it",
            delay=_LOOK_AGAIN_SECONDS,
        )


def _expect(starts: Starts, decision: decisions.Decision) -> None:
    names = {candidate.cache_id: candidate.name for candidate in decision.candidates}
    for image in decision.registrable:
        assert image.registrable is not None
        name = names.get(image.cache_id, "")
        cache = (caches.group_of(image.cache_id, name), name) if name else None
        starts.expect(image.registrable, cache)


def _result(
    decision: decisions.Decision,
    registered: tuple[str, ...],
    failed: Mapping[str, errors.AgentError],
    seconds: float,
) -> Result:
    """The result, with the events that say which images failed, beside those registered."""
    sentence = f"{decision.summary} Registered {len(registered)}."
    if failed:
        reasons = {image: str(error) for image, error in failed.items()}
        listed = "; ".join(f"{image} ({reason})" for image, reason in reasons.items())
        sentence = f"{sentence} Not registered: {listed}."
        if decision.events:
            new = events.incomplete(decision, registered=registered, failed=reasons)
            decision = dataclasses.replace(decision, events=new)
    return Result(
        decision=decision, sentence=sentence, registered=registered, failed=failed, seconds=seconds
    )


def _with_laid_out(result: Result, laid_out: tuple[str, ...]) -> Result:
    """The result, with the images whose layers are there and which the kubelet pulls."""
    if not laid_out:
        return result
    sentence = (
        f"{result.sentence} Laid out {len(laid_out)}: the kubelet asks the registry whether the"
        " pod may use them, and downloads no layer."
    )
    if never := [name for name in laid_out if _is_never_pulled(result.decision.pod, name)]:
        sentence = (
            f"{sentence} imagePullPolicy Never keeps the kubelet from that: {', '.join(never)}"
            " cannot start unless the node has it already (see UIMGACC_REGISTER_PRIVATE)."
        )
    return dataclasses.replace(result, sentence=sentence, laid_out=laid_out)


def _is_never_pulled(pod: pods.Pod, image: str) -> bool:
    return any(
        container.pull_policy == "Never" for container in pod.containers if container.image == image
    )


def _worth_retrying(failures: Iterable[errors.AgentError]) -> errors.AgentError:
    """The failure to raise for a pod: one that a retry may end, where there is one."""
    return min(failures, key=lambda error: not isinstance(error, errors.TemporaryError))
