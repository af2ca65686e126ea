"""How long pods take until their containers run, for the metric.

Counted once for each pod that came to this node while the agent ran, from the times that
the pod's kubelet writes: whole seconds of one clock, and with everything in between that
uimgacc has no part in (volumes, network, init containers). So accelerated and other pods
are compared, and the times are not added up.
"""

from typing import Protocol

from agent.metrics import image_metrics
from agent.model import pods


class Served(Protocol):
    """The pods of this node: agent.node.pods.served_pods.ServedPods."""

    def accelerated(self, key: str) -> bool:
        """Whether images of a pod were made present here."""


class Starts:
    """Waits for the starts of pods."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._awaited: dict[str, str] = {}

    def seen(self, key: str, pod: pods.Pod, *, first: bool) -> None:
        """See scheduled.Observer.

        A pod that was there before the agent is left out, whatever its state: it may have
        started without help because the agent was away.
        """
        if pod.ready_seconds is None:
            if not first:
                self._awaited.setdefault(key, pod.uid)
        elif self._awaited.pop(key, None) == pod.uid:
            image_metrics.pod_ready(pod.ready_seconds, accelerated=self._served.accelerated(key))

    def gone(self, key: str) -> None:
        """See scheduled.Observer."""
        self._awaited.pop(key, None)
