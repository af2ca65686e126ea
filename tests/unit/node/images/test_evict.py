"""Images of ours that a pod of another runtime would take for present in vain."""

import pytest

from agent.node.images import evict, register
from tests.unit.node import conftest


@pytest.fixture
def clearer(client, stock, known) -> evict.Clearer:
    return evict.Clearer(client, stock, known)


@pytest.fixture
async def registered(client, known, fake, image) -> conftest.Image:
    fake.served.update(image.chain)
    await register.Registrar(client, conftest.Blobs(image), known).register(image.wanted)
    return image


async def test_one_without_blobs_is_removed_under_all_its_names(clearer, fake, registered) -> None:
    name = str(registered.reference)

    assert await clearer.clear([name, "registry.example/another:1", "no/such image"]) == [name]
    assert fake.images == {}


async def test_one_that_can_be_unpacked_stays(clearer, fake, registered) -> None:
    for blob in registered.layer_blobs:
        fake.add_blob(blob)

    assert await clearer.clear([str(registered.reference)]) == []
    assert set(fake.images) == registered.names


async def test_one_that_another_snapshotter_has_stays(clearer, fake, registered) -> None:
    before = set(fake.images)
    registered.pull_into(fake, "overlayfs", layers=False)
    key = "containerd.io/gc.ref.snapshot.uimgacc"
    fake.blobs[registered.config][1][key] = registered.chain[-1]

    assert await clearer.clear([str(registered.reference)]) == []
    assert before <= set(fake.images)


async def test_one_that_is_not_ours_is_none_of_its_business(clearer, fake, image) -> None:
    image.pull_into(fake, "overlayfs", layers=False)
    fake.lose_backend("overlayfs")

    assert await clearer.clear([str(image.reference)]) == []
