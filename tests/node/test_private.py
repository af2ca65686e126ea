"""A cache built with pull secrets: for its own namespaces only; others ask the registry."""

import base64
import json

import grpc
import pytest

from agent.build import cache_build
from agent.clients.registry import connections as registries
from agent.model import images
from agent.roles import builder
from agent.store.publish import writer
from lab import services
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

IMAGE = "lab/layers2:1"
ALICE = ("alice", "a secret of alice")


@pytest.fixture
def private(folder):
    """A registry that lets only Alice in."""
    with services.Registry(folder / "registry", users=dict([ALICE])) as running:
        yield running


@pytest.fixture
async def store(folder, private):
    """A store with a cache of IMAGE that serves namespace team-a."""
    root = folder / "store"
    root.mkdir()
    writer.create(root)
    config = folder / "config.json"
    auth = base64.b64encode(":".join(ALICE).encode()).decode()
    config.write_text(json.dumps({"auths": {private.address: {"auth": auth}}}))
    settings = builder.Settings(
        store=root,
        registries=registries.Options(plain_http=frozenset([private.address])),
        docker_configs=(config,),
    )
    request = cache_build.Request(
        cache_id="imc-private",
        name="private",
        references=(images.parse_reference(f"{private.address}/{IMAGE}"),),
        platforms=(builder.own_platform(),),
        capacity=20 << 30,
        namespaces=("team-a",),
    )
    await builder.build(settings, request)
    return root


@pytest.fixture
def private_node(folder, private, store):
    with conftest.running(conftest.Node(folder / "n", private, store), private) as node:
        yield node


def pod(node, name: str, namespace: str):
    manifest = node.manifest(name, IMAGE)
    manifest["metadata"]["namespace"] = namespace
    return manifest


def test_other_namespaces_go_through_the_registry_and_get_the_layers_from_the_store(
    private_node, private
) -> None:
    node = private_node
    node.schedule(pod(node, "theirs", "team-b"))
    conftest.wait_until(lambda: node.status("theirs").get("served"))
    assert node.status("theirs")["outcome"] == "forbidden"
    assert not node.has(IMAGE)
    with pytest.raises(grpc.RpcError, match=r"no basic auth credentials|401"):
        node.client.pull_image(node.reference(IMAGE), handler="uimgacc")
    mark = private.mark()
    node.client.pull_image(node.reference(IMAGE), handler="uimgacc", credentials=ALICE)

    assert node.has(IMAGE)
    assert [request.kind for request in private.requests(mark) if request.status == 200]
    assert private.layer_gets(mark) == []


def test_its_own_namespace_finds_it_present_without_the_registry(private_node, private) -> None:
    node, mark = private_node, private.mark()
    node.schedule(pod(node, "served", "team-a"))
    conftest.wait_until(lambda: node.has(IMAGE))

    conftest.wait_until(lambda: node.status("served")["outcome"] == "hit")
    assert private.requests(mark) == []
