"""What the agent writes to the API: its node, events, automatic caches. As the agent's account."""

import asyncio
import contextlib
import datetime
import pathlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import yaml

from agent.clients.kube import connection, event_writer, refusals, rest_client
from agent.control.page import node_savings
from agent.matching import decisions
from agent.model import caches, images, keys, pods, reports, times
from agent.node.health import capability, node_object, node_patch
from agent.node.pods import cache_requests, served_pods
from agent.node.report import kube_events, node_lease, pod_events
from agent.roles import agent_cluster
from agent.settings import agent_settings
from tests.kube import apis, faults, servers

ROOT = pathlib.Path(__file__).parents[2]
WELL = capability.Verdict(capable=True)
ILL = capability.Verdict(problems={capability.Check.STORE: "the store does not answer"})
TAINT = node_patch.Taint("uimgacc.io/starting", "", "NoSchedule")
DEFINITIONS = rest_client.Resource(group="apiextensions.k8s.io", plural="customresourcedefinitions")
HIT = decisions.Event(reason="SuccessfulHitImageCache", message="Successfully hit image cache imc.")

needs_roles = servers.needs_real  # the emulated server has no roles and no policies


class Account:
    """Credentials of a service account."""

    seconds = 600.0

    def __init__(self, access: connection.Access, token: str) -> None:
        self._access = connection.Access(
            server=access.server, authorization=f"Bearer {token}", tls=access.tls
        )

    async def read(self) -> connection.Access:
        return self._access


@pytest.fixture
def node(api: apis.Api) -> str:
    return api.node(labels={"zone": "a"})


@pytest.fixture
async def agent(api: apis.Api, node: str) -> AsyncIterator[rest_client.Client]:
    """The client of a node's agent: it may do what the manifests allow it, and no more."""
    with contextlib.ExitStack() as undo:
        for document in yaml.safe_load_all(manifest(api, "node-rbac.yaml")):
            if document["kind"] != "ServiceAccount":
                make(api, undo, document)
        token = token_of(api, node)
        for document in yaml.safe_load_all(manifest(api, "node-policy.yaml")):
            make(api, undo, document)
        async with rest_client.Client(Account(api.access, token), deadline=20) as made:
            if api.access.tls:
                # A real server has the policies in force after a moment.
                await until_refused(
                    lambda: made.patch(rest_client.NODES, node, label("example.com/x"))
                )
            yield made


def manifest(api: apis.Api, name: str) -> str:
    """A manifest, but for an account of this test's."""
    text = (ROOT / "manifests/base" / name).read_text()
    text = text.replace("uimgacc-system:uimgacc-node", f"{api.namespace}:agent")
    for key in ("namespace", "kubernetes.io/metadata.name"):
        text = text.replace(f"{key}: uimgacc-system", f"{key}: {api.namespace}")
    return text.replace("name: uimgacc-node", f"name: {api.namespace}").replace(
        "policyName: uimgacc-node", f"policyName: {api.namespace}"
    )


def make(api: apis.Api, undo: contextlib.ExitStack, document: apis.Object) -> None:
    group, _, version = document["apiVersion"].partition("/")
    kind = document["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    resource = rest_client.Resource(group=group, version=version, plural=plural)
    for subject in document.get("subjects", []):
        subject["name"] = "agent"
    namespace = document["metadata"].get("namespace", "")
    api.create(resource, document, namespace=namespace)
    undo.callback(api.delete, resource, document["metadata"]["name"], namespace=namespace)


def token_of(api: apis.Api, node: str) -> str:
    """A token as the kubelet gets it for a pod: it tells on which node that is."""
    api.token("agent")
    uid = api.get(rest_client.NODES, node)["metadata"]["uid"]
    path = rest_client.Resource(plural="serviceaccounts").path(
        "agent", namespace=api.namespace, subresource="token"
    )
    bound = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"boundObjectRef": bound},
    }
    return str(api._ask("POST", path, body)["status"]["token"])


def label(key: str) -> apis.Object:
    """A patch that changes something each time."""
    return {"metadata": {"labels": {key: uuid.uuid4().hex}}}


async def until_refused(act: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await act()
            except (refusals.Denied, refusals.Invalid):
                return
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def running(*services) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(service) for service in services]
        yield
        for task in tasks:
            task.cancel()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


