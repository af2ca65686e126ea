"""An agent in a cluster: pods come from an API server, images into a real containerd."""

import contextlib
import json
import pathlib
from collections.abc import Iterator

import pytest

from agent.clients.kube import rest_client
from agent.roles import cluster_identity
from agent.store import layout
from agent.store.publish import ownership
from tests.containerd import conftest as containerds
from tests.kube import apis, faults
from tests.kube import conftest as servers
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

store = containerds.store
api_loop = servers.api_loop
api_access = servers.api_access
api_certificate = servers.api_certificate
api = servers.api
proxy = servers.tls_proxy


class Member(conftest.Node):
    """A node of a cluster; `name` is that of its object."""

    name: str


@pytest.fixture
def member(
    folder: pathlib.Path, registry, pristine, api: apis.Api, proxy: faults.Proxy, api_certificate
) -> Iterator[Member]:
    """A node of the cluster. Its agent has what a pod has, and meets the server by the proxy."""
    name = api.node()
    account = faults.account(folder / "account", api_certificate, proxy)
    node = Member(
        folder / "n",
        registry,
        pristine,
        source=("--kubernetes", name, "--service-account", account.folder),
        agent_environment=account.environment,
    )
    node.name = name
    with conftest.running(node, registry):
        yield node


@contextlib.contextmanager
def node_on(store: pathlib.Path, folder: pathlib.Path, registry, **more) -> Iterator[conftest.Node]:
    with conftest.running(conftest.Node(folder / "o", registry, store, **more), registry) as node:
        yield node


def announcing(owner: str, store: pathlib.Path) -> pathlib.Path:
    """The store, of a cluster, as its controller makes it."""
    ownership.claim(layout.Layout(store), owner)
    return store


def bind(api: apis.Api, node: Member, name: str, image: str) -> None:
    """What admission and a scheduler make of a pod that asks for a cache."""
    api.runtime_class("uimgacc")
    api.pod(
        name,
        node.name,
        image=node.reference(image),
        annotations={"uimgacc.io/image-cache": "auto"},
        spec={"runtimeClassName": "uimgacc"},
    )


def test_a_pod_that_is_bound_to_the_node_finds_its_image_there(member, api, offline) -> None:
    member.warm_up()
    offline()
    bind(api, member, "pod", "lab/layers2:1")
    conftest.wait_until(lambda: member.has("lab/layers2:1"))

    assert "layers" in member.run(member.manifest("run", "lab/layers2:1"), "ls", "/")
    assert json.loads(member.get("/status"))["node"]["name"] == member.name


def test_a_namespace_asks_for_its_pods(member, api) -> None:
    """Of pods that neither policy nor webhook has changed; labels are listed at a start."""
    member.agent.end()
    label = {"metadata": {"labels": {"uimgacc.io/image-cache": "auto"}}}
    api.patch(rest_client.NAMESPACES, api.namespace, label)
    api.runtime_class("uimgacc")
    image = member.reference("lab/layers2:1")
    api.pod("silent", member.name, image=image, spec={"runtimeClassName": "uimgacc"})
    api.pod("plain", member.name, image=image)
    api.pod("refuses", member.name, annotations={"uimgacc.io/image-cache": "false"}, image=image)
    member.start_agent()

    conftest.wait_until(lambda: events(api, "silent") and events(api, "plain"), seconds=60)

    assert events(api, "silent") == [("Normal", "ImageCacheHit")]
    # It asks by the label, and says that its runtime cannot have it.
    assert events(api, "plain") == [("Warning", "ImageCacheMissed")]
    assert events(api, "refuses") == []


def test_what_was_served_stays_served_while_the_api_server_is_away(member, api, proxy) -> None:
    member.warm_up()
    bind(api, member, "known", "lab/layers2:1")
    conftest.wait_until(lambda: member.status("known").get("served"))
    proxy.stop()
    conftest.wait_until(lambda: "API server" in member.problems())

    assert "layers" in member.run(member.manifest("run", "lab/layers2:1"), "ls", "/")
    assert member.get("/healthz") == "ok\n"
    assert member.is_ready()
    assert member.status("known")["served"]
    proxy.start()
    bind(api, member, "late", "lab/layers40:1")
    conftest.wait_until(lambda: member.has("lab/layers40:1"), seconds=60)
    assert member.problems() == {}


def test_an_agent_that_starts_without_an_api_server_says_what_it_waits_for(
    member, api, proxy
) -> None:
    member.agent.end()
    bind(api, member, "pod", "lab/layers2:1")
    proxy.stop()
    member.agent.start()
    member.agent.wait_for_socket(("127.0.0.1", member.port))
    conftest.wait_until(lambda: "API server" in member.problems())

    assert not member.is_ready()
    proxy.start()
    conftest.wait_until(member.is_ready, seconds=60)
    conftest.wait_until(lambda: member.has("lab/layers2:1"))
    assert member.agent.running.poll() is None


