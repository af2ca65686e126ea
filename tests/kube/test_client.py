"""The client of the Kubernetes API, and with it the fake that stands for the real server."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator

import pytest

from agent import errors
from agent.clients.kube import connection, refusals, rest_client
from agent.metrics import registries
from tests.kube import apis

CONFIG_MAPS = rest_client.Resource(plural="configmaps")


async def collected(pages) -> tuple[list[str], list[rest_client.Page]]:
    found = [page async for page in pages]
    return [item["metadata"]["name"] for page in found for item in page.items], found


def config_map(name: str, **data: str) -> dict:
    return {"metadata": {"name": name}, "data": data}


async def test_an_object_is_made_read_changed_and_deleted(api, client) -> None:
    where = {"namespace": api.namespace}
    made = await client.create(CONFIG_MAPS, config_map("one", a="1"), **where)
    changed = await client.patch(CONFIG_MAPS, "one", {"data": {"b": "2", "a": None}}, **where)

    assert changed["data"] == {"b": "2"}
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert changed["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
    assert (await client.get(CONFIG_MAPS, "one", **where))["data"] == {"b": "2"}

    await client.delete(CONFIG_MAPS, "one", **where)
    with pytest.raises(refusals.NotFound, match="one"):
        await client.get(CONFIG_MAPS, "one", **where)


async def test_a_change_of_an_older_version_is_refused(api, client) -> None:
    where = {"namespace": api.namespace}
    made = await client.create(CONFIG_MAPS, config_map("one"), **where)
    await client.patch(CONFIG_MAPS, "one", {"data": {"a": "1"}}, **where)
    meta = {"resourceVersion": made["metadata"]["resourceVersion"]}
    with pytest.raises(refusals.Conflict) as caught:
        await client.patch(CONFIG_MAPS, "one", {"metadata": meta, "data": {"a": "2"}}, **where)

    assert isinstance(caught.value, errors.TemporaryError)
    assert caught.value.refusal.status == 409


async def test_a_name_that_is_taken_and_a_body_that_is_wrong_are_told_apart(api, client) -> None:
    where = {"namespace": api.namespace}
    await client.create(CONFIG_MAPS, config_map("one"), **where)
    with pytest.raises(refusals.AlreadyExists):
        await client.create(CONFIG_MAPS, config_map("one"), **where)
    with pytest.raises(refusals.Invalid):
        await client.create(CONFIG_MAPS, config_map(""), **where)


async def test_only_the_object_that_was_meant_is_deleted(api, client) -> None:
    where = {"namespace": api.namespace}
    await client.create(CONFIG_MAPS, config_map("one"), **where)
    with pytest.raises(refusals.Conflict):
        await client.delete(CONFIG_MAPS, "one", uid="another", **where)


async def test_a_nodes_status_and_the_rest_of_it_are_changed_apart(api, client) -> None:
    node = api.node()
    first = {"type": "Ready", "status": "True", "reason": "r", "message": "m"}
    second = {**first, "type": "ImageAcceleration"}
    for condition in (first, second):
        body = {"metadata": {"labels": {"x": "y"}}, "status": {"conditions": [condition]}}
        await client.patch(
            rest_client.NODES, node, body, subresource="status", how=rest_client.Patch.STRATEGIC
        )
    body = {"metadata": {"labels": {"a": "b"}}, "status": {"conditions": None}}
    found = await client.patch(rest_client.NODES, node, body)

    assert {each["type"] for each in found["status"]["conditions"]} == {
        "Ready",
        "ImageAcceleration",
    }
    assert found["metadata"]["labels"]["a"] == "b"


async def test_a_patch_that_changes_nothing_is_no_change(api, client) -> None:
    where = {"namespace": api.namespace}
    made = await client.create(CONFIG_MAPS, config_map("one", a="1"), **where)
    same = await client.patch(CONFIG_MAPS, "one", {"data": {"a": "1"}}, **where)

    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_a_long_list_comes_in_parts_and_by_selector(api, client, monkeypatch) -> None:
    monkeypatch.setattr(rest_client, "_PAGE", 2)
    names = [f"n{index}" for index in range(5)]
    for name in names:
        body = config_map(name)
        body["metadata"]["labels"] = {"odd": str(int(name[1]) % 2 == 1).lower()}
        await client.create(CONFIG_MAPS, body, namespace=api.namespace)
    where = {"namespace": api.namespace}
    found, pages = await collected(client.pages(CONFIG_MAPS, labels="odd", **where))

    assert sorted(found) == names
    assert len(pages) == 3
    assert len({page.version for page in pages}) == 1
    odd, _ = await collected(client.pages(CONFIG_MAPS, labels="odd=true", **where))
    assert sorted(odd) == ["n1", "n3"]
    one, _ = await collected(client.pages(CONFIG_MAPS, fields="metadata.name=n4", **where))
    assert one == ["n4"]


async def events(client, version: str, number: int, **more) -> list[rest_client.Event]:
    """So many events, bookmarks left out."""
    found: list[rest_client.Event] = []
    watch = client.watch(CONFIG_MAPS, version=version, **more)
    async with contextlib.aclosing(watch), asyncio.timeout(30):
        async for event in watch:
            if event.kind is not rest_client.Kind.BOOKMARK:
                found.append(event)
            if len(found) == number:
                break
    return found


async def test_a_watch_tells_every_change_since_a_version_once(api, client) -> None:
    where = {"namespace": api.namespace}
    made = await client.create(CONFIG_MAPS, config_map("one"), **where)
    await client.patch(CONFIG_MAPS, "one", {"data": {"a": "1"}}, **where)
    await client.create(CONFIG_MAPS, config_map("two"), **where)
    await client.delete(CONFIG_MAPS, "one", **where)
    version = made["metadata"]["resourceVersion"]
    found = await events(client, version, 3, **where)

    kinds = [(event.kind.value, event.object["metadata"]["name"]) for event in found]
    assert kinds == [("MODIFIED", "one"), ("ADDED", "two"), ("DELETED", "one")]
    assert [event.version for event in await events(client, found[1].version, 1, **where)] == [
        found[2].version
    ]


async def test_what_leaves_a_watchs_selection_is_told_as_deleted(api, client) -> None:
    where = {"namespace": api.namespace}
    body = config_map("one")
    body["metadata"]["labels"] = {"in": "yes"}
    made = await client.create(CONFIG_MAPS, body, **where)
    await client.patch(CONFIG_MAPS, "one", {"metadata": {"labels": {"in": "no"}}}, **where)
    await client.patch(CONFIG_MAPS, "one", {"metadata": {"labels": {"in": "yes"}}}, **where)
    version = made["metadata"]["resourceVersion"]
    found = await events(client, version, 2, labels="in=yes", **where)

    assert [event.kind for event in found] == [rest_client.Kind.DELETED, rest_client.Kind.ADDED]


async def test_the_server_ends_a_watch_and_that_is_no_error(api, client) -> None:
    _, (page,) = await collected(client.pages(CONFIG_MAPS, namespace=api.namespace))
    where = {"namespace": api.namespace, "version": page.version, "seconds": 1}
    async with asyncio.timeout(30):
        found = [event async for event in client.watch(CONFIG_MAPS, **where)]

    assert {event.kind for event in found} <= {rest_client.Kind.BOOKMARK}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, refusals.Denied),
        (403, refusals.Denied),
        (404, refusals.NotFound),
        (409, refusals.Conflict),
        (410, refusals.Gone),
        (422, refusals.Invalid),
        (500, refusals.Unavailable),
        (503, refusals.Unavailable),
    ],
)
async def test_refusals_are_told_by_type(proxy, client, status, error) -> None:
    proxy.fail(status)
    with pytest.raises(error, match=rf"GET /api/v1/nodes/n: {status}.*as the test wants"):
        await client.get(rest_client.NODES, "n")


async def test_a_busy_server_says_when_to_come_again(proxy, client) -> None:
    proxy.fail(429, headers={"Retry-After": "7"}, times=1)
    with pytest.raises(refusals.TooMany) as caught:
        await client.get(rest_client.NODES, "n")

    assert caught.value.delay == 7


@pytest.mark.parametrize(
    ("told", "delay"), [("100000", 60), ("Wed, 21 Oct 2099 07:28:00 GMT", None), ("", None)]
)
async def test_no_server_can_ask_for_more_than_a_minute(proxy, client, told, delay) -> None:
    proxy.fail(429, headers={"Retry-After": told}, times=1)
    with pytest.raises(refusals.TooMany) as caught:
        await client.get(rest_client.NODES, "n")

    assert caught.value.delay == delay


def counted(verb: str, code: str) -> float:
    labels = {"verb": verb, "code": code}
    return registries.AGENT.get_sample_value("uimgacc_api_requests_total", labels) or 0.0


@pytest.fixture
async def impatient(proxy) -> AsyncIterator[rest_client.Client]:
    class There:
        seconds = 60.0

        async def read(self) -> connection.Access:
            return connection.Access(server=proxy.url, authorization="", tls=None)

    async with rest_client.Client(There(), deadline=0.2) as made:
        yield made


async def test_a_server_that_never_answers_is_given_up_and_counted(proxy, impatient) -> None:
    proxy.hang()
    before = counted("GET", "deadline")
    with pytest.raises(refusals.Unavailable, match="no answer in time"):
        await impatient.get(rest_client.NODES, "n")

    assert counted("GET", "deadline") == before + 1


async def test_a_watch_that_never_begins_is_counted_as_one(proxy, impatient) -> None:
    proxy.hang()
    before = counted("WATCH", "deadline")
    with pytest.raises(refusals.Unavailable, match="no answer in time"):
        await events(impatient, "1", 1)

    assert counted("WATCH", "deadline") == before + 1


async def test_who_does_not_want_the_answer_any_more_counts_nothing(proxy, client) -> None:
    proxy.hang()
    before = counted("GET", "deadline")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.get(rest_client.NODES, "n")

    assert counted("GET", "deadline") == before


@pytest.mark.parametrize("verb", ["GET", "WATCH"])
async def test_a_server_that_is_down_is_unavailable(proxy, client, verb) -> None:
    proxy.stop()
    before = counted(verb, "none")
    with pytest.raises(refusals.Unavailable):
        await (client.get(rest_client.NODES, "n") if verb == "GET" else events(client, "1", 1))

    assert counted(verb, "none") == before + 1


async def test_a_watch_cut_within_a_line_is_an_error_and_tells_no_half_event(
    api, proxy, client
) -> None:
    made = await client.create(CONFIG_MAPS, config_map("one"), namespace=api.namespace)
    await client.create(CONFIG_MAPS, config_map("two"), namespace=api.namespace)
    proxy.cut_after = 40
    with pytest.raises(refusals.Unavailable):
        await events(client, made["metadata"]["resourceVersion"], 1, namespace=api.namespace)


async def test_a_silent_watch_is_given_up(api, proxy, client) -> None:
    made = await client.create(CONFIG_MAPS, config_map("one"), namespace=api.namespace)
    proxy.freeze()
    with pytest.raises(refusals.Unavailable, match="no answer in time"):
        await events(
            client,
            made["metadata"]["resourceVersion"],
            1,
            namespace=api.namespace,
            silence=0.5,
        )


@pytest.mark.parametrize("days", [-20000, 3])
async def test_the_servers_clock_is_told_by_its_last_answer(api, proxy, client, days) -> None:
    def ahead() -> float:
        return (client.now() - datetime.datetime.now(datetime.UTC)).total_seconds() / 86400

    before = ahead()
    proxy.clock = datetime.timedelta(days=days)
    await client.get(rest_client.NODES, api.node())

    assert (round(before, 2), round(ahead(), 2)) == (0, days)


async def test_a_server_that_tells_no_time_has_ours(proxy, client) -> None:
    proxy.fail(503, headers={"Date": "now"})
    with pytest.raises(refusals.Unavailable):
        await client.get(rest_client.NODES, "n")

    assert abs(client.now() - datetime.datetime.now(datetime.UTC)).total_seconds() < 600


async def test_a_token_that_was_replaced_is_read_again(api, proxy, tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    path = api.kubeconfig(server=proxy.url, token_file=str(file))
    node = api.node()
    proxy.tokens = {"old"}
    async with rest_client.Client(connection.Kubeconfig(path)) as client:
        await client.get(rest_client.NODES, node)
        proxy.tokens = {"new"}
        with pytest.raises(refusals.Denied):
            await client.get(rest_client.NODES, node)
        file.write_text("new")
        before = client.requests
        found = await client.get(rest_client.NODES, node)

    assert found["metadata"]["name"] == node
    assert client.requests == before + 2


async def test_a_kubeconfig_of_the_server_itself_works(api) -> None:
    node = api.node()
    async with rest_client.Client(connection.Kubeconfig(api.kubeconfig())) as client:
        found = await client.get(rest_client.NODES, node)

    assert found["metadata"]["name"] == node


def test_the_administrator_of_tests_is_told_what_is_wrong(api) -> None:
    with pytest.raises(apis.RefusedError) as caught:
        api.get(rest_client.NODES, "nowhere")

    assert caught.value.status == 404
