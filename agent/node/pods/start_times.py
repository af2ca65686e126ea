"""How long pods take from their kubelet's first sight until their containers run, for the metric.

Counted once for each pod that came to this node while we looked, from the times that its
kubelet writes: of one clock, whole seconds, and with everything in between that is not
ours (volumes, network, init containers). So it is compared, accelerated or not, and not
added up.
"""

from collections.abc import Callable

from agent import metrics
from agent.model import pods


class Starts:
    """Waits for the starts of pods. `accelerated` says of a pod whether it was helped."""

    def __init__(self, accelerated: Callable[[str], bool]) -> None:
        self._accelerated = accelerated
        self._awaited: dict[str, str] = {}

    def seen(self, key: str, pod: pods.Pod, *, first: bool) -> None:
        """See scheduled.Observer.

        A pod that was there before us is left out, whatever its state: it may have
        started without help just because we were away.
        """
        if pod.ready_seconds is None:
            if not first:
                self._awaited.setdefault(key, pod.uid)
        elif self._awaited.pop(key, None) == pod.uid:
            metrics.pod_ready(pod.ready_seconds, accelerated=self._accelerated(key))

    def gone(self, key: str) -> None:
        """See scheduled.Observer."""
        self._awaited.pop(key, None)
