"""Attacks on a private image: another one names its diff IDs, which are no secret.

The attacker has a registry that serves any manifest: the layers have invented digests, and
annotations of the attacker's choice.
"""

import asyncio
import json

import grpc
import pytest

from agent.model import keys
from lab.runtime import containerds
from lab.web import registries
from tests.containerd import conftest, private_images
from tests.fakes import registry as fakes

pytestmark = [pytest.mark.root, pytest.mark.containerd]

IMAGE, ALICE = private_images.IMAGE, private_images.ALICE
private = private_images.private
store = private_images.store
OCI = "application/vnd.oci.image"


@pytest.fixture(params=[True, False], ids=["named", "not named"])
def names_images(request) -> bool:
    """Whether containerd names images: what node set-up sees to, but k3s's old template not."""
    return bool(request.param)


@pytest.fixture
def node(version, folder, private, store, names_images):
    made = conftest.Node(version, folder, private, store)
    made.containerd.names_images = names_images
    yield from conftest.opened(made)


@pytest.fixture
def client(node):
    with node.containerd.cri() as opened:
        yield opened


@pytest.fixture
async def evil(node):
    """The attacker's registry."""
    async with fakes.FakeRegistry() as running:
        node.containerd.registries.append(running.host)
        node.containerd.write_hosts()
        yield running


def add_attack(evil: fakes.FakeRegistry, annotations: dict[str, str]) -> None:
    """An image of the victim's diff IDs under the tag `1`, without a single layer."""
    diff_ids = registries.catalogue()[IMAGE]["diff_ids"]
    config = {
        "os": "linux",
        "architecture": containerds.architecture(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "config": {"Cmd": ["/bin/true"]},
    }
    layers = [
        {
            "mediaType": f"{OCI}.layer.v1.tar+gzip",
            "digest": fakes.digest(f"invented {diff_id}".encode()),
            "size": 1000,
            "annotations": annotations,
        }
        for diff_id in diff_ids
    ]
    data = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": {
            "mediaType": f"{OCI}.config.v1+json",
            "digest": evil.add_blob(data),
            "size": len(data),
        },
        "layers": layers,
    }
    evil.add_manifest(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json", "1")


@pytest.mark.parametrize("is_forged", [False, True], ids=["plain", "forged"])
async def test_an_image_of_a_victims_diff_ids_is_not_served(
    node, client, evil, private, is_forged
) -> None:
    forged = {keys.IMAGE_REF: f"{private.address}/{IMAGE}", keys.AGENT_PROOF: "true"}
    add_attack(evil, forged if is_forged else {})

    with pytest.raises(grpc.RpcError, match=r"(?i)not found|404"):
        await asyncio.to_thread(client.pull_image, f"{evil.host}/x:1", handler="uimgacc")
    assert not [info for info in node.snapshotter.walk().values() if info.kind == 3]


def test_the_victims_own_pull_is_served_where_images_are_named(
    node, client, private, names_images
) -> None:
    mark = private.mark()
    client.pull_image(node.reference(IMAGE), handler="uimgacc", credentials=ALICE)

    assert len(private.layer_gets(mark)) == (0 if names_images else 2)
