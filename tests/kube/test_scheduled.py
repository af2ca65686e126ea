"""The pods that an API server has bound to a node, whatever becomes of the server."""

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest

from agent.clients.kube import connection, node_pods, reflector, rest_client
from agent.matching import annotations
from agent.model import keys, pods
from agent.node.pods import namespace_labels, scheduled
from tests.kube import apis, faults

FAST = (0.02, 0.05)


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.states: list[tuple[str, pods.Pod, bool]] = []
        self.ends: list[str] = []

    def seen(self, key: str, pod: pods.Pod, *, first: bool) -> None:
        self.states.append((key, pod, first))

    def gone(self, key: str) -> None:
        self.ends.append(key)


class Followed:
    """A node's pods, as a consumer of the source knows them."""

    def __init__(self, client: rest_client.Client, node: str) -> None:
        self.observer = Seen()
        selected = node_pods.select(client, node, annotations=annotations.KEYS)
        self.source = scheduled.Scheduled(selected, self.observer, delays=FAST)
        self.pods: dict[str, pods.Pod] = {}
        self.log: list[str] = []
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        async with contextlib.aclosing(self.source.changes()) as changes:
            async for change in changes:
                name = change.key.partition("/")[2]
                self.log.append(f"{'-' if change.pod is None else '+'}{name}")
                if change.pod is None:
                    del self.pods[name]
                else:
                    self.pods[name] = change.pod
                self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._changed.wait()

    async def until_named(self, *names: str) -> None:
        await self.until(lambda: set(self.pods) == set(names))


@contextlib.asynccontextmanager
async def following(client: rest_client.Client, node: str) -> AsyncIterator[Followed]:
    followed = Followed(client, node)
    task = asyncio.create_task(followed.follow())
    try:
        yield followed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def node(api: apis.Api) -> str:
    return api.node()


@pytest.fixture
async def followed(
    client: rest_client.Client, node: str, proxy: faults.Proxy
) -> AsyncIterator[Followed]:
    async with following(client, node) as followed:
        # A fault that comes between list and watch would meet neither.
        await followed.until(lambda: followed.source.synced and proxy.watching)
        yield followed


async def test_pods_of_this_node_come_change_and_go(api, client, node) -> None:
    other = api.node()
    api.pod("early", node)
    api.pod("elsewhere", other)
    async with following(client, node) as followed:
        await followed.until_named("early")
        api.pod("late", node, annotations={"uimgacc.io/image-cache": "auto"})
        await followed.until_named("early", "late")
        patch = {"metadata": {"annotations": {"uimgacc.io/image-cache": "imc-1"}}}
        api.patch(rest_client.PODS, "late", patch, namespace=api.namespace)
        wanted = {"uimgacc.io/image-cache": "imc-1"}
        await followed.until(lambda: followed.pods["late"].annotations == wanted)
        api.delete_pod("early")
        await followed.until_named("late")

    # A real server tells a deletion in two steps.
    assert followed.log[:3] == ["+early", "+late", "+late"]
    assert followed.log[-1] == "-early"
    assert followed.pods["late"].images == ("registry/app:1",)
    assert followed.source.problem == ""


async def test_a_pod_that_is_being_deleted_is_told_as_such(api, followed, node) -> None:
    api.pod("one", node)
    await followed.until_named("one")
    path = rest_client.PODS.path("one", namespace=api.namespace)
    api._ask("DELETE", path, {"gracePeriodSeconds": 30})
    await followed.until(lambda: followed.pods["one"].deleting)


async def test_changes_of_the_status_are_no_news_but_are_observed(api, followed, node) -> None:
    api.pod("one", node)
    await followed.until_named("one")
    condition = {"type": "Ready", "status": "False", "reason": "r"}
    api.pod_status("one", {"phase": "Running", "conditions": [condition]})
    await followed.until(lambda: followed.observer.states[-1][1].phase == "Running")
    api.pod("two", node)
    await followed.until_named("one", "two")

    assert followed.log == ["+one", "+two"]


