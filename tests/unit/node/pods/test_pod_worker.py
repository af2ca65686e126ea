import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from agent import errors
from agent.matching import annotations, decisions, rules
from agent.model import pods
from agent.node.pods import pod_source, pod_worker, prepare, served_pods
from agent.node.report import pod_events


def pod(name: str, image: str = "app:1") -> pods.Pod:
    return pods.Pod(
        namespace="default",
        name=name,
        containers=(pods.Container(name="c", image=image),),
        runtime_class="uimgacc",
    )


class Source:
    """Pods that a test puts in."""

    synced = True

    def __init__(self) -> None:
        self.queue: asyncio.Queue[pod_source.Change] = asyncio.Queue()
        self.running: set[str] = set()

    def is_running(self, key: str) -> bool:
        return key in self.running

    async def changes(self) -> AsyncIterator[pod_source.Change]:
        while True:
            yield await self.queue.get()

    def put(self, found: pods.Pod) -> None:
        self.queue.put_nowait(pod_source.Change(pod_source.key_of(found), found))

    def remove(self, name: str) -> None:
        self.queue.put_nowait(pod_source.Change(f"default/{name}", None))


class Preparer:
    """Answers as a test says, and notes who was served when."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.failures: list[Exception] = []
        self.incomplete: list[errors.AgentError] = []
        """Why one image of the pods served next cannot be registered, one a time."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.inside = self.most = 0

    async def serve(self, found: pods.Pod, *, running: bool = False) -> prepare.Result:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
            self.served.append(f"{found.name} {found.images[0]}")
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.inside -= 1
        decision = rules.decide(found, annotations.request_of(found), (), {})
        failed = {"bad:1": self.incomplete.pop(0)} if self.incomplete else {}
        reason = "Partial" if failed else "Hit"
        events = () if running else (decisions.Event(reason=reason, message=f"m {failed}"),)
        return prepare.Result(
            decision=dataclasses.replace(decision, events=events),
            sentence="done",
            registered=found.images,
            failed=failed,
        )


class Sink:
    def __init__(self) -> None:
        self.emitted: list[str] = []

    def emit(self, found: pods.Pod, event: decisions.Event) -> None:
        self.emitted.append(f"{found.name} {event.reason}")


class Setting:
    def __init__(self, **options: object) -> None:
        self.source, self.preparer, self.sink = Source(), Preparer(), Sink()
        self.known = asyncio.Event()
        self.known.set()
        self.served = served_pods.ServedPods()
        self.worker = pod_worker.Worker(
            self.source,
            self.preparer,
            pod_events.Once(self.sink),
            self.served,
            self,
            pod_worker.Limits(pauses=(1.0, 2.0), give_up=60.0, **options),
        )

    async def wait_known(self) -> None:
        await self.known.wait()


@pytest.fixture
async def given() -> AsyncIterator[Setting]:
    given = Setting(parallel=2)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(given.worker.run())
        yield given
        task.cancel()


pytestmark = pytest.mark.looptime


async def test_each_pod_is_served_and_its_event_emitted_once(given) -> None:
    given.source.put(pod("a"))
    await asyncio.sleep(1)
    given.served.serve_again()
    await asyncio.sleep(1)

    assert given.preparer.served == ["a app:1", "a app:1"]
    assert given.sink.emitted == ["a Hit"]
    assert given.served.current["default/a"].sentence == "done"


async def test_it_is_known_whether_a_pod_waits_and_which_images_are_of_other_runtimes(
    given,
) -> None:
    given.preparer.gate.clear()
    given.source.put(pod("a"))
    await asyncio.sleep(1)
    waiting = given.served.is_waiting
    given.preparer.gate.set()
    await asyncio.sleep(1)
    served = given.served.current["default/a"]
    assert (waiting, given.served.is_waiting, given.served.foreign_images()) == (True, False, set())

    foreign = rules.decide_foreign(served.pod, annotations.Request(), handler="runc")
    served.result = prepare.Result(decision=foreign, sentence="")

    assert given.served.foreign_images() == {"docker.io/library/app:1"}


async def test_no_pod_is_served_before_the_cluster_knows_the_node() -> None:
    given = Setting()
    given.known.clear()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(given.worker.run())
        given.source.put(pod("a"))
        await asyncio.sleep(60)
        early = list(given.preparer.served), given.served.current["default/a"].sentence
        given.known.set()
        await asyncio.sleep(1)
        task.cancel()

    assert early == ([], "waiting until the cluster knows what this node acknowledges")
    assert given.preparer.served == ["a app:1"]


async def test_pods_are_served_side_by_side_but_not_too_many(given) -> None:
    given.preparer.gate.clear()
    for name in "abcde":
        given.source.put(pod(name))
    await asyncio.sleep(1)
    given.preparer.gate.set()
    await asyncio.sleep(1)

    assert given.preparer.most == 2
    assert len(given.preparer.served) == 5


async def test_only_the_last_state_of_a_pod_counts(given) -> None:
    given.preparer.gate.clear()
    for version in range(1, 5):
        given.source.put(pod("a", f"app:{version}"))
        await asyncio.sleep(0.1)
    given.preparer.gate.set()
    await asyncio.sleep(1)

    assert given.preparer.served == ["a app:1", "a app:4"]


async def test_what_fails_for_now_is_tried_again(given) -> None:
    given.preparer.failures = [errors.TemporaryError("later") for _ in range(3)]
    given.source.put(pod("a"))
    await asyncio.sleep(0.5)
    between = given.served.current["default/a"].sentence
    await asyncio.sleep(1 + 2 + 2)

    assert between == "later"
    assert len(given.preparer.served) == 4
    assert given.sink.emitted == ["a Hit"]


