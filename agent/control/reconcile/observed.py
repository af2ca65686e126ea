"""The caches, builds and platforms as the watches of the API server last showed them.

Watches deliver changes here; the keys of the caches that a change concerns go into the queue.
Steps read from here, so that a restarted controller lists each kind once and does not ask for
each object. Nothing else keeps objects between two steps.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from agent.control.caches import cache_object, cache_state
from agent.control.decisions import build_turns
from agent.control.jobs import job_state
from agent.control.reconcile import work_queue
from agent.model import keys, times

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]


@dataclasses.dataclass(slots=True)
class _Step:
    """The versions of a cache's object that came while its step ran."""

    written: set[str] = dataclasses.field(default_factory=set)
    delivered: set[str] = dataclasses.field(default_factory=set)


class Observed:
    """Caches by their key, Jobs and what their pods report by the Job's name.

    `parallel` builds may run at a time.
    """

    def __init__(
        self,
        queue: work_queue.Queue[cache_object.Key],
        *,
        parallel: int,
        clock: times.Clock = times.now,
    ) -> None:
        self._queue = queue
        self._parallel = parallel
        self._clock = clock
        self.caches: dict[cache_object.Key, cache_object.CacheObject] = {}
        self._turns = build_turns.Turns()
        self._jobs: dict[str, job_state.Job] = {}
        self._of_cache: dict[str, set[str]] = {}
        """The names of Jobs by the IDs of their caches."""
        self._active: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._setbacks: dict[str, str] = {}
        self._attested: dict[str, str] = {}
        self._steps: dict[cache_object.Key, _Step] = {}
        self.platforms: tuple[str, ...] = ()
        self.starting: dict[str, cache_object.CacheObject] = {}
        """Jobs that are being created, and their caches."""

    def deliver(self, plural: str, kind: str | None, body: Object) -> None:
        """Take in an event of a watch: `kind` is ADDED, MODIFIED, DELETED, or None for listed.

        Of what was deleted, only apiVersion, name and uid are read.
        """
        deleted = kind == "DELETED"
        if plural == "imagecaches":
            self._deliver_cache(body, deleted=deleted)
        elif plural == "jobs" and deleted:
            self.end_job(body["metadata"]["name"])
        elif plural == "jobs":
            self.deliver_job(body)
        elif not deleted:
            job = self.put_pod(body)
            if job is not None:
                self._queue_owner(job)

    def _deliver_cache(self, body: Object, *, deleted: bool) -> None:
        key = cache_object.key_of(body)
        if deleted:
            self.drop_cache(key, body["metadata"]["uid"])
        else:
            before = self.caches.get(key)
            after = self._take(body)
            # The echo of what a step has written is the same object. Other steps than those that
            # end with Ready go on from there; a list after a lost watch has every object again.
            if (step := self._steps.get(key)) is not None:
                step.delivered.add(body["metadata"]["resourceVersion"])
            elif after is not before or after.state.phase is not cache_state.Phase.READY:
                self._queue.add(key)

    @contextlib.contextmanager
    def stepping(self, key: cache_object.Key) -> Iterator[None]:
        """A step for a cache: at its end it shows what was an echo of what it has written.

        The watch often has it before the answer to the request comes.
        """
        step = self._steps[key] = _Step()
        try:
            yield
        finally:
            del self._steps[key]
            cache = self.caches.get(key) if step.delivered else None
            ready = cache is not None and cache.state.phase is cache_state.Phase.READY
            if cache is not None and not (ready and step.delivered <= step.written):
                self._queue.add(key)

    def deliver_job(self, body: Object) -> None:
        """Take in a Job as it is now; where it has changed, its cache is due."""
        before = self.job(body["metadata"]["name"])
        job = self.put_job(body)
        if job == before:
            return
        self._queue_owner(job)
        if not job.active:
            self.queue_waiting()

    def end_job(self, name: str) -> None:
        """A Job is gone: its cache is due, and so are those that wait for a slot."""
        job = self._jobs.get(name)
        self.drop_job(name)
        if job is not None:
            self._queue_owner(job)
            self.queue_waiting()

    def queue_all(self) -> None:
        """Have a step for every cache: something that concerns them all has changed."""
        for key in self.caches:
            self._queue.add(key)

    def put_platforms(self, platforms: tuple[str, ...]) -> None:
        """Take in what the nodes have; where that has changed, all caches are due."""
        if platforms == self.platforms:
            return
        logger.info("platforms", extra={"platforms": list(platforms)})
        self.platforms = platforms
        self.queue_all()

    def _queue_owner(self, job: job_state.Job) -> None:
        key = cache_object.Key(*job.owner.partition("/")[::2])
        if key in self.caches:
            self._queue.add(key)

    def queue(self, key: cache_object.Key) -> None:
        """Something is known of a cache that its next step is to see."""
        self._queue.add(key)

    def queue_waiting(self) -> None:
        """A slot may be free: the caches that are next are due, and no others."""
        for key in self._turns.next_ones(self._slots(), now=self._clock()):
            self._queue.add(key)

    def turn_of(self, key: cache_object.Key) -> build_turns.Turn:
        """Whether the build of a cache may begin."""
        return self._turns.turn_of(key, self._slots(), now=self._clock())

    def _slots(self) -> build_turns.Slots:
        return build_turns.slots_of(self.building(), parallel=self._parallel)

    def put_cache(self, body: Object) -> cache_object.CacheObject:
        """Take in an object as a request has returned it; one that is older changes nothing."""
        if (step := self._steps.get(cache_object.key_of(body))) is not None:
            step.written.add(body["metadata"]["resourceVersion"])
        return self._take(body)

    def _take(self, body: Object) -> cache_object.CacheObject:
        known = self.caches.get(cache_object.key_of(body))
        meta = body["metadata"]
        if known is not None and (known.uid, known.version) == (
            meta["uid"],
            meta["resourceVersion"],
        ):
            return known
        cache = cache_object.parse(body)
        if known is None or known.uid != cache.uid or not _older(cache.version, known.version):
            self.caches[cache.key] = cache
            self._turns.put(cache)
        return self.caches[cache.key]

    def drop_cache(self, key: cache_object.Key, uid: str = "") -> None:
        """The object is gone; another of its name may be there already."""
        known = self.caches.get(key)
        if known is not None and uid in ("", known.uid):
            del self.caches[key]
            if self._turns.drop(key):
                self.queue_waiting()

    def put_job(self, body: Object) -> job_state.Job:
        """Take in a Job."""
        name = body["metadata"]["name"]
        reason, setback = self._reasons.get(name, ""), self._setbacks.get(name, "")
        attested = self._attested.get(name, "")
        job = job_state.parse(body, reason, setback=setback, attested=attested)
        self._keep(job)
        return job

    def _keep(self, job: job_state.Job) -> None:
        before = self._jobs.get(job.name)
        if before is not None and before.cache_id != job.cache_id:
            self._leave(before)
        self._jobs[job.name] = job
        self._of_cache.setdefault(job.cache_id, set()).add(job.name)
        if job.active:
            self._active.add(job.name)
        else:
            self._active.discard(job.name)

    def drop_job(self, name: str) -> None:
        """A Job is gone."""
        job = self._jobs.pop(name, None)
        if job is not None:
            self._leave(job)
        self._active.discard(name)
        self._reasons.pop(name, None)
        self._setbacks.pop(name, None)
        self._attested.pop(name, None)

    def _leave(self, job: job_state.Job) -> None:
        """Take a Job away from those of its cache."""
        names = self._of_cache[job.cache_id]
        names.discard(job.name)
        if not names:
            del self._of_cache[job.cache_id]

    def explain_job(self, name: str, reason: str) -> None:
        """Take in why a Job failed, by its pods; "": the pods are gone, or give no reason."""
        job = self._jobs.get(name)
        if job is not None:
            self._reasons[name] = reason
            self._keep(dataclasses.replace(job, reason=reason or job.reason, explained=True))

    def put_pod(self, body: Object) -> job_state.Job | None:
        """Take in a builder's pod: the reason that it gives belongs to its Job."""
        name = (body["metadata"].get("labels") or {}).get(keys.JOB_NAME, "")
        reason = job_state.reason_of_pod(body)
        job = self._jobs.get(name)
        if name and job_state.is_evicted(body):
            # The Job may well go on. If not, all of its pods are asked (see explain_job).
            self._setbacks[name] = reason
        elif name and reason:
            self._reasons[name] = reason
        elif name and not (job is not None and job.failed):
            self._reasons.pop(name, None)
        if name and (attested := job_state.attested_by_pod(body)):
            self._attested[name] = attested
        if job is None:
            return None
        job = dataclasses.replace(job, attested=self._attested.get(name, ""))
        self._keep(job)
        if not job.succeeded:
            current = self._reasons.get(name, "")
            # Of a Job that goes on, the reason was that of a pod before this one.
            before, explained = (job.reason, job.explained) if job.failed else ("", False)
            job = dataclasses.replace(
                job,
                reason=current or before,
                explained=explained or bool(current),
                setback=self._setbacks.get(name, ""),
            )
            self._keep(job)
        return job

    def jobs_of(self, cache_id: str) -> dict[str, job_state.Job]:
        """The Jobs of a cache, by name."""
        return {name: self._jobs[name] for name in sorted(self._of_cache.get(cache_id, ()))}

    def job(self, name: str) -> job_state.Job | None:
        """The Job of a name."""
        return self._jobs.get(name)

    def job_names(self) -> set[str]:
        """All Jobs."""
        return set(self._jobs)

    def note_waiting(self, key: cache_object.Key, *, waits: bool) -> None:
        """Note whether a cache waits for its turn; where it has left, others are due."""
        if waits:
            self._turns.wait(key)
        elif self._turns.give_way(key):
            self.queue_waiting()

    def building(self) -> list[cache_object.CacheObject | None]:
        """The caches of the builds that run, or are about to; None where the object is gone."""
        about_to = [cache for name, cache in self.starting.items() if name not in self._jobs]
        owners = (
            cache_object.Key(*self._jobs[name].owner.partition("/")[::2])
            for name in sorted(self._active)
        )
        return [*about_to, *map(self.caches.get, owners)]

    def building_for(self, group: str) -> Iterator[tuple[str, cache_object.Key]]:
        """The active Jobs for objects of an API group, and the keys of these objects."""
        for name in sorted(self._active):
            job = self._jobs[name]
            owner = cache_object.Key(*job.owner.partition("/")[::2])
            if not job.deleting and owner.group == group:
                yield name, owner


def _older(version: str, than: str) -> bool:
    """Versions of one object can be compared since Kubernetes 1.35 says so, and could before."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)
