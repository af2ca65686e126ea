"""The image caches of a cluster, summed up one by one, and what is wrong with them; pure."""

import collections
import dataclasses
import datetime
from collections.abc import Iterator, Sequence

from agent.cli.cluster import remedies
from agent.control.caches import cache_object, cache_state

_EXAMPLES = 3
_STUCK = datetime.timedelta(hours=2)
_UNSEEN = datetime.timedelta(minutes=2)
_SETTLED = datetime.timedelta(minutes=10)

_FAILED = (cache_state.Phase.FAILED, cache_state.Phase.UPDATE_FAILED)
_BUILDING = (cache_state.Phase.CREATING, cache_state.Phase.UPDATING)

DELETING = "Deleting"
"""The phase, for people, of a cache that is on its way out."""

_Problem = tuple[remedies.Remedy, str]
"""What is wrong with a cache, and what its status says of it."""


@dataclasses.dataclass(slots=True)
class Trouble:
    """Caches with the same problem: how many, the first of them, what one's status says."""

    remedy: remedies.Remedy
    count: int = 0
    examples: list[cache_object.CacheObject] = dataclasses.field(default_factory=list)
    message: str = ""


class Caches:
    """All image caches by phase, their bytes, and their problems."""

    def __init__(self, now: datetime.datetime) -> None:
        self.phases: collections.Counter[str] = collections.Counter()
        self.size = 0
        self._now = now
        self._troubles: dict[str, Trouble] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return self.phases.total()

    def add(self, cache: cache_object.CacheObject) -> None:
        """Count a cache in."""
        phase = cache.state.phase or cache_state.Phase.PENDING
        self.phases[DELETING if cache.deleted is not None else phase.value] += 1
        self.size += cache.state.size
        for remedy, message in self._problems(cache):
            trouble = self._troubles.setdefault(remedy.key, Trouble(remedy))
            trouble.count += 1
            trouble.message = trouble.message or message
            if len(trouble.examples) < _EXAMPLES:
                # Of 10,000 caches only these stay in memory.
                trouble.examples.append(cache)

    @property
    def troubles(self) -> Sequence[Trouble]:
        """Their problems, the most frequent first."""
        return sorted(self._troubles.values(), key=lambda each: (-each.count, each.remedy.key))

    def _problems(self, cache: cache_object.CacheObject) -> Iterator[_Problem]:
        state = cache.state
        if cache.deleted is not None:
            if self._now - cache.deleted > _UNSEEN:
                yield remedies.ALL["deletion-waits"], state.message
        elif state.phase is None:
            if self._now - cache.created > _UNSEEN:
                yield remedies.ALL["never-looked-at"], ""
        else:
            yield from self._of_build(state)
            yield from self._of_tags(state.tags)

    def _of_build(self, state: cache_state.State) -> Iterator[_Problem]:
        known = remedies.of_message(state.message)
        if state.phase in _FAILED:
            yield known, state.message
        elif state.phase in _BUILDING:
            if known.key == "builder-waits":
                yield known, state.message
            elif state.started is not None and self._now - state.started > _STUCK:
                yield remedies.ALL["build-stuck"], state.message
        elif state.phase is cache_state.Phase.PENDING and known.says:
            # Others wait for their turn.
            yield known, state.message

    def _of_tags(self, tags: cache_state.Tags) -> Iterator[_Problem]:
        for moved in tags.moved:
            if self._now - moved.noticed > _SETTLED:
                yield remedies.ALL["tags-moved"], moved.image
                break
        if tags.problem:
            yield remedies.ALL["tags-unknown"], tags.problem
