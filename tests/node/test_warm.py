"""Images that are present before any pod: by the node's setting, and by what caches say."""

import json
import pathlib
from collections.abc import Iterator

import msgspec
import pytest

from agent.control.reconcile import cache_store
from agent.store import layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from tests.containerd import conftest as containerds
from tests.containerd import private_images
from tests.kube import apis, faults
from tests.kube import conftest as servers
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

shared_store = containerds.store
private = private_images.private
private_store = private_images.store
api_loop = servers.api_loop
api_access = servers.api_access
api_certificate = servers.api_certificate
api = servers.api
proxy = servers.tls_proxy

IMAGE, OTHER = "lab/layers2:1", "lab/layers40:1"
AT_ONCE = {"UIMGACC_WARM_SPREAD": "0"}


def warm(node: conftest.Node) -> dict[str, str]:
    """What /status says of warm images: the reference without its registry, and the state."""
    images = json.loads(node.get("/status"))["warm"]["images"]
    return {image["image"].partition("/")[2]: image["state"] for image in images}


def keep_warm(store: pathlib.Path, image: str, **selector: str) -> None:
    """Add a cache of one image of the store that nodes keep warm, as the controller makes it."""
    place = layout.Layout(store)
    cache = next(iter(direct_reader.Reader(place).caches()))
    held = [each for each in cache.images if each.ref.endswith(image)]
    cache_id = f"imc-{selector.get('pool', 'any')}"
    alone = msgspec.structs.replace(cache, id=cache_id, name=cache_id, images=held)
    writer.publish_cache(place, alone)
    cache_store.adjust(str(store), cache_id, True, selector, "", b"[]")


def test_what_the_setting_names_is_there_before_any_pod(
    folder, registry, pristine, offline
) -> None:
    named = f"{registry.address}/{IMAGE}, {registry.address}/lab/none:1"
    environment = {**AT_ONCE, "UIMGACC_WARM": named}
    node = conftest.Node(folder / "n", registry, pristine, agent_environment=environment)
    with conftest.running(node, registry):
        node.warm_up()
        conftest.wait_until(lambda: node.has(IMAGE))
        offline()

        assert "layers" in node.run(node.manifest("run", IMAGE), "ls", "/")
        conftest.wait_until(lambda: warm(node) == {IMAGE: "registered", "lab/none:1": "missing"})
        assert not node.has(OTHER)
        assert node.metric('uimgacc_warm_images{state="ready"}') == 1
        assert node.metric('uimgacc_warm_images{state="missing"}') == 1


@pytest.fixture
def member(
    folder: pathlib.Path,
    registry,
    shared_store,
    api: apis.Api,
    proxy: faults.Proxy,
    api_certificate,
) -> Iterator[conftest.Node]:
    """A node of a cluster, with the label pool=gpu, whose caches are warm on such nodes."""
    keep_warm(shared_store, IMAGE, pool="gpu")
    keep_warm(shared_store, OTHER, pool="cpu")
    account = faults.account(folder / "account", api_certificate, proxy)
    node = conftest.Node(
        folder / "n",
        registry,
        shared_store,
        source=(
            *("--kubernetes", api.node(labels={"pool": "gpu"})),
            *("--service-account", account.folder),
        ),
        agent_environment={**AT_ONCE, **account.environment},
    )
    with conftest.running(node, registry):
        yield node


def test_a_node_has_the_images_that_caches_keep_warm_on_nodes_with_its_labels(member) -> None:
    node = member
    conftest.wait_until(lambda: warm(node) == {IMAGE: "registered"})

    assert node.has(IMAGE)
    assert not node.has(OTHER)


def test_of_a_private_image_the_layers_are_there_and_the_image_is_not(
    folder, private, private_store
) -> None:
    keep_warm(private_store, private_images.IMAGE)
    node = conftest.Node(folder / "n", private, private_store, agent_environment=AT_ONCE)
    with conftest.running(node, private):
        conftest.wait_until(lambda: warm(node) == {private_images.IMAGE: "laid_out"})
        assert not node.has(private_images.IMAGE)
        mark = private.mark()
        node.client.pull_image(
            node.reference(private_images.IMAGE),
            handler="uimgacc",
            credentials=private_images.ALICE,
        )

        assert private.layer_gets(mark) == []
