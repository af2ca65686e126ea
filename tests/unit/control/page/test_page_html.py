"""The controller's page: who sees it, and which forms count."""

import base64
import datetime
import json
import re

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agent.clients.kube import refusals
from agent.control.page import api_keys, page_data, page_html, page_routes
from agent.model import reports
from tests.unit.control import views

KEYS = {"public": "a-long-private-key", "other": "another-private-key"}


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


ALICE = basic("public", KEYS["public"])
REFUSAL = refusals.Refusal(request="r", status=404, reason="NotFound", text="gone")


class Client:
    """Notes what the forms do."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    async def create(self, resource, body):
        if self.error:
            raise self.error
        self.done.append(("create", resource.group, body["metadata"]["name"], body["spec"]))
        return body

    async def delete(self, resource, name, *, uid):
        if self.error:
            raise self.error
        self.done.append(("delete", resource.group, name, uid))


class Server:
    def __init__(self, url: str, session: aiohttp.ClientSession, client: Client) -> None:
        self.url = url
        self.session = session
        self.client = client
        self.now = views.NOW

    async def get(self, auth: str | None = ALICE) -> tuple[int, str]:
        headers = {"Authorization": auth} if auth else {}
        async with self.session.get(self.url, headers=headers) as answer:
            return answer.status, await answer.text()

    async def send(self, path: str, *, auth=ALICE, headers=None, **form: str) -> tuple[int, str]:
        url = f"{self.url}{path}"
        sent = {**(headers or {}), **({"Authorization": auth} if auth else {})}
        async with self.session.post(url, data=form, headers=sent) as answer:
            return answer.status, await answer.text()

    async def token(self, auth=ALICE) -> str:
        _, text = await self.get(auth)
        found = re.search(r'name="token" value="([0-9a-f]+)"', text)
        assert found is not None
        return found[1]


@pytest.fixture
async def server(tmp_path):
    (tmp_path / "keys").write_text(json.dumps(KEYS))

    async def read() -> page_data.View:
        return views.busy()

    client = Client()
    app = web.Application(client_max_size=1 << 16)
    keys = api_keys.Keys(tmp_path / "keys")
    page_routes.Pages(client, keys, read, clock=lambda: made.now).add_to(app)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            made = Server(f"http://127.0.0.1:{runner.addresses[0][1]}/", session, client)
            yield made
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "auth",
    [
        None,
        basic("public", "wrong"),
        basic("public", ""),
        basic("public", KEYS["other"]),
        basic("nobody", ""),
        basic("", ""),
    ],
)
async def test_strangers_see_nothing_and_do_nothing(server, auth) -> None:
    token = await server.token()

    status, text = await server.get(auth)
    assert (status, "cache" in text) == (401, False)
    status, _ = await server.send("create-cache", auth=auth, token=token, name="a", images="b")
    assert status == 401
    assert server.client.done == []


@pytest.mark.parametrize("said", ["Basic", "Basic !!!", "Basic \xff", "Bearer x", "Basic /w=="])
async def test_odd_authorizations_are_strangers(server, said) -> None:
    headers = {"Authorization": said.encode("latin-1").decode("latin-1")}
    async with server.session.get(server.url, headers=headers) as answer:
        assert answer.status == 401


async def test_without_keys_the_page_says_where_they_are_missing(server, tmp_path) -> None:
    (tmp_path / "keys").unlink()

    for auth in (None, ALICE):
        status, text = await server.get(auth)
        assert status == 503
        assert f"{tmp_path / 'keys'} is not there" in text


async def test_caches_and_nodes_are_shown(server) -> None:
    status, text = await server.get()

    assert status == 200
    for shown in (
        "cache-failed",
        "registry.example.com/team/none:1",
        "gpu-worker-18",
        "1 h 30 min",
    ):
        assert shown in text


async def test_a_cache_is_created_from_the_form(server) -> None:
    token = await server.token()

    status, text = await server.send(
        "create-cache", token=token, name=" new ", images="r.io/a:1\r\nr.io/b:2\r\n"
    )

    assert (status, "is being created" in text) == (200, True)
    assert server.client.done == [
        ("create", "uimgacc.io", "new", {"images": ["r.io/a:1", "r.io/b:2"]})
    ]


async def test_a_form_may_say_all_that_a_manifest_says(server) -> None:
    status, _ = await server.send(
        "create-cache",
        token=await server.token(),
        name="new",
        images="r.io/a:1",
        secrets="team/one\r\nteam/two",
        namespaces="team\r\nlab",
        size=" 50 ",
        days="7",
    )

    ((*_, spec),) = server.client.done
    assert status == 200
    assert spec == {
        "images": ["r.io/a:1"],
        "imagePullSecrets": ["team/one", "team/two"],
        "namespaces": ["team", "lab"],
        "imageCacheSize": 50,
        "retentionDays": 7,
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("secrets", "no-namespace", "spec.imagePullSecrets[0]"),
        ("namespaces", "Team", "spec.namespaces[0]"),
        ("size", "19", "spec.imageCacheSize"),
        ("size", "50Gi", "spec.imageCacheSize"),
        ("size", "-1", "spec.imageCacheSize"),
        ("days", "0", "spec.retentionDays"),
        ("days", "9" * 30, "spec.retentionDays"),
    ],
)
async def test_what_is_wrong_with_a_field_is_said_by_its_name(
    server, field, value, message
) -> None:
    form = {"token": await server.token(), "name": "new", "images": "r.io/a:1", field: value}

    status, text = await server.send("create-cache", **form)

    assert (status, message in text, server.client.done) == (422, True, [])


async def test_a_cache_is_deleted_only_as_the_one_that_was_shown(server) -> None:
    token = await server.token()
    group = "eci.alibabacloud.com"

    await server.send("delete-cache", token=token, group=group, name="tools", uid="u")

    assert server.client.done == [("delete", group, "tools", "u")]


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("", "r.io/a:1", "metadata.name"),
        ("UPPER", "r.io/a:1", "metadata.name"),
        ("../x", "r.io/a:1", "metadata.name"),
        ("new", "", "spec.images"),
        ("new", "r.io/A:1", "spec.images[0]"),
        ("new", " ".join(f"r.io/{n}:1" for n in range(21)), "at most 20"),
    ],
)
async def test_what_is_wrong_with_a_form_is_said(server, name, images, message) -> None:
    status, text = await server.send(
        "create-cache", token=await server.token(), name=name, images=images
    )

    assert (status, message in text, server.client.done) == (422, True, [])


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example.com"},
    ],
)
async def test_a_form_of_another_site_does_not_count(server, headers) -> None:
    form = {"token": await server.token(), "name": "a", "images": "r.io/a:1"}

    status, _ = await server.send("create-cache", headers=headers, **form)

    assert (status, server.client.done) == (403, [])


async def test_a_form_without_this_persons_token_does_not_count(server) -> None:
    others = await server.token(basic("other", KEYS["other"]))
    for token in ("", "x", others, "\udcff".encode("utf-8", "replace").decode()):
        status, _ = await server.send("create-cache", token=token, name="a", images="r.io/a:1")
        assert status == 403

    assert server.client.done == []


async def test_a_token_lasts_for_a_day_or_two(server) -> None:
    form = {"token": await server.token(), "name": "a", "images": "r.io/a:1"}
    server.now += datetime.timedelta(days=1)
    assert (await server.send("create-cache", **form))[0] == 200

    server.now += datetime.timedelta(days=1)
    assert (await server.send("create-cache", **form))[0] == 403


async def test_what_the_api_refuses_is_said(server) -> None:
    token = await server.token()
    server.client.error = refusals.NotFound(REFUSAL)
    status, text = await server.send(
        "delete-cache", token=token, group="uimgacc.io", name="x", uid="u"
    )
    assert (status, "does not exist any more" in text) == (422, True)

    server.client.error = refusals.Unavailable("the API server is away")
    status, text = await server.send("create-cache", token=token, name="a", images="r.io/a:1")
    assert (status, "the API server is away" in text) == (503, True)


def test_it_says_where_pulling_time_goes_and_what_a_cache_would_save() -> None:
    shown = page_html.render(views.busy(), token="t", now=views.NOW).decode()

    assert "123 pulls of the last day took 1 h 36 min together" in shown
    assert "With caches of the next 1, pods would have waited about 1 h 34 min less" in shown
    assert "288 GiB would not have been downloaded" in shown


def test_without_an_account_of_pulls_the_page_says_so() -> None:
    shown = page_html.render(page_data.View(), token="t", now=views.NOW).decode()

    assert "No pulls of the last day are known." in shown


@given(st.text())
def test_any_text_is_text(text) -> None:
    shown = page_html.render(views.busy(text), token="t", now=views.NOW).decode()

    assert shown.count("<script") == 0
    assert shown.count("<form") == len(views.busy().caches)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_annotation_of_a_node_is_read_or_left_out(text) -> None:
    found = reports.decode_saved(text)

    assert found is None or isinstance(found, reports.Saved)


def test_what_an_agent_saves_can_be_read() -> None:
    saved = reports.Saved(seconds=1.5, size=3, images={"hit": 2})

    assert reports.decode_saved(reports.encode_saved(saved)) == saved