def test_a_token_that_was_replaced_is_taken_from_where_the_kubelet_puts_it(
    member, api, proxy, folder
) -> None:
    proxy.tokens = {"token"}
    bind(api, member, "before", "lab/layers2:1")
    conftest.wait_until(lambda: member.has("lab/layers2:1") and proxy.watching)
    (folder / "account" / "token").write_text("another")
    proxy.tokens = {"another"}
    proxy.end_watches()
    bind(api, member, "after", "lab/layers40:1")
    conftest.wait_until(lambda: member.has("lab/layers40:1"), seconds=60)

    assert member.problems() == {}


def events(api: apis.Api, pod: str) -> list[tuple[str, str]]:
    """The events of the pod."""
    found = api.list(rest_client.EVENTS, namespace=api.namespace)
    own = [each for each in found if each["involvedObject"]["name"] == pod]
    return [(each["type"], each["reason"]) for each in own]


def test_an_agent_that_starts_again_emits_nothing_for_pods_that_run(member, api, proxy) -> None:
    """An upgrade of all agents would else write an event for each pod of the cluster."""
    for name in ("one", "two", "three"):
        bind(api, member, name, "lab/layers2:1")
        api.pod_status(name, {"phase": "Running"})
    bind(api, member, "starting", "lab/layers2:1")
    conftest.wait_until(lambda: events(api, "starting"), seconds=60)
    member.agent.end()
    proxy.seen.clear()
    member.start_agent()
    conftest.wait_until(lambda: member.status("three").get("served"), seconds=60)
    bind(api, member, "late", "lab/layers2:1")
    # Events are written one after the other, in the order in which they were emitted.
    conftest.wait_until(lambda: events(api, "late"), seconds=60)

    # Whether the event of "starting" was written before the agent ended is not known.
    posts = [seen.path for seen in proxy.seen if seen.method == "POST"]
    assert posts == [rest_client.EVENTS.path(namespace=api.namespace)] * 2
    assert events(api, "starting") == events(api, "late") == [("Normal", "ImageCacheHit")]


def test_a_pod_of_another_runtime_gets_an_event_that_it_is_pulled(member, api) -> None:
    """It asks, and a cache has its image, but nothing has sent it to our class."""
    image = member.reference("lab/layers2:1")
    annotations = {"k8s.aliyun.com/eci-image-cache": "true"}
    api.pod("plain", member.name, image=image, annotations=annotations)
    conftest.wait_until(lambda: events(api, "plain"), seconds=60)

    assert events(api, "plain") == [("Warning", "ImageCacheMissed")]
    assert member.status("plain")["outcome"] == "miss"
    assert not member.has("lab/layers2:1")


def test_how_long_a_pod_took_to_start_is_counted_as_accelerated(member, api) -> None:
    bind(api, member, "pod", "lab/layers2:1")
    conftest.wait_until(lambda: member.status("pod").get("served"))
    image = member.reference("lab/layers2:1")
    started = {"name": "c", "image": image, "imageID": "", "ready": True, "restartCount": 0}
    started["state"] = {"running": {"startedAt": "2026-01-01T00:00:07Z"}}
    moment = "2026-01-01T00:00:00Z"
    status = {"phase": "Running", "startTime": moment, "containerStatuses": [started]}
    api.pod_status("pod", status)
    name = 'uimgacc_pod_ready_seconds_sum{accelerated="true"} 7.0'
    conftest.wait_until(lambda: name in member.get("/metrics"))
    api.pod_status("pod", {"phase": "Running", "message": "the same again"})
    bind(api, member, "later", "lab/layers2:1")
    conftest.wait_until(lambda: member.status("later").get("served"))

    assert name in member.get("/metrics")


@pytest.mark.parametrize("owner", ["this cluster", "another"])
def test_only_nodes_of_its_cluster_are_served_from_a_store(
    owner, folder, registry, store, api, proxy, api_certificate
) -> None:
    mine = api.get(rest_client.NAMESPACES, cluster_identity.NAMESPACE)["metadata"]["uid"]
    announcing(mine if owner == "this cluster" else "another", store)
    name = api.node()
    account = faults.account(folder / "account", api_certificate, proxy)
    source = ("--kubernetes", name, "--service-account", account.folder)
    with node_on(
        store, folder, registry, source=source, agent_environment=account.environment
    ) as node:
        labels = api.get(rest_client.NODES, name)["metadata"].get("labels", {})
        mark = registry.mark()
        node.containerd.pull(node.reference("lab/layers2:1"), snapshotter="uimgacc")

        if owner == "this cluster":
            assert registry.layer_gets(mark) == []
            conftest.wait_until(lambda: json.loads(node.get("/status"))["node"]["capable"])
        else:
            assert len(registry.layer_gets(mark)) == 2
            # Which cluster this is may be known later than that the store has an owner.
            conftest.wait_until(lambda: "belongs to cluster another" in node.get("/status"))
            assert "uimgacc" not in labels


def test_a_machine_without_a_cluster_is_not_served_from_one_s_store(
    folder, registry, store
) -> None:
    announcing("another", store)
    with node_on(store, folder, registry) as node:
        mark = registry.mark()
        node.containerd.pull(node.reference("lab/layers2:1"), snapshotter="uimgacc")

        assert len(registry.layer_gets(mark)) == 2
        checks = json.dumps(json.loads(node.get("/status"))["node"]["checks"])
        assert "this machine belongs to no cluster" in checks