async def test_a_delay_that_was_asked_for_is_kept(given) -> None:
    given.preparer.failures = [errors.TemporaryError("later", delay=30)]
    given.source.put(pod("a"))
    await asyncio.sleep(29)
    before = len(given.preparer.served)
    await asyncio.sleep(2)

    assert (before, len(given.preparer.served)) == (1, 2)


async def test_trying_has_an_end(given) -> None:
    given.preparer.failures = [errors.TemporaryError("later") for _ in range(1000)]
    given.source.put(pod("a"))
    await asyncio.sleep(1000)

    assert 25 < len(given.preparer.served) < 35


async def test_what_cannot_succeed_is_not_tried_again_until_something_changes(given) -> None:
    given.preparer.failures = [errors.PermanentError("never")]
    given.source.put(pod("a"))
    await asyncio.sleep(100)
    assert len(given.preparer.served) == 1
    given.source.put(pod("a", "app:2"))
    await asyncio.sleep(1)

    assert given.preparer.served[1:] == ["a app:2"]


async def test_a_change_ends_the_pause_after_a_failure(given) -> None:
    given.preparer.failures = [errors.TemporaryError("later", delay=50)]
    given.source.put(pod("a"))
    await asyncio.sleep(1)
    given.source.put(pod("a", "app:2"))
    await asyncio.sleep(1)

    assert given.preparer.served == ["a app:1", "a app:2"]


async def test_a_pod_that_is_gone_is_not_served_any_more(given) -> None:
    given.preparer.failures = [errors.TemporaryError("later") for _ in range(10)]
    given.source.put(pod("a"))
    await asyncio.sleep(0.5)
    given.source.remove("a")
    await asyncio.sleep(100)

    assert len(given.preparer.served) == 1
    assert given.served.current == {}


async def test_a_pod_under_an_old_name_gets_its_events(given) -> None:
    given.source.put(pod("a"))
    await asyncio.sleep(1)
    given.source.remove("a")
    given.source.put(pod("a"))
    await asyncio.sleep(1)

    assert given.sink.emitted == ["a Hit", "a Hit"]


async def test_a_store_that_is_back_ends_the_pauses_of_those_who_wait_for_it(given) -> None:
    given.source.put(pod("done"))
    await asyncio.sleep(1)
    given.preparer.failures = [errors.TemporaryError("the store hangs", delay=50)]
    given.source.put(pod("a"))
    await asyncio.sleep(1)
    given.served.retry_now()
    await asyncio.sleep(1)

    assert given.preparer.served == ["done app:1", "a app:1", "a app:1"]


async def test_a_pod_that_runs_already_has_no_events(given) -> None:
    given.source.running.add("default/a")
    given.source.put(pod("a"))
    given.source.put(pod("b"))
    await asyncio.sleep(1)

    assert given.preparer.served == ["a app:1", "b app:1"]
    assert given.sink.emitted == ["b Hit"]


async def test_a_pod_that_started_while_it_could_not_be_served_has_no_events(given) -> None:
    """The store was away, so its kubelet has pulled everything: a hit would be a lie."""
    given.preparer.failures = [errors.TemporaryError("the store hangs", delay=50)]
    given.source.put(pod("a"))
    await asyncio.sleep(1)
    given.source.running.add("default/a")
    given.served.retry_now()
    await asyncio.sleep(1)

    assert given.preparer.served == ["a app:1", "a app:1"]
    assert given.sink.emitted == []


@pytest.mark.parametrize("end", [{"deleting": True}, {"phase": "Succeeded"}])
async def test_what_became_of_a_pod_stays_known_after_its_end(given, end) -> None:
    given.source.put(pod("a"))
    await asyncio.sleep(1)
    before = given.served.current["default/a"].ended
    given.source.put(dataclasses.replace(pod("a"), **end))
    await asyncio.sleep(1)
    ending = given.served.current["default/a"].ended
    given.source.remove("a")
    await asyncio.sleep(1)

    assert given.preparer.served == ["a app:1"]
    (gone,) = given.served.ended
    assert (before, gone.ended, gone.sentence) == (None, ending, "done")
    assert gone.result is not None
    assert gone.result.registered == ("app:1",)
    assert given.served.on_node() == []


async def test_a_pod_that_is_seen_only_after_its_end_is_not_served(given) -> None:
    given.source.put(dataclasses.replace(pod("a"), phase="Failed"))
    await asyncio.sleep(1)

    assert given.preparer.served == given.sink.emitted == []
    assert given.served.current["default/a"].sentence == "it ended before its turn came"


async def test_of_many_pods_that_are_gone_the_last_fifty_are_kept(given) -> None:
    for number in range(60):
        given.source.put(pod(f"a{number}"))
        await asyncio.sleep(1)
        given.source.remove(f"a{number}")
    await asyncio.sleep(1)

    assert [gone.pod.name for gone in given.served.ended] == [f"a{n}" for n in range(59, 9, -1)]


async def test_a_pod_of_which_one_image_failed_is_retried_and_says_so_once(given) -> None:
    given.preparer.incomplete = [errors.TemporaryError(f"try {n}") for n in range(3)]
    given.source.put(pod("a"))
    await asyncio.sleep(0.5)
    between = given.served.current["default/a"]
    assert between.result.registered == ("app:1",)
    assert given.served.accelerated("default/a")
    await asyncio.sleep(10)

    assert len(given.preparer.served) == 4
    assert given.sink.emitted == ["a Partial", "a Hit"]


async def test_an_image_that_can_never_be_registered_is_not_retried(given) -> None:
    given.preparer.incomplete = [errors.PermanentError("no blob")]
    given.source.put(pod("a"))
    await asyncio.sleep(100)

    assert len(given.preparer.served) == 1
    assert given.sink.emitted == ["a Partial"]
