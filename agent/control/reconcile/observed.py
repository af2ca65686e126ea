"""What the API server has told of caches, builds and nodes: kept here, written by nobody else.

Steps read from here, so that a restarted controller asks once for all of a kind and
not for each object.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from agent.control.caches import cache_object
from agent.control.jobs import job_state
from agent.model import keys

Object = Mapping[str, Any]


class Knowledge:
    """Caches by their key, Jobs and what their pods say by the Job's name."""

    def __init__(self) -> None:
        self.caches: dict[cache_object.Key, cache_object.CacheObject] = {}
        self._jobs: dict[str, job_state.Job] = {}
        self._reasons: dict[str, str] = {}
        self._setbacks: dict[str, str] = {}
        self.platforms: tuple[str, ...] = ()

    def put_cache(self, body: Object) -> cache_object.CacheObject:
        """Take in an object as it is now; one that is older than what is known changes nothing."""
        found = cache_object.parse(body)
        known = self.caches.get(found.key)
        if known is None or known.uid != found.uid or not _older(found.version, known.version):
            self.caches[found.key] = found
        return self.caches[found.key]

    def drop_cache(self, key: cache_object.Key, uid: str = "") -> None:
        """The object is gone; another of its name may be there already."""
        known = self.caches.get(key)
        if known is not None and uid in ("", known.uid):
            del self.caches[key]

    def put_job(self, body: Object) -> job_state.Job:
        """Take in a Job."""
        name = body["metadata"]["name"]
        reason, setback = self._reasons.get(name, ""), self._setbacks.get(name, "")
        job = job_state.parse(body, reason, setback=setback)
        self._jobs[name] = job
        return job

    def drop_job(self, name: str) -> None:
        """A Job is gone."""
        self._jobs.pop(name, None)
        self._reasons.pop(name, None)
        self._setbacks.pop(name, None)

    def explain_job(self, name: str, reason: str) -> None:
        """Take in why a Job failed, as its pod says; "": the pod is gone, or says nothing."""
        job = self._jobs.get(name)
        if job is not None:
            self._reasons[name] = reason
            self._jobs[name] = dataclasses.replace(job, reason=reason or job.reason, explained=True)

    def put_pod(self, body: Object) -> job_state.Job | None:
        """Take in a builder's pod: what it says belongs to its Job."""
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
        if job is None:
            return None
        if not job.succeeded:
            told = self._reasons.get(name, "")
            # Of a Job that goes on, the reason was that of a pod before this one.
            before, explained = (job.reason, job.explained) if job.failed else ("", False)
            job = dataclasses.replace(
                job,
                reason=told or before,
                explained=explained or bool(told),
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

    def building(self, starting: Collection[str] = ()) -> int:
        """How many builds run, or are about to: also of the Jobs that are being made."""
        new = sum(name not in self._jobs for name in starting)
        return new + sum(job.active for job in self._jobs.values())

    def building_for(self, group: str) -> Iterator[tuple[str, cache_object.Key]]:
        """The Jobs that are active for objects of a group, and whose they are."""
        for name, job in list(self._jobs.items()):
            owner = cache_object.Key(*job.owner.partition("/")[::2])
            if job.active and not job.deleting and owner.group == group:
                yield name, owner

    def waiting(self) -> Iterator[cache_object.Key]:
        """The caches that may wait for a build to end, the oldest first."""
        waiting = [cache for cache in self.caches.values() if not cache.state.serving]
        yield from (cache.key for cache in sorted(waiting, key=lambda cache: cache.created))

    def key_of(self, job: job_state.Job) -> cache_object.Key | None:
        """Whose build a Job is."""
        group, _, name = job.owner.partition("/")
        key = cache_object.Key(group, name)
        return key if key in self.caches else None


def _older(version: str, than: str) -> bool:
    """Versions of one object can be compared since Kubernetes 1.35 says so, and could before."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)