async def test_a_pod_runs_when_all_its_containers_have_started_with_its_images(
    api, client, node, followed
) -> None:
    """Also one that was there before us: nobody needs to be told of it any more."""
    api.pod("one", node)
    await followed.until_named("one")
    key = f"{api.namespace}/one"
    before = followed.source.is_running(key)
    api.pod_status("one", {"phase": "Running"})
    await followed.until(lambda: followed.source.is_running(key))
    async with following(client, node) as successor:
        await successor.until_named("one")
        found = successor.source.is_running(key)
    # In place, as `kubectl set image pod` does: its kubelet asks for another image.
    image = {"spec": {"containers": [{"name": "c", "image": "registry/app:2"}]}}
    api.patch(
        rest_client.PODS, "one", image, namespace=api.namespace, how=rest_client.Patch.STRATEGIC
    )
    await followed.until(lambda: followed.pods["one"].images == ("registry/app:2",))
    after = followed.source.is_running(key)
    api.delete_pod("one")
    await followed.until_named()

    assert (before, found, after, followed.source.is_running(key)) == (False, True, False, False)


async def test_a_pod_that_has_finished_is_news(api, followed, node) -> None:
    api.pod("one", node)
    await followed.until_named("one")
    api.pod_status("one", {"phase": "Succeeded"})
    await followed.until(lambda: followed.pods["one"].phase == "Succeeded")


async def test_what_was_missed_is_found_by_a_list_after_410(
    api, proxy, client, node, followed
) -> None:
    for name in ("stays", "goes", "replaced"):
        api.pod(name, node)
    await followed.until_named("stays", "goes", "replaced")
    uid = followed.pods["replaced"].uid
    before = list(followed.log)
    proxy.fail(410, reason="Expired", times=1, which=lambda seen: seen.watch)
    proxy.fail(503, which=lambda seen: not seen.watch)
    proxy.end_watches()
    await followed.until(lambda: "503" in followed.source.problem)
    api.delete_pod("goes")
    api.delete_pod("replaced")
    api.pod("replaced", node)
    api.pod("new", node)
    proxy.heal()
    await followed.until_named("stays", "replaced", "new")

    missed = followed.log[len(before) :]
    assert sorted(missed) == ["+new", "+replaced", "-goes", "-replaced"]
    assert missed.index("-replaced") < missed.index("+replaced")
    assert followed.pods["replaced"].uid != uid


async def test_a_list_after_410_asks_for_nothing_older_than_what_was_seen(
    api, proxy, followed, node
) -> None:
    api.pod("one", node)
    await followed.until_named("one")
    proxy.fail(410, reason="Expired", times=1, which=lambda seen: seen.watch)
    proxy.end_watches()
    await followed.until(lambda: len(proxy.requests(watch=False)) == 2)
    first, again = proxy.requests(watch=False)

    # "0" is what the server has in memory: thousands of agents that start ask no database.
    assert first.query["resourceVersion"] == "0"
    assert int(again.query["resourceVersion"]) > 0
    assert again.query["resourceVersionMatch"] == "NotOlderThan"


async def test_a_server_older_than_what_was_seen_is_believed(api, proxy, followed, node) -> None:
    """Its database was restored from a backup: versions begin again."""
    api.pod("one", node)
    await followed.until_named("one")
    proxy.fail(504, reason="Timeout", times=1, which=lambda seen: seen.watch)
    proxy.end_watches()
    await followed.until(lambda: len(proxy.requests(watch=False)) == 2)

    assert "resourceVersion" not in proxy.requests(watch=False)[1].query
    api.pod("two", node)
    await followed.until_named("one", "two")


@pytest.mark.parametrize("bytes_before", [0, 1, 100])
async def test_a_watch_cut_within_an_event_loses_and_repeats_nothing(
    api, proxy, followed, node, bytes_before
) -> None:
    api.pod("one", node)
    await followed.until_named("one")
    proxy.cut_after = bytes_before
    api.pod("two", node)
    await followed.until_named("one", "two")
    api.pod("three", node)
    await followed.until_named("one", "two", "three")

    assert followed.log == ["+one", "+two", "+three"]
    assert proxy.cut_after is None
    assert len(proxy.requests(watch=False)) == 1


