"""`uimgacc advise` and the controller's account of pulls, on events as kubelets write them."""

import asyncio
import contextlib
import datetime
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import typer.testing
import yaml

from agent.cli import commands
from agent.clients.kube import connection, rest_client
from agent.control.caches import cache_object
from agent.control.pulls import pull_account, pull_book
from agent.metrics import registries
from agent.model import keys, reports, times
from tests.control import rights
from tests.kube import apis, servers
from tests.kube.conftest import client

__all__ = ["client"]

pytestmark = pytest.mark.usefixtures("kinds")

RUNNER = typer.testing.CliRunner()
NAMESPACES = rest_client.Resource(plural="namespaces")
Run = Callable[..., "typer.testing.Result"]
MIB = 1 << 20


class Fleet:
    """Kubelets that report pulls. Its images are of a registry of its own."""

    def __init__(self, api: apis.Api) -> None:
        self.api = api
        self.registry = f"r{uuid.uuid4().hex[:10]}.example"
        self.made: list[str] = []

    def image(self, name: str) -> str:
        return f"{self.registry}/{name}"

    def namespace(self) -> str:
        name = f"test-{uuid.uuid4().hex[:10]}"
        self.api.create(NAMESPACES, {"metadata": {"name": name}})
        self.made.append(name)
        return name

    def pulled(
        self, image: str, took: str, *, node: str = "n1", namespace: str = "", **more: Any
    ) -> str:
        text = (
            f'Successfully pulled image "{self.image(image)}" in {took} ({took} including'
            f" waiting). Image size: {more.pop('size', 1000) * MIB} bytes."
        )
        return self.event(text, node=node, namespace=namespace, **more)

    def event(
        self, text: str, *, node: str = "n1", namespace: str = "", pod: str = "app-0", **more: Any
    ) -> str:
        """As client-go's recorder writes it for a kubelet."""
        namespace = namespace or self.api.namespace
        now = times.stamp(times.now())
        name = f"{pod}.{uuid.uuid4().hex[:16]}"
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": namespace,
                "name": pod,
                "uid": str(uuid.uuid4()),
                "fieldPath": "spec.containers{app}",
            },
            "type": "Normal",
            "reason": "Pulled",
            "message": text,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "kubelet", "host": node},
            "reportingComponent": "kubelet",
            "reportingInstance": node,
            **more,
        }
        self.api.create(rest_client.EVENTS, body, namespace=namespace)
        return name

    def pod(self, image: str, *, namespace: str = "", pod: str = "app-0", secret: str = "") -> None:
        secrets = {"imagePullSecrets": [{"name": secret}]} if secret else {}
        body = apis.pod(pod, "n1", image=self.image(image))
        body["spec"] |= secrets
        self.api.create(rest_client.PODS, body, namespace=namespace or self.api.namespace)

    def caches(self) -> dict[str, Any]:
        """The objects for images of this test."""
        return {
            each["metadata"]["name"]: each["spec"]
            for each in self.api.list(rest_client.IMAGE_CACHES)
            if any(self.registry in image for image in each["spec"]["images"])
        }


def names(api: apis.Api) -> set[str]:
    return {each["metadata"]["name"] for each in api.list(rest_client.IMAGE_CACHES)}


@pytest.fixture
def fleet(api: apis.Api) -> Iterator[Fleet]:
    made = Fleet(api)
    before = names(api)
    yield made
    # Events of other tests are advice as well: what was applied of them is not to be built later.
    for name in names(api) - before:
        api.delete(rest_client.IMAGE_CACHES, name)
    for name in made.made:
        api.delete(NAMESPACES, name)


