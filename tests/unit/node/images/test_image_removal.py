"""Removing images from a fake containerd: for pods of other runtimes, and while switched off."""

import datetime

import msgspec
import pytest

from agent.model import digests, records
from agent.node.images import image_removal, register
from agent.store.index import cache_entries
from agent.store.lookup import catalog
from tests.fakes import containerd as fakes
from tests.unit.node import conftest

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def drainer(fake, containerd) -> image_removal.Drainer:
    return image_removal.Drainer(containerd, clock=lambda: fake.now)


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


@pytest.fixture
def clearer(containerd) -> image_removal.Clearer:
    return image_removal.Clearer(containerd)


@pytest.fixture
async def registered(containerd, fake, image) -> conftest.Image:
    fake.served.update(image.chain)
    await register.Registrar(containerd, conftest.Blobs(image)).register(image.wanted)
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


async def test_an_image_on_another_snapshotter_is_not_touched(clearer, fake, image) -> None:
    image.pull_into(fake, "overlayfs", layers=False)
    fake.lose_backend("overlayfs")

    assert await clearer.clear([str(image.reference)]) == []


class Store:
    """Ready caches with one image: `served` are the namespaces of each, None for all."""

    def __init__(self, image: conftest.Image, *served: list[str] | None) -> None:
        self.asked = 0
        held = records.CachedImage(
            ref=str(image.reference), target=image.target, size=1, layers=[image.target]
        )
        self.made = [
            records.CacheRecord(
                id=f"imc-cache-{number}",
                name="",
                images=[held],
                size=1,
                capacity=1,
                created="",
                namespaces=namespaces,
            )
            for number, namespaces in enumerate(served)
        ]

    async def caches_for(self, wanted: cache_entries.Wanted) -> catalog.CachesFound:
        self.asked += 1
        return catalog.CachesFound(self.made, are_all=True)


def unregistrar(containerd, fake, store: Store) -> image_removal.Unregistrar:
    return image_removal.Unregistrar(containerd, store, clock=lambda: fake.now + HOUR)


@pytest.mark.parametrize(
    ("served", "goes"),
    [
        ([["team-a"]], True),
        ([["team-a"], ["team-b"]], True),
        ([["team-a"], None], False),
        ([None], False),
        ([], False),
    ],
)
async def test_a_registered_image_of_private_caches_only_goes(
    containerd, fake, registered, served, goes
) -> None:
    removal = unregistrar(containerd, fake, Store(registered, *served))

    assert bool(await removal.look()) is goes
    assert (fake.images == {}) is goes


async def test_a_registered_image_of_a_private_artifact_goes(containerd, fake, image) -> None:
    image.make_of(digests.sha256(b"artifact"))
    fake.served.update(image.chain)
    await register.Registrar(containerd, conftest.Blobs(image)).register(image.wanted)
    store = Store(image, ["team-a"])
    held = msgspec.structs.replace(store.made[0].images[0], target=image.record.target)
    store.made = [msgspec.structs.replace(store.made[0], images=[held])]

    assert await unregistrar(containerd, fake, store).look()
    assert fake.images == {}


async def test_a_private_image_that_a_container_uses_goes_after_it(
    containerd, fake, registered
) -> None:
    removal = unregistrar(containerd, fake, Store(registered, ["team-a"]))
    container = fakes.containers_pb2.Container(id="c", image=str(registered.reference))
    fake.containers.append(container)
    assert await removal.look() == []

    fake.containers.clear()
    assert set(await removal.look()) == registered.names


async def test_a_private_image_that_the_kubelet_has_pulled_stays(containerd, fake, image) -> None:
    image.pull_into(fake, conftest.NAME)
    store = Store(image, ["team-a"])

    assert await unregistrar(containerd, fake, store).look() == ()
    assert store.asked == 0


async def test_an_image_of_another_repository_with_the_same_digest_stays(
    containerd, fake, registered
) -> None:
    store = Store(registered, ["team-a"])
    (held,) = store.made[0].images
    other = msgspec.structs.replace(held, ref="registry.example/other:1")
    store.made = [msgspec.structs.replace(store.made[0], images=[other])]

    assert await unregistrar(containerd, fake, store).look() == []


VOLUME = "/run/containerd/io.containerd.grpc.v1.cri/image-volumes/sandbox/" + "e" * 64


async def test_what_a_volume_uses_stays(fake, drainer, image) -> None:
    image.pull_into(fake, conftest.NAME)
    fake.tick(3600)
    fake.add_snapshot(conftest.NAME, VOLUME, image.chain[-1])
    assert await drainer.release() == []

    del fake.snapshots[conftest.NAME, VOLUME]
    assert await drainer.release() == [str(image.reference)]


async def test_a_private_image_that_a_volume_uses_goes_after_it(
    containerd, fake, registered
) -> None:
    removal = unregistrar(containerd, fake, Store(registered, ["team-a"]))
    fake.add_snapshot(conftest.NAME, VOLUME, registered.chain[-1])
    assert await removal.look() == []

    del fake.snapshots[conftest.NAME, VOLUME]
    assert set(await removal.look()) == registered.names


async def test_only_images_of_some_snapshots_are_taken_off_a_snapshotter(
    fake, containerd, image
) -> None:
    """Of containerd's own snapshotter, which has images of others as well."""
    other = conftest.Image("registry.example/other:1")
    for each in (image, other):
        each.pull_into(fake, conftest.NAME)
    runs = fakes.containers_pb2.Container(id="c", snapshotter=conftest.NAME, snapshot_key="of c")
    fake.containers.append(runs)
    fake.add_snapshot(conftest.NAME, "of c", other.chain[-1])

    left = await image_removal.leave(containerd, among={image.chain[-1]})
    assert left.removed == [str(image.reference)]
    assert str(other.reference) in fake.images
    with pytest.raises(image_removal.InUseError):
        await image_removal.leave(containerd, among={other.chain[-1]})


async def test_an_image_that_was_unpacked_on_such_layers_goes_with_them(
    fake, containerd, image
) -> None:
    """Its own top layer is a pull's, those below are links that are about to go."""
    image.pull_into(fake, conftest.NAME)
    fake.add_snapshot(conftest.NAME, "of c", image.chain[-1])
    runs = fakes.containers_pb2.Container(id="c", snapshotter=conftest.NAME, snapshot_key="of c")
    fake.containers.append(runs)
    with pytest.raises(image_removal.InUseError):
        await image_removal.leave(containerd, among={image.chain[0]})

    fake.containers.clear()
    left = await image_removal.leave(containerd, among={image.chain[0]})
    assert left.removed == [str(image.reference)]