class Reported:
    """A node object with its announcer and events."""

    def __init__(self, api: apis.Api, client: rest_client.Client, name: str) -> None:
        self.api = api
        self.name = name
        self.writer = event_writer.EventWriter(client)
        self.emitter = kube_events.KubeEvents(self.writer, name)
        self.announcer = node_object.Announcer(
            client,
            self.emitter,
            node_object.Settings(name=name, taint=TAINT, reread=0.5, pauses=(0.1,)),
        )

    def running(self):
        return running(self.announcer.run(), self.writer.run())

    @property
    def node(self) -> apis.Object:
        return self.api.get(rest_client.NODES, self.name)

    @property
    def labels(self) -> dict[str, str]:
        return self.node["metadata"].get("labels", {})

    @property
    def conditions(self) -> dict[str, apis.Object]:
        return {each["type"]: each for each in self.node.get("status", {}).get("conditions", [])}

    def events(self) -> list[str]:
        found = self.api.list(rest_client.EVENTS, namespace="default")
        return [each["reason"] for each in found if each["involvedObject"]["name"] == self.name]

    def is_told(self, status: str) -> bool:
        return self.conditions.get(keys.NODE_CONDITION, {}).get("status") == status


@pytest.fixture
async def reported(api, agent, node) -> Reported:
    return Reported(api, agent, node)


async def test_labels_condition_and_events_follow_the_verdict(reported, api) -> None:
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is"}
    api.patch(
        rest_client.NODES,
        reported.name,
        {"status": {"conditions": [ready]}},
        subresource="status",
        how=rest_client.Patch.STRATEGIC,
    )
    async with reported.running():
        reported.announcer.judged(WELL)
        await until(lambda: reported.is_told("True"))
        capable = reported.labels
        reported.announcer.judged(ILL)
        await until(lambda: reported.is_told("False"))
        await until(lambda: len(reported.events()) == 2)

    assert [capable.get(key) for key in (*keys.CAPABLE_LABELS, "zone")] == ["true", "true", "a"]
    assert not reported.labels.keys() & set(keys.CAPABLE_LABELS)
    condition = reported.conditions[keys.NODE_CONDITION]
    assert (condition["reason"], condition["message"]) == (
        "StoreUnavailable",
        "the store does not answer",
    )
    # The kubelet's own is as it was.
    assert {**reported.conditions["Ready"], **ready} == reported.conditions["Ready"]
    assert set(reported.events()) == {"ImageAccelerationReady", "ImageAccelerationLost"}


async def test_the_startup_taint_goes_and_others_stay(api, agent, node) -> None:
    starting = {"key": "uimgacc.io/starting", "effect": "NoSchedule"}
    pressure = {"key": "example.com/pressure", "value": "x", "effect": "NoExecute"}
    api.patch(rest_client.NODES, node, {"spec": {"taints": [starting, pressure]}})
    reported = Reported(api, agent, node)

    def left() -> list[str]:
        return [taint["key"] for taint in reported.node["spec"]["taints"]]

    async with reported.running():
        reported.announcer.judged(WELL)
        # It goes after the condition is written, by a request of its own.
        await until(lambda: left() == ["example.com/pressure"])

    assert reported.is_told("True")


async def test_what_somebody_takes_away_is_put_back(reported, api) -> None:
    async with reported.running():
        reported.announcer.judged(WELL)
        await until(lambda: reported.labels.get("uimgacc") == "true")
        api.patch(rest_client.NODES, reported.name, {"metadata": {"labels": {"uimgacc": None}}})
        await until(lambda: reported.labels.get("uimgacc") == "true")


async def test_generations_are_told_and_taken_over(reported, api, agent) -> None:
    async with reported.running():
        reported.announcer.annotate(**{keys.GENERATION: "4", keys.HELD: '["x"]'})
        await asyncio.wait_for(reported.announcer.wait_known(), 60)
        written = reported.node["metadata"]["annotations"]
        reported.announcer.annotate(**{keys.HELD: None})
        await until(lambda: keys.HELD not in reported.node["metadata"]["annotations"])
    successor = Reported(api, agent, reported.name)
    async with successor.running():
        before = await asyncio.wait_for(successor.announcer.annotations_before(), 60)

    assert (written[keys.GENERATION], written[keys.HELD]) == ("4", '["x"]')
    assert before[keys.GENERATION] == "4"


async def test_what_was_saved_is_on_the_nodes_lease(reported, api, agent) -> None:
    saved = reports.Saved(seconds=2.0, size=3, images={"hit": 1})
    lease = node_lease.NodeLease(
        agent, reported.announcer, name=reported.name, namespace=api.namespace
    )
    async with reported.running():
        await asyncio.wait_for(reported.announcer.wait_known(), 60)
        for seconds in (1.0, 2.0):
            written = reports.encode_saved(msgspec.structs.replace(saved, seconds=seconds))
            await lease.note(**{keys.SAVED: written})

    async with rest_client.Client(administrator(api), deadline=20) as client:
        assert await node_savings.read(client, namespace=api.namespace) == {reported.name: saved}
    made = api.get(rest_client.LEASES, f"uimgacc-node-{reported.name}", namespace=api.namespace)
    (owner,) = made["metadata"]["ownerReferences"]
    assert owner["uid"] == reported.node["metadata"]["uid"]


