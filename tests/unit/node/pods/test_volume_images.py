import pytest

from agent.node.images import register
from agent.node.pods import volume_images
from tests.unit.node import conftest


@pytest.fixture
def volumes(containerd) -> volume_images.VolumeImages:
    return volume_images.VolumeImages(containerd)


@pytest.mark.parametrize("digest", [False, True])
async def test_an_image_that_is_one_snapshot_is_laid_out(
    volumes, containerd, fake, image, digest
) -> None:
    fake.served.update(image.chain)
    await register.Registrar(containerd, conftest.Blobs(image)).register(image.wanted)
    await volumes.make_usable([f"{image.reference}{f'@{image.target}' if digest else ''}"])

    fake.collect()
    assert {key for _, key in fake.snapshots} == set(image.chain)


async def test_one_that_cannot_be_laid_out_is_left_to_the_pull(
    volumes, containerd, fake, image
) -> None:
    fake.served.update(image.chain)
    await register.Registrar(containerd, conftest.Blobs(image)).register(image.wanted)
    fake.served.clear()
    await volumes.make_usable([str(image.reference)])

    assert fake.images == {}


async def test_one_that_containerd_can_unpack_itself_is_left_alone(volumes, fake, image) -> None:
    image.pull_into(fake, "uimgacc")
    del fake.snapshots["uimgacc", image.chain[0]]
    await volumes.make_usable([str(image.reference)])

    assert set(fake.images) == {str(image.reference)}


async def test_images_of_other_snapshotters_and_absent_ones_are_left_alone(
    volumes, fake, image
) -> None:
    image.pull_into(fake, "overlayfs", layers=False)
    fake.log.clear()
    await volumes.make_usable([str(image.reference), "absent:1", "NO/reference:"])

    assert set(fake.images) == {str(image.reference)}
    assert fake.log == []
