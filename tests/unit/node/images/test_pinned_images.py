"""The sandbox's image, which every pod of a uimgacc runtime class needs."""

import asyncio

import pytest

from agent.node.images import pinned_images
from tests.unit.node import conftest

PINNED = {"io.cri-containerd.pinned": "pinned"}


@pytest.fixture
def pinned(containerd, client, monkeypatch):
    """What looks after pinned images, and what it has asked the CRI plugin to pull."""
    asked = []

    async def pull(name: str, *, handler: str, deadline: float) -> None:
        asked.append((name, handler))

    async def handlers() -> frozenset[str]:
        return frozenset({"runc", "uimgacc-nvidia", "uimgacc"})

    monkeypatch.setattr(client, "pull", pull)
    monkeypatch.setattr(client, "runtime_handlers", handlers)
    return pinned_images.PinnedImages(containerd, asyncio.Event(), default=False), asked


def pin(fake, image: conftest.Image) -> None:
    for record in fake.images.values():
        record.labels.update(PINNED)


async def test_one_whose_blobs_are_gone_is_pulled_for_the_snapshotter(pinned, fake, image) -> None:
    image.pull_into(fake, "overlayfs", layers=False)
    pin(fake, image)

    assert await pinned[0].look() == [str(image.reference)]
    assert pinned[1] == [(str(image.reference), "uimgacc")]


async def test_one_that_can_be_unpacked_is_left_to_containerd(pinned, fake, image) -> None:
    image.pull_into(fake, "overlayfs")
    pin(fake, image)

    assert await pinned[0].look() == []


async def test_one_that_came_from_the_store_is_pulled_for_the_others(pinned, fake, image) -> None:
    image.pull_into(fake, "uimgacc", layers=False)
    pin(fake, image)

    assert await pinned[0].look() == [str(image.reference)]
    assert pinned[1] == [(str(image.reference), "")]


async def test_one_that_both_have_is_left_alone(pinned, fake, image) -> None:
    image.pull_into(fake, "uimgacc", layers=False)
    fake.blobs[image.config][1]["containerd.io/gc.ref.snapshot.overlayfs"] = image.chain[-1]
    pin(fake, image)

    assert await pinned[0].look() == []


async def test_images_that_are_not_pinned_are_not_touched(pinned, fake, image) -> None:
    image.pull_into(fake, "overlayfs", layers=False)

    assert await pinned[0].look() == []