@pytest.fixture
def run(api: apis.Api, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`uimgacc advise ...` with the test's cluster."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    monkeypatch.setenv("UIMGACC_NAMESPACE", api.namespace)
    return lambda *arguments: RUNNER.invoke(commands.app, ["advise", *arguments])


def done(result: "typer.testing.Result") -> str:
    assert result.exit_code == 0, result.output
    assert result.exception is None
    return str(result.stdout)


def by_image(fleet: Fleet, shown: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The images of this test, without the registry."""
    return {
        each["image"].partition("/")[2]: each
        for each in shown["images"]
        if each["image"].startswith(fleet.registry)
    }


def test_what_pulls_cost_is_read_from_events(fleet, run) -> None:
    for number in range(3):
        fleet.pulled("team/app:1", "1m0.5s", node=f"n{number}")
    fleet.pulled("team/once:1", "50s")
    fleet.pulled("team/small:1", "800ms", size=3)
    fleet.pulled("team/small:1", "700ms", size=3)
    fleet.event(f'Container image "{fleet.image("team/app:1")}" already present on machine')

    shown = json.loads(done(run("--events", "--json", "--next=100")))

    assert {
        name: (each["pulls"], each["downloads"], each["nodes"], each["verdict"])
        for name, each in by_image(fleet, shown).items()
    } == {
        "team/app:1": (3, 3, 3, "worth"),
        "team/once:1": (1, 1, 1, "once"),
        "team/small:1": (2, 0, 1, "quick"),
    }
    app = by_image(fleet, shown)["team/app:1"]
    assert (app["would_save_seconds"], app["would_save_bytes"]) == (178.5, 3000 * MIB)
    assert fleet.image("team/app:1") in shown["next"]
    text = done(run("--events", "--next=100"))
    assert "3 downloads of 60.5 s (median), about 2 min less" in text
    assert "--apply creates them" in text
    assert fleet.caches() == {}


def test_the_caches_are_applied_with_the_pull_secrets_of_pods(fleet, run) -> None:
    other, busy = fleet.namespace(), fleet.api.namespace
    for number in range(2):
        fleet.pulled("open:1", "40s", node=f"n{number}")
        fleet.pulled("private:1", "40s", namespace=other, pod="p-1")
        fleet.pulled("gone:1", "40s", pod="gone-0")
    fleet.pod("open:1")
    # The pod of the event is gone; its Deployment has made another one.
    fleet.pod("private:1", namespace=other, pod="p-2", secret="registry")

    text = done(run("--events", "--next=100", "--apply"))

    specs = sorted(fleet.caches().items())
    assert [(spec["images"], spec.get("imagePullSecrets")) for _, spec in specs if other in _] == [
        ([fleet.image("private:1")], [f"{other}/registry"])
    ]
    public = {image for name, spec in specs if busy in name for image in spec["images"]}
    assert {fleet.image("open:1"), fleet.image("gone:1")} <= public
    assert f"Applied the ImageCache advised-{other}-" in text
    assert f"Pods of {fleet.image('gone:1')} are gone" in text
    body = fleet.api.get(rest_client.IMAGE_CACHES, specs[0][0])
    managers = {each["manager"] for each in body["metadata"].get("managedFields", ())}
    assert managers <= {keys.COMPONENT}

    shown = json.loads(done(run("--events", "--json")))
    assert by_image(fleet, shown)["open:1"]["verdict"] == "building"
    assert fleet.image("open:1") not in shown["next"]
    assert sorted(fleet.caches().items()) == specs


def test_what_agents_have_saved_is_beside_what_pulls_cost(fleet, run) -> None:
    image = fleet.image("app:1")
    fleet.pulled("app:1", "40s")
    entry = reports.SavedImage(image=image, seconds=90.0, size=7, count=2)
    day = times.now().date().isoformat()
    today = reports.SavedDay(day=day, seconds=90.0, size=7, count=2, images=[entry])
    for number in range(2):
        saved = reports.Saved(seconds=300.0, size=9, images={"hit": 5}, today=today)
        meta = {
            "name": f"{keys.NODE_LEASE}n{number}",
            "labels": dict(keys.NODE_LEASE_LABELS),
            "annotations": {keys.SAVED: reports.encode_saved(saved)},
        }
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta}
        fleet.api.create(rest_client.LEASES, lease, namespace=fleet.api.namespace)

    shown = json.loads(done(run("--events", "--json")))

    assert by_image(fleet, shown)["app:1"]["saved_today_seconds"] == 180.0
    assert shown["saved"] == {"seconds": 600.0, "bytes": 18}
    assert "Caches have saved 3 min and 14 B today, 10 min and 18 B since" in done(run("--events"))


def test_a_pull_secret_of_an_impossible_name_spoils_no_other_cache(fleet, run) -> None:
    for number in range(2):
        fleet.pulled("open:1", "40s", node=f"n{number}")
        fleet.pulled("odd:1", "40s", pod="odd-0")
    fleet.pod("open:1")
    fleet.pod("odd:1", pod="odd-0", secret="no/name")

    result = run("--events", "--next=100", "--yaml")

    cached = {
        image for each in yaml.safe_load_all(done(result)) for image in each["spec"]["images"]
    }
    assert fleet.image("open:1") in cached
    assert fleet.image("odd:1") not in cached
    assert f"no cache for {fleet.image('odd:1')}" in result.stderr


def test_the_manifests_are_documents_for_kubectl(fleet, run) -> None:
    for number in range(2):
        fleet.pulled("app:1", "4h0m0s", node=f"flood-{number}")

    documents = list(yaml.safe_load_all(done(run("--events", "--yaml", "--next=1"))))

    assert [each["spec"]["images"] for each in documents] == [[fleet.image("app:1")]]
    assert documents[0]["metadata"]["name"].startswith(f"advised-{fleet.api.namespace}-")


def test_a_forger_s_events_change_no_terminal_and_name_no_impossible_figure(fleet, run) -> None:
    image = fleet.image("app:1")
    size = "Image size: 99999999999999999 bytes."
    for text in (
        f'Successfully pulled image "{image}\x1b[2J" in 5s (5s including waiting). {size}',
        f'Successfully pulled image "{image}" in 99999h (5s including waiting). {size}',
        'Successfully pulled image "$(reboot)" in 50s (5s including waiting)',
        f'Successfully pulled image "{image}\n---\nkind: Pod" in 50s',
        "\x1b]0;title\x07",
    ):
        fleet.event(text)
    fleet.pulled("app:2", "5h", node="flood-0", count=10**6)
    fleet.pulled("app:2", "5h", node="flood-0", source={"component": "me"}, reportingComponent="me")

    result = run("--events", "--json", "--next=100")

    shown = by_image(fleet, json.loads(done(result)))
    assert {name: each["pulls"] for name, each in shown.items()} == {"app:2": 20}
    assert "\x1b" not in done(run("--events"))


@pytest.mark.parametrize("since", ["0h", "8d", "yesterday", "-1h"])
def test_a_time_that_is_none_is_refused(run, since) -> None:
    result = run("--since", since)

    assert result.exit_code == 2
    assert "up to 7d" in result.output


class Account:
    """An account of pulls, as a leader keeps it."""

    def __init__(
        self, fleet: Fleet, client: rest_client.Client, *caches: cache_object.CacheObject
    ) -> None:
        self.fleet = fleet
        self.book = pull_book.BookObject(client, namespace=fleet.api.namespace)
        self.account = pull_account.PullAccount(
            client, self.book, most=2000, observed=lambda: caches, now=client.now
        )

    async def pulls(self, image: str) -> int:
        costs = await self.account.costs(times.now() - datetime.timedelta(days=1))
        return sum(each.pulls for each in costs.images if each.image == self.fleet.image(image))

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator["Account"]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.account.run())
            yield self
            task.cancel()

    async def wait_pulls(self, image: str, count: int) -> None:
        async with asyncio.timeout(60):
            while await self.pulls(image) != count:
                await asyncio.sleep(0.02)


async def test_the_next_leader_counts_nothing_twice_and_misses_nothing(fleet, client) -> None:
    fleet.pulled("app:1", "20s", count=2)
    async with Account(fleet, client).leading() as first:
        await first.wait_pulls("app:1", 2)
        name = fleet.pulled("app:1", "30s")
        await first.wait_pulls("app:1", 3)
        fleet.api.patch(rest_client.EVENTS, name, {"count": 2}, namespace=fleet.api.namespace)
        await first.wait_pulls("app:1", 4)
        await first.account.save()
    fleet.pulled("app:1", "40s")

    async with Account(fleet, client).leading() as second:
        await second.wait_pulls("app:1", 5)
        fleet.pulled("last:1", "40s")
        await second.wait_pulls("last:1", 1)
        assert await second.pulls("app:1") == 5


async def test_advice_goes_by_the_leader_s_account(fleet, client, run) -> None:
    fleet.pulled("app:1", "20s")
    async with Account(fleet, client).leading() as leader:
        await leader.wait_pulls("app:1", 1)
        fleet.pulled("app:1", "40s")
        await leader.wait_pulls("app:1", 2)
        await leader.account.save()
    for each in fleet.api.list(rest_client.EVENTS, namespace=fleet.api.namespace):
        fleet.api.delete(
            rest_client.EVENTS, each["metadata"]["name"], namespace=fleet.api.namespace
        )

    shown = json.loads(done(await asyncio.to_thread(run, "--json")))

    assert shown["source"].startswith("the controller's account")
    assert by_image(fleet, shown)["app:1"]["median_seconds"] == 30.0


def counted(cached: str) -> tuple[float, float]:
    """Seconds and MiB of pulls of images that a cache has, or has not."""
    return tuple(
        registries.CONTROLLER.get_sample_value(
            f"uimgacc_fleet_pull_{name}_total", {"cached": cached}
        )
        for name in ("seconds", "bytes")
    )


async def test_the_metrics_say_what_pulls_of_images_in_caches_cost(fleet, client) -> None:
    cache = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": "c", "uid": "u", "resourceVersion": "1"}
        | {"creationTimestamp": "2026-11-20T13:00:00Z"},
        "spec": {"images": [fleet.image("cached:1")]},
        "status": {"phase": "Ready"},
    }
    account = Account(fleet, client, cache_object.parse(cache))
    (there, size), (other, _) = counted("true"), counted("false")
    fleet.pulled("cached:1", "30s", size=10)
    fleet.pulled("other:1", "7s", size=10)

    async with account.leading():
        await account.wait_pulls("cached:1", 1)
        await account.wait_pulls("other:1", 1)

    assert counted("true") == (there + 30, size + 10 * MIB)
    assert counted("false")[0] >= other + 7


async def test_nothing_is_written_where_nothing_was_pulled(fleet, client) -> None:
    account = Account(fleet, client)

    await account.account.save()

    assert await account.book.read() is None


async def test_without_images_to_keep_no_event_is_read(fleet, client) -> None:
    account = pull_account.PullAccount(
        client, pull_book.BookObject(client), most=0, observed=tuple, now=client.now
    )
    before = client.requests
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await account.run()

    assert client.requests == before


@servers.needs_own
async def test_the_rights_of_the_manifests_suffice_for_the_account(fleet, tmp_path) -> None:
    api = fleet.api
    fleet.pulled("app:1", "20s")
    with rights.installed(api, "controller", folder=tmp_path):
        path = api.kubeconfig(token=api.token(rights.ACCOUNT))
        async with rest_client.Client(connection.Kubeconfig(path), deadline=20) as limited:
            async with Account(fleet, limited).leading() as leader:
                await leader.wait_pulls("app:1", 1)
                await leader.account.save()
                fleet.pulled("app:1", "20s")
                await leader.wait_pulls("app:1", 2)
                await leader.account.save()
            kept = await leader.book.read()

    assert kept is not None
    assert fleet.image("app:1") in {row.image for row in kept.rows}
    assert api.get(rest_client.CONFIG_MAPS, pull_book.CONFIG_MAP, namespace=api.namespace)
