"""What waits for its turn, and when it is due."""

from typing import Any

import pytest

from agent.control.caches import cache_object
from agent.control.reconcile import observed, work_queue
from agent.model import keys
from tests.unit.control import views

pytestmark = pytest.mark.looptime


class Due(work_queue.Queue[cache_object.Key]):
    """Notes the names of what is put into the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def add(self, key: cache_object.Key, delay: float = 0.0) -> None:
        self.names.append(key.name)
        super().add(key, delay)


def view_of(*names: str) -> tuple[observed.Observed, Due]:
    """A view in which these caches wait."""
    queue = Due()
    view = observed.Observed(queue)
    for name in names:
        made = views.cache(name)
        view.caches[made.key] = made
        view.note_waiting(made.key, waits=True)
    return view, queue


async def test_where_one_gives_way_the_others_are_due() -> None:
    """One whose step fails, or whose build cannot begin, must not hold up the line."""
    view, queue = view_of("a", "b", "c")

    view.note_waiting(views.cache("b").key, waits=False)

    assert sorted(queue.names) == ["a", "c"]


async def test_where_one_that_waits_is_deleted_the_others_are_due() -> None:
    view, queue = view_of("a", "b")

    view.drop_cache(views.cache("a").key)

    assert queue.names == ["b"]


async def test_a_refresh_waits_as_well_as_a_first_build() -> None:
    """One that serves meanwhile was not looked at when a build ended."""
    view, queue = view_of("ready")
    assert view.caches[views.cache("ready").key].state.serving

    view.queue_waiting()

    assert queue.names == ["ready"]


async def test_the_caches_of_builds_that_run_and_of_those_that_are_about_to() -> None:
    view, _ = view_of("a")
    body: dict[str, Any] = {
        "metadata": {
            "name": "j-1",
            "uid": "j-1",
            "resourceVersion": "1",
            "annotations": {keys.JOB_OWNER: "uimgacc.io/a"},
        },
        "spec": {},
    }
    view.put_job(body)

    known, other = view.caches[views.cache("a").key], views.cache("b")
    assert view.building({"j-1": other, "j-2": other}) == [other, known]
