"""The caches, builds and platforms as the watches of the API server last showed them.

Watches deliver changes here; the keys of the caches that a change concerns go into the queue.
Steps read from here, so that a restarted controller lists each kind once and does not ask for
each object. Nothing else keeps objects between two steps.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from agent.control.caches import cache_object
from agent.control.jobs import job_state
from agent.control.reconcile import work_queue
from agent.model import keys

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]


class Observed:
    """Caches by their key, Jobs and what their pods report by the Job's name."""

    def __init__(self, queue: work_queue.Queue[cache_object.Key]) -> None:
        self._queue = queue
        self.caches: dict[cache_object.Key, cache_object.CacheObject] = {}
        self._jobs: dict[str, job_state.Job] = {}
        self._reasons: dict[str, str] = {}
        self._setbacks: dict[str, str] = {}
        self._attested: dict[str, str] = {}
        self.platforms: tuple[str, ...] = ()
        self.waiting: set[cache_object.Key] = set()
        """The caches that are to be built when it is their turn."""

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
            if self.put_cache(body) is not before:
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
        """The caches that wait for a build to end: which is next, their steps decide."""
        for key in self.waiting:
            self._queue.add(key)

    def put_cache(self, body: Object) -> cache_object.CacheObject:
        """Take in an object as it is now; one that is older than what is known changes nothing."""
        cache = cache_object.parse(body)
        known = self.caches.get(cache.key)
        if known is None or known.uid != cache.uid or not _older(cache.version, known.version):
            self.caches[cache.key] = cache
        return self.caches[cache.key]

    def drop_cache(self, key: cache_object.Key, uid: str = "") -> None:
        """The object is gone; another of its name may be there already."""
        known = self.caches.get(key)
        if known is not None and uid in ("", known.uid):
            del self.caches[key]
            if key in self.waiting:
                self.waiting.discard(key)
                self.queue_waiting()

    def put_job(self, body: Object) -> job_state.Job:
        """Take in a Job."""
        name = body["metadata"]["name"]
        reason, setback = self._reasons.get(name, ""), self._setbacks.get(name, "")
        attested = self._attested.get(name, "")
        job = job_state.parse(body, reason, setback=setback, attested=attested)
        self._jobs[name] = job
        return job

    def drop_job(self, name: str) -> None:
        """A Job is gone."""
        self._jobs.pop(name, None)
        self._reasons.pop(name, None)
        self._setbacks.pop(name, None)
        self._attested.pop(name, None)

    def explain_job(self, name: str, reason: str) -> None:
        """Take in why a Job failed, by its pods; "": the pods are gone, or give no reason."""
        job = self._jobs.get(name)
        if job is not None:
            self._reasons[name] = reason
            self._jobs[name] = dataclasses.replace(job, reason=reason or job.reason, explained=True)

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
        self._jobs[name] = job
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
            self._jobs[name] = job
        return job

    def jobs_of(self, cache_id: str) -> dict[str, job_state.Job]:
        """The Jobs of a cache, by name."""
        return {name: job for name, job in self._jobs.items() if job.cache_id == cache_id}

    def job(self, name: str) -> job_state.Job | None:
        """The Job of a name."""
        return self._jobs.get(name)

    def job_names(self) -> set[str]:
        """All Jobs."""
        return set(self._jobs)

    def note_waiting(self, key: cache_object.Key, *, waits: bool) -> None:
        """Note whether a cache waits for its turn; where it has left, others are due."""
        if waits:
            self.waiting.add(key)
        elif key in self.waiting:
            self.waiting.discard(key)
            self.queue_waiting()

    def building(
        self, starting: Mapping[str, cache_object.CacheObject]
    ) -> list[cache_object.CacheObject | None]:
        """The caches of the builds that run, or are about to; None where the object is gone.

        `starting` are Jobs that are being created, by name, and their caches.
        """
        about_to = [cache for name, cache in starting.items() if name not in self._jobs]
        owners = (
            cache_object.Key(*job.owner.partition("/")[::2])
            for job in self._jobs.values()
            if job.active
        )
        return [*about_to, *map(self.caches.get, owners)]

    def building_for(self, group: str) -> Iterator[tuple[str, cache_object.Key]]:
        """The active Jobs for objects of an API group, and the keys of these objects."""
        for name, job in list(self._jobs.items()):
            owner = cache_object.Key(*job.owner.partition("/")[::2])
            if job.active and not job.deleting and owner.group == group:
                yield name, owner


def _older(version: str, than: str) -> bool:
    """Versions of one object can be compared since Kubernetes 1.35 says so, and could before."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)
