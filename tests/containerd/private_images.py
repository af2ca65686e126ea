"""A private image: its registry, which lets only Alice in, and a store with a cache of it."""

import base64
import json

import pytest

from agent.build import cache_build
from agent.clients.registry import connections
from agent.model import images
from agent.roles import builder
from agent.store.publish import writer
from lab import services

IMAGE = "lab/layers2:1"
ALICE = ("alice", "a secret of alice")


@pytest.fixture
def private(folder):
    """A registry that lets only Alice in."""
    with services.Registry(folder / "registry", users=dict([ALICE])) as running:
        yield running


@pytest.fixture
async def store(folder, private):
    """A store with a cache of Alice's image for namespace team-a, built with her password."""
    return await _built(folder, private, compression="lz4")


@pytest.fixture
async def plain_store(folder, private):
    """The same without compression."""
    return await _built(folder, private, compression="none")


async def _built(folder, private, *, compression: str):
    root = folder / "store"
    root.mkdir()
    writer.create(root, compression=compression)
    config = folder / "config.json"
    auth = base64.b64encode(":".join(ALICE).encode()).decode()
    config.write_text(json.dumps({"auths": {private.address: {"auth": auth}}}))
    settings = builder.Settings(
        store=root,
        registries=connections.Options(plain_http=frozenset([private.address])),
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
