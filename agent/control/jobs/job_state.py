"""The state of a build's Job, read from the Job and from its pods. Pure functions."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from agent.model import keys, times
from agent.store import signatures

_DOCUMENTED = "docs/use/builders.md"
_BUILD = "build"
"""The name of the container that builds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A Job that exists. `reason` is why it failed, or what its pod waits for.

    `explained` is whether the reason is from the pod: a Job itself seldom knows. `setback` is
    why an earlier pod was evicted: the next one will be as well, unless something is changed.
    `attested` is the digest that its pod vouches for (agent.store.signatures); "" for none yet.
    """

    name: str
    uid: str
    cache_id: str
    spec: str
    owner: str
    platforms: tuple[str, ...] = ()
    suspended: bool = False
    deleting: bool = False
    succeeded: bool = False
    failed: bool = False
    reason: str = ""
    explained: bool = False
    setback: str = ""
    attested: str = ""
    created: datetime.datetime | None = None

    @property
    def active(self) -> bool:
        """Whether it builds, or will."""
        return not (self.succeeded or self.failed)


def parse(
    body: Mapping[str, Any], pod_reason: str = "", *, setback: str = "", attested: str = ""
) -> Job:
    """Read a Job; `pod_reason` is the reason from its pod (see reason_of_pod)."""
    meta, status = body["metadata"], body.get("status") or {}
    annotations = meta.get("annotations") or {}
    held = {
        condition["type"]: condition
        for condition in status.get("conditions") or ()
        if condition.get("status") == "True"
    }
    failure = held.get("Failed") or held.get("FailureTarget")
    platforms = annotations.get(keys.JOB_PLATFORMS, "")
    return Job(
        name=meta["name"],
        uid=meta["uid"],
        cache_id=(meta.get("labels") or {}).get(keys.JOB_CACHE_ID, ""),
        spec=annotations.get(keys.JOB_SPEC, ""),
        owner=annotations.get(keys.JOB_OWNER, ""),
        platforms=tuple(platforms.split(",")) if platforms else (),
        suspended=bool((body.get("spec") or {}).get("suspend")),
        deleting="deletionTimestamp" in meta,
        succeeded="Complete" in held,
        failed=failure is not None,
        reason=_reason(failure, pod_reason),
        explained=bool(pod_reason),
        setback=setback,
        attested=attested,
        created=times.parse(meta.get("creationTimestamp")),
    )


def _reason(failure: Mapping[str, Any] | None, pod: str) -> str:
    if failure is None:
        return pod
    reason = ": ".join(filter(None, (failure.get("reason"), failure.get("message"))))
    if failure.get("reason") in ("BackoffLimitExceeded", "PodFailurePolicy") and pod:
        return pod  # the Job only reports that its pod failed
    return "; ".join(filter(None, (reason, pod))) or "the Job failed and gives no reason"


def is_evicted(body: Mapping[str, Any]) -> bool:
    """Whether the kubelet has evicted a pod, because its node or its volume was full."""
    return (body.get("status") or {}).get("reason") == "Evicted"


def attested_by_pod(body: Mapping[str, Any]) -> str:
    """The digest that a builder vouches for at the end of a build; "" where there is none."""
    for container in (body.get("status") or {}).get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated") or {}
        if container.get("name") == _BUILD and ended.get("exitCode") == 0:
            return signatures.attested_digest(str(ended.get("message") or ""))
    return ""


def reason_of_pod(body: Mapping[str, Any]) -> str:
    """Why a builder's pod failed, or what it waits for; "" where it does neither."""
    status = body.get("status") or {}
    if is_evicted(body):
        # The container's own message is only that it had to stop.
        return _evicted(str(status.get("message") or ""))
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        ended = state.get("terminated") or {}
        if ended.get("exitCode"):
            return _ended(ended, status)
        waiting = state.get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            reason = f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
            return f"the builder's pod does not start: {reason}"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"the builder's pod finds no node: {condition.get('message', '')}".rstrip(": ")
    if status.get("phase") == "Failed":
        reason = f"{status.get('reason', '')}: {status.get('message', '')}".strip(": ")
        return f"the builder's pod failed: {reason or 'no reason is known'}"
    return ""


def _evicted(message: str) -> str:
    missing = "memory" if "resource: memory" in message else "local disk"
    reason = f": {message.strip().rstrip('.')}" if message else ""
    return f"the builder was evicted{reason}; give builders more {missing} ({_DOCUMENTED})"


def _ended(ended: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    if ended.get("reason") == "OOMKilled":
        return f"the builder ran out of memory: raise its limit ({_DOCUMENTED})"
    if message := str(ended.get("message") or "").strip():
        return message
    reason = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
    return f"the builder ended with status {ended['exitCode']}{reason and f' ({reason})'}"