async def test_a_watch_goes_on_from_the_last_bookmark(api, proxy, followed, node) -> None:
    """Pods of others move the version on; without bookmarks ours would be too old one day."""
    api.pod("one", node)
    await followed.until_named("one")
    known = int(followed.source._reflector._version)
    newest = 0

    def is_ahead() -> bool:
        return int(followed.source._reflector._version) > known

    for index in range(20):
        made = api.pod(f"elsewhere-{index}", api.node())
        newest = int(made["metadata"]["resourceVersion"])
    # A real server sends one a minute.
    async with asyncio.timeout(100):
        while not is_ahead():
            await asyncio.sleep(0.05)
    before = len(proxy.requests(watch=True))
    proxy.end_watches()
    await followed.until(lambda: len(proxy.requests(watch=True)) > before)

    resumed = int(proxy.requests(watch=True)[before].query["resourceVersion"])
    assert known < resumed
    assert newest >= known
    assert len(proxy.requests(watch=False)) == 1


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(
    api, proxy, followed, node, monkeypatch
) -> None:
    waited: list[float | None] = []
    wait = reflector.backoff.Backoff.wait

    async def remember(self, asked: float | None = None) -> bool:
        waited.append(asked)
        return await wait(self, min(asked or 0, 0.05))

    monkeypatch.setattr(reflector.backoff.Backoff, "wait", remember)
    proxy.fail(429, headers={"Retry-After": "13"}, times=1)
    proxy.end_watches()
    api.pod("one", node)
    await followed.until_named("one")

    assert 13.0 in waited


@pytest.mark.parametrize("status", [500, 503, 403, 404])
async def test_pods_stay_known_while_the_server_refuses(api, proxy, followed, node, status) -> None:
    api.pod("one", node)
    await followed.until_named("one")
    proxy.fail(status)
    proxy.end_watches()
    await followed.until(lambda: str(status) in followed.source.problem)
    requests = len(proxy.seen)
    await followed.until(lambda: len(proxy.seen) >= requests + 3)

    assert set(followed.pods) == {"one"}
    assert "1 pods stay known" in followed.source.problem
    proxy.heal()
    api.pod("two", node)
    await followed.until_named("one", "two")
    assert followed.source.problem == ""


async def test_a_server_that_is_back_is_known_at_once(api, proxy, followed) -> None:
    """Not only when something happens: people look at the problem first of all."""
    proxy.stop()
    await followed.until(lambda: followed.source.problem != "")
    proxy.start()
    await followed.until(lambda: followed.source.problem == "")


async def test_a_server_that_is_down_at_the_start_is_waited_for(api, proxy, client, node) -> None:
    api.pod("one", node)
    proxy.stop()
    async with following(client, node) as followed:
        await followed.until(lambda: followed.source.problem != "")
        assert not followed.source.synced
        proxy.start()
        await followed.until_named("one")

    assert followed.source.synced


async def test_a_pod_that_nobody_can_read_concerns_nobody_else(
    api, followed, node, caplog, monkeypatch
) -> None:
    """As of a later Kubernetes, which writes a field in another way."""
    parse = pods.parse_pod

    def strange(manifest: rest_client.Object) -> pods.Pod:
        if manifest["metadata"]["name"] == "strange":
            return parse({**manifest, "spec": {"containers": "none"}})
        return parse(manifest)

    monkeypatch.setattr(pods, "parse_pod", strange)
    api.pod("strange", node)
    api.pod("plain", node)
    await followed.until_named("plain")

    assert "a pod cannot be read" in caplog.text