@needs_roles
@pytest.mark.parametrize("name", [keys.CONTROLLER_LEASE, f"{keys.NODE_LEASE}other"])
async def test_an_agent_writes_no_other_lease(api, agent, name: str) -> None:
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": api.namespace},
        "spec": {"holderIdentity": "agent"},
    }

    async def write() -> None:
        await agent.patch(
            *(rest_client.LEASES, name, body),
            namespace=api.namespace,
            how=rest_client.Patch.APPLY,
        )

    await until_refused(write)
    # The policy takes some seconds to hold: the first attempts may have made it.
    with contextlib.suppress(apis.RefusedError):
        api.create(rest_client.LEASES, body, namespace=api.namespace)
    with pytest.raises(refusals.Invalid, match="of its own node only"):
        await write()


async def test_the_wish_is_written_after_an_outage_of_the_api(
    api: apis.Api, proxy: faults.Proxy, client: rest_client.Client
) -> None:
    reported = Reported(api, client, api.node())
    async with reported.running():
        reported.announcer.judged(WELL)
        await until(lambda: reported.is_told("True"))
        proxy.fail(500)
        reported.announcer.judged(ILL)
        await until(lambda: reported.announcer.problem)
        during = reported.labels.get("uimgacc")
        proxy.heal()
        await until(lambda: reported.is_told("False"))

    assert during == "true"
    assert "uimgacc" not in reported.labels


async def test_a_pods_event_is_found_by_the_pod_once(api, agent) -> None:
    name = api.node()
    made = api.pod("web-0", name)
    pod = pods.Pod(
        namespace=api.namespace,
        name="web-0",
        uid=made["metadata"]["uid"],
        annotations={"k8s.aliyun.com/eci-image-cache": "true"},
    )
    for _ in range(2):
        writer = event_writer.EventWriter(agent)
        events = kube_events.KubeEvents(writer, name)
        async with running(writer.run()):
            pod_events.Once(events).emit(pod, HIT)
            events.emit(pod, decisions.Event(reason="Other", message="m", warning=True))
            await until(lambda: len(api.list(rest_client.EVENTS, namespace=api.namespace)) == 2)

    fields = f"involvedObject.name=web-0,involvedObject.uid={pod.uid},involvedObject.kind=Pod"
    found = [
        item
        async for page in agent_pages(api, fields)
        for item in page.items
        if item["reason"] == HIT.reason
    ]
    assert [item["message"] for item in found] == [
        "[eci.imagecache]Successfully hit image cache imc."
    ]
    assert found[0]["source"]["component"] == "EciService"


async def agent_pages(api: apis.Api, fields: str) -> AsyncIterator[rest_client.Page]:
    """As `kubectl describe pod` asks: with the rights of a person."""
    async with rest_client.Client(administrator(api), deadline=20) as client:
        async for page in client.pages(rest_client.EVENTS, namespace=api.namespace, fields=fields):
            yield page


def administrator(api: apis.Api) -> Account:
    return Account(api.access, api.access.authorization.removeprefix("Bearer "))


async def test_an_event_for_a_namespace_that_is_not_there_holds_up_no_other(api, agent) -> None:
    writer = event_writer.EventWriter(agent)
    events = kube_events.KubeEvents(writer, "n")
    async with running(writer.run()):
        events.emit(pods.Pod(namespace="never-made", name="p", uid="u"), HIT)
        events.emit(pods.Pod(namespace=api.namespace, name="p", uid="u"), HIT)
        await until(lambda: api.list(rest_client.EVENTS, namespace=api.namespace))


