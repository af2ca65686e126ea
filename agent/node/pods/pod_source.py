"""Where the pods of this node come from: the interface of its two implementations.

scheduled.py has the pods that the API server has bound to the node, manifest_folder.py
those of a folder.
"""

import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from agent.model import pods


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """The pod under a key (`namespace/name`) is now this one; None: it is gone."""

    key: str
    pod: pods.Pod | None


class PodSource(Protocol):
    """The pods of this node.

    After a failure that it cannot recover from, `changes` raises; a new call begins
    again with all pods.
    """

    @property
    def synced(self) -> bool:
        """Whether all pods that existed at the start have been passed on."""

    @property
    def problems(self) -> Mapping[str, str]:
        """Where something is wrong now (a file's name) -> what, for people."""

    def changes(self) -> AsyncIterator[Change]:
        """All existing pods, then each change; the last change of a key is the truth."""

    def is_running(self, key: str) -> bool:
        """Whether a pod's containers have all started already, with the images it has now."""


def key_of(pod: pods.Pod) -> str:
    """The key of a pod on its node: `namespace/name`."""
    return f"{pod.namespace}/{pod.name}"
