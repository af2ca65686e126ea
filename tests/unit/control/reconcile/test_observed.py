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


def view_of(*names: str, parallel: int = 4) -> tuple[observed.Observed, Due]:
    """A view in which these caches wait."""
    queue = Due()
    view = observed.Observed(queue, parallel=parallel)
    for name in names:
        made = view.put_cache(views.body(name))
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
    view.starting = {"j-1": other, "j-2": other}
    assert view.building() == [other, known]


async def test_where_a_build_ends_only_those_are_due_for_which_there_is_a_slot() -> None:
    """Of ten thousand that wait, each end of a build would otherwise cost ten thousand steps."""
    view, queue = view_of(*(f"cache-{number}" for number in range(50)), parallel=3)

    view.queue_waiting()

    assert queue.names == ["cache-0", "cache-1"], "refreshes leave one slot"


async def test_the_jobs_of_a_cache() -> None:
    view, _ = view_of("a")
    for name, cache_id in (("j-1", "imc-a"), ("j-2", "imc-b"), ("j-1", "imc-b")):
        labels = {keys.JOB_CACHE_ID: cache_id}
        meta = {"name": name, "uid": name, "resourceVersion": "1", "labels": labels}
        view.put_job({"metadata": meta, "spec": {}})

    assert sorted(view.jobs_of("imc-b")) == ["j-1", "j-2"]
    assert view.jobs_of("imc-a") == {}
    view.drop_job("j-1")
    assert sorted(view.jobs_of("imc-b")) == ["j-2"]


@pytest.mark.parametrize(("phase", "due"), [("Ready", 0), ("Creating", 1), ("Failed", 1)])
async def test_the_echo_of_a_step_s_own_write_needs_no_step_of_a_cache_that_is_ready(
    phase: str, due: int
) -> None:
    view, queue = view_of()
    written = views.body("a", phase=phase)

    known = view.put_cache(written)
    view.deliver("imagecaches", "MODIFIED", written)
    assert view.caches[known.key] is known
    assert len(queue.names) == due

    changed = views.body("a", phase=phase)
    changed["metadata"]["resourceVersion"] = "2"
    view.deliver("imagecaches", "MODIFIED", changed)
    assert len(queue.names) == due + 1


def at(version: str, phase: str = "Ready") -> dict[str, Any]:
    body = views.body("a", phase=phase)
    body["metadata"]["resourceVersion"] = version
    return body


@pytest.mark.parametrize("echo_first", [True, False])
@pytest.mark.parametrize(("phase", "due"), [("Ready", 0), ("Creating", 1)])
async def test_echoes_within_a_step_are_judged_by_how_it_ends(
    phase: str, due: int, echo_first: bool
) -> None:
    """Its finalizer, then its status: each came back, before the answer or after it."""
    view, queue = view_of()
    key = view.put_cache(at("1", "Creating")).key

    with view.stepping(key):
        for body in (at("2", "Creating"), at("3", phase)):
            if echo_first:
                view.deliver("imagecaches", "MODIFIED", body)
            view.put_cache(body)
            if not echo_first:
                view.deliver("imagecaches", "MODIFIED", body)

    assert len(queue.names) == due


async def test_a_change_by_another_within_a_step_has_a_step_of_its_own() -> None:
    view, queue = view_of()
    key = view.put_cache(at("1")).key

    with view.stepping(key):
        view.put_cache(at("2"))
        view.deliver("imagecaches", "MODIFIED", at("3"))

    assert queue.names == ["a"]