async def test_a_token_that_runs_out_is_replaced_without_a_list(api, proxy, node, tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    proxy.tokens = {"first"}
    path = api.kubeconfig(server=proxy.url, token_file=str(file))
    async with (
        rest_client.Client(connection.Kubeconfig(path)) as client,
        following(client, node) as followed,
    ):
        api.pod("one", node)
        await followed.until(lambda: followed.pods.keys() == {"one"} and proxy.watching)
        proxy.tokens = {"second"}
        proxy.end_watches()
        await followed.until(lambda: "401" in followed.source.problem)
        file.write_text("second")
        api.pod("two", node)
        await followed.until_named("one", "two")

    assert followed.log == ["+one", "+two"]


async def test_a_thousand_fat_pods_leave_little_behind(api, client, node) -> None:
    padding = "x" * 10_000
    for index in range(1000):
        annotated = {"tool.example/state": padding, "uimgacc.io/image-cache": "auto"}
        api.pod(f"fat-{index}", node, annotations=annotated)
    tracemalloc.start()
    try:
        async with following(client, node) as followed:
            await followed.until(lambda: len(followed.pods) == 1000)
            followed.observer.states.clear()
            gc.collect()
            # The server is in this process, too.
            ours = tracemalloc.Filter(True, "*/agent/*")
            snapshot = tracemalloc.take_snapshot().filter_traces([ours])
            held = sum(trace.size for trace in snapshot.traces)
    finally:
        tracemalloc.stop()

    assert held < 1000 * 1_500


class Labelled:
    """Namespaces' labels, followed beside a node's pods."""

    def __init__(self, client: rest_client.Client, node: str, **more: float) -> None:
        self.labels = namespace_labels.NamespaceLabels(client, **more)
        selected = node_pods.select(client, node, annotations=annotations.KEYS)
        self.source = scheduled.Scheduled(selected, Seen(), labels=self.labels, delays=FAST)
        self.pods: dict[str, pods.Pod] = {}

    async def follow(self, *names: str) -> None:
        """Until these pods were seen."""
        async with contextlib.aclosing(self.source.changes()) as changes:
            async for change in changes:
                if change.pod is not None:
                    self.pods[change.pod.name] = change.pod
                if self.pods.keys() >= set(names):
                    return

    async def until(self, label: str, namespace: str) -> None:
        async with asyncio.timeout(30):
            while self.labels.value_of(namespace) != label:
                await asyncio.sleep(0.02)


@pytest.fixture
async def labelled(client: rest_client.Client, node: str) -> AsyncIterator[Labelled]:
    made = Labelled(client, node)
    task = asyncio.create_task(made.labels.run())
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_namespace_asks_for_its_pods_from_the_first_one_on(
    api: apis.Api, node: str, labelled: Labelled
) -> None:
    """Also for those that were there before the agent, whose list and the namespaces' race."""
    label_namespace(api, "auto")
    api.pod("silent", node)
    api.pod("refuses", node, annotations={keys.CACHE: "false"})
    api.pod("named", node, annotations={keys.ALIBABA_PIN: "imc-1"})

    async with asyncio.timeout(30):
        await labelled.follow("silent", "refuses", "named")

    asked = {name: annotations.request_of(pod) for name, pod in labelled.pods.items()}
    assert asked["silent"].mode is annotations.Mode.AUTOMATIC
    assert asked["silent"].auto_create
    assert not asked["refuses"].asks
    assert (asked["named"].cache, asked["named"].remarks) == ("imc-1", ())


@pytest.mark.parametrize("value", [None, "false", "true"])
async def test_a_namespace_that_does_not_ask_changes_no_pod(
    api: apis.Api, node: str, labelled: Labelled, value: str | None
) -> None:
    label_namespace(api, value)
    api.pod("silent", node)

    async with asyncio.timeout(30):
        await labelled.follow("silent")

    assert labelled.pods["silent"].annotations == {}


async def test_the_label_is_followed(api: apis.Api, labelled: Labelled) -> None:
    label_namespace(api, "auto")
    await labelled.until("auto", api.namespace)
    label_namespace(api, None)
    await labelled.until("", api.namespace)


async def test_pods_are_served_where_namespaces_must_not_be_listed(
    api: apis.Api, node: str, client: rest_client.Client, proxy: faults.Proxy
) -> None:
    """As with the role of an older version."""
    proxy.fail(403, reason="Forbidden", which=lambda seen: seen.path.endswith("/namespaces"))
    made = Labelled(client, node, first_list=0.1)
    task = asyncio.create_task(made.labels.run())
    api.pod("silent", node)

    async with asyncio.timeout(30):
        await made.follow("silent")

    assert "silent" in made.pods
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def label_namespace(api: apis.Api, value: str | None) -> None:
    body = {"metadata": {"labels": {keys.CACHE: value}}}
    api.patch(rest_client.NAMESPACES, api.namespace, body)
