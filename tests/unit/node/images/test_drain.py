"""Letting go of images while acceleration is switched off, with a containerd that is a fake."""

import datetime

import pytest

from agent.model import pods
from agent.node.images import drain
from tests.fakes import containerd as fakes
from tests.unit.node import conftest

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def drainer(fake, client, stock, known) -> drain.Drainer:
    return drain.Drainer(client, stock, known, clock=lambda: fake.now)


async def test_an_image_that_no_container_uses_goes(fake, drainer, image) -> None:
    image.pull_into(fake, conftest.NAME)
    fake.tick(3600)

    assert await drainer.release() == [str(image.reference)]
    assert fake.images == {}
    assert await drainer.release() == []


async def test_what_a_container_uses_stays(fake, drainer, image) -> None:
    image.pull_into(fake, conftest.NAME)
    fake.tick(3600)
    fake.containers.append(
        fakes.containers_pb2.Container(id="c", snapshotter="other", image=str(image.reference))
    )

    assert await drainer.release() == []
    assert list(fake.images) == [str(image.reference)]


async def test_what_came_just_now_stays_for_a_while(fake, drainer, image) -> None:
    image.pull_into(fake, conftest.NAME)
    fake.tick(60)
    assert await drainer.release() == []

    fake.tick(600)
    assert await drainer.release() == [str(image.reference)]


async def test_images_of_other_snapshotters_and_pinned_ones_stay(fake, drainer, image) -> None:
    image.pull_into(fake, "overlayfs")
    pause = conftest.Image("registry.example/pause:1")
    pause.pull_into(fake, conftest.NAME)
    fake.add_image(
        str(pause.reference),
        pause.target,
        labels={"io.cri-containerd.pinned": "pinned"},
        media=pause.media_type,
    )
    fake.tick(3600)

    assert await drainer.release() == []
    assert len(fake.images) == 2


async def test_pods_are_left_to_the_kubelet() -> None:
    pod = pods.parse_pod(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "annotations": {"uimgacc.io/image-cache": "auto"}},
            "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]},
        }
    )

    result = await drain.Idle().serve(pod)

    assert result.registered == ()
    assert result.decision.outcome.value == "not_asked"
    assert "uimgacc enable" in result.sentence