@pytest.fixture
def image_caches(api: apis.Api) -> None:
    """The native ImageCache, at least as far as an agent knows it."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "imagecaches.uimgacc.io"},
        "spec": {
            "group": "uimgacc.io",
            "scope": "Cluster",
            "names": {"plural": "imagecaches", "singular": "imagecache", "kind": "ImageCache"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }
    with contextlib.suppress(apis.RefusedError):
        api.create(DEFINITIONS, definition)
    apis.wait_until(lambda: _is_served(api))


def _is_served(api: apis.Api) -> bool:
    try:
        api.list(rest_client.IMAGE_CACHES)
    except apis.RefusedError:
        return False
    return True


def wish(tag: str) -> decisions.AutoCreate:
    references = (images.parse_reference(f"registry.example/app:{tag}"),)
    cache_id = caches.id_of_images(references)
    return decisions.AutoCreate(
        request=caches.CacheRequest(
            name=caches.name_of_auto_cache(cache_id),
            images=references,
            size_gib=caches.SIZE_AUTO,
            auto=True,
        ),
        cache_id=cache_id,
        event=decisions.Event(reason="ImageCacheAutoCreated", message="is auto created"),
    )


class Told:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def emit(self, pod: pods.Pod, event: decisions.Event) -> None:
        self.reasons.append(event.reason)


async def test_nodes_that_wish_for_the_same_cache_make_one(api, agent, image_caches) -> None:
    wanted = wish(api.namespace)
    told = [Told() for _ in range(3)]
    creators = [cache_requests.Creator(agent, each) for each in told]
    try:
        async with running(*(creator.run() for creator in creators)):
            for creator in creators:
                creator.create(pods.Pod(namespace=api.namespace, name="p"), wanted)
            await until(lambda: all(each.reasons for each in told))
        made = api.get(rest_client.IMAGE_CACHES, wanted.request.name)
    finally:
        api.delete(rest_client.IMAGE_CACHES, wanted.request.name)

    assert [each.reasons for each in told] == [["ImageCacheAutoCreated"]] * 3
    assert made["metadata"]["labels"] == {"uimgacc.io/auto-created": "true"}
    assert made["metadata"]["annotations"][keys.CREATED_FOR] == f"{api.namespace}/p"
    assert made["spec"]["images"] == [f"registry.example/app:{api.namespace}"]


async def test_the_last_match_is_written_by_one_of_many(api, agent, image_caches) -> None:
    request = wish(api.namespace).request
    manifest = cache_requests.manifest_of(request, pods.Pod(namespace=api.namespace, name="p"))
    api.create(rest_client.IMAGE_CACHES, manifest)

    def matched() -> str:
        found = api.get(rest_client.IMAGE_CACHES, request.name)["metadata"]
        return found["annotations"].get(keys.LAST_MATCHED, "")

    creators = [
        cache_requests.Creator(agent, Told(), timing=cache_requests.Timing(spread=0.3))
        for _ in range(5)
    ]
    try:
        before = agent.requests
        async with running(*(creator.run_matched() for creator in creators)):
            for creator in creators:
                creator.matched("uimgacc.io", request.name)
            await until(matched)
            # Each looks, and whoever finds it written leaves it alone.
            await until(lambda: agent.requests - before >= 6)
        moment = datetime.datetime.fromisoformat(matched())
    finally:
        api.delete(rest_client.IMAGE_CACHES, request.name)

    age = datetime.datetime.now(datetime.UTC) - moment
    assert abs(age) < datetime.timedelta(minutes=10)


@pytest.mark.parametrize("days", [-20000, 400], ids=["the node is ahead", "it was never set"])
async def test_what_others_compare_is_written_by_the_clock_of_the_server(
    api, proxy, image_caches, days, tmp_path
) -> None:
    """An agent as it is put together for a cluster, on a machine whose clock is wrong."""
    proxy.clock = datetime.timedelta(days=days)
    request = wish(api.namespace).request
    manifest = cache_requests.manifest_of(request, pods.Pod(namespace=api.namespace, name="p"))
    # Of a day ago by the server's clock: agents set it forward only.
    yesterday = datetime.datetime.now(datetime.UTC) + proxy.clock - datetime.timedelta(days=1)
    manifest["metadata"]["annotations"][keys.LAST_MATCHED] = times.stamp(yesterday)
    api.create(rest_client.IMAGE_CACHES, manifest)
    node = api.node()
    wanted = agent_settings.Agent(
        store=tmp_path, kubernetes=node, kubeconfig=api.kubeconfig(server=proxy.url)
    )

    def written() -> list[str]:
        conditions = api.get(rest_client.NODES, node).get("status", {}).get("conditions", [])
        found = [each for each in conditions if each["type"] == keys.NODE_CONDITION]
        matched = api.get(rest_client.IMAGE_CACHES, request.name)["metadata"]["annotations"]
        return [found[0]["lastHeartbeatTime"] if found else "", matched[keys.LAST_MATCHED]]

    def off(text: str) -> float:
        moment = datetime.datetime.fromisoformat(text) - proxy.clock
        return abs((moment - datetime.datetime.now(datetime.UTC)).total_seconds())

    try:
        environment = agent_cluster.opened(wanted, served_pods.ServedPods())
        async with environment as opened, running(*opened.services().values()):
            opened.node.judged(WELL)
            # Without the pause that spreads the reads of a fleet over minutes.
            opened.creator._timing = cache_requests.Timing(spread=0.0)
            opened.creator.matched("uimgacc.io", request.name)
            await until(lambda: all(text and off(text) < 3600 for text in written()))
    finally:
        api.delete(rest_client.IMAGE_CACHES, request.name)


@needs_roles
async def test_an_agent_may_not_read_what_it_does_not_need(api, agent) -> None:
    with pytest.raises(refusals.Denied):
        await agent.get(rest_client.Resource(plural="secrets"), "any", namespace=api.namespace)


@needs_roles
async def test_an_agent_may_not_touch_another_node(api, agent) -> None:
    other = api.node()
    await until_refused(lambda: agent.patch(rest_client.NODES, other, label("uimgacc")))
