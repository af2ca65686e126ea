import datetime

import pytest

from agent.metrics import registries
from agent.model import pods
from agent.node.pods import start_times

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


class Served:
    """Pods of which all were accelerated, or none."""

    def __init__(self, *, accelerated: bool) -> None:
        self._accelerated = accelerated

    def accelerated(self, key: str) -> bool:
        return self._accelerated


def pod(*, uid: str = "1", seconds: float | None = None) -> pods.Pod:
    """A pod that the kubelet took up at noon, and started after so many seconds."""
    started = None if seconds is None else NOON + datetime.timedelta(seconds=seconds)
    return pods.Pod(namespace="d", name="p", uid=uid, accepted_at=NOON, started_at=started)


def observed(accelerated: str) -> tuple[float, float]:
    """Number and sum of what the metric has seen."""
    name = "uimgacc_pod_ready_seconds"
    labels = {"accelerated": accelerated}
    read = registries.AGENT.get_sample_value
    return read(f"{name}_count", labels) or 0.0, read(f"{name}_sum", labels) or 0.0


@pytest.fixture
def counted():
    """What is counted since now, by label."""
    before = {label: observed(label) for label in ("true", "false")}

    def since() -> dict[str, tuple[float, float]]:
        return {
            label: (observed(label)[0] - number, observed(label)[1] - total)
            for label, (number, total) in before.items()
        }

    return since


@pytest.mark.parametrize("accelerated", [True, False])
def test_a_pod_that_came_and_started_is_counted_once(counted, accelerated) -> None:
    starts = start_times.Starts(Served(accelerated=accelerated))
    starts.seen("d/p", pod(), first=False)
    for _ in range(3):
        starts.seen("d/p", pod(seconds=7), first=False)
    own, other = ("true", "false") if accelerated else ("false", "true")

    assert counted() == {own: (1, 7), other: (0, 0)}


def test_a_pod_that_was_there_before_us_is_left_out(counted) -> None:
    starts = start_times.Starts(Served(accelerated=True))
    starts.seen("d/p", pod(), first=True)
    starts.seen("d/p", pod(seconds=7), first=False)

    assert counted()["true"] == (0, 0)


def test_a_pod_that_had_started_when_it_was_first_seen_is_left_out(counted) -> None:
    starts = start_times.Starts(Served(accelerated=True))
    starts.seen("d/p", pod(seconds=7), first=False)

    assert counted()["true"] == (0, 0)


def test_another_pod_of_the_same_name_is_another(counted) -> None:
    starts = start_times.Starts(Served(accelerated=True))
    starts.seen("d/p", pod(uid="1"), first=False)
    starts.gone("d/p")
    starts.seen("d/p", pod(uid="2", seconds=7), first=False)

    assert counted()["true"] == (0, 0)
