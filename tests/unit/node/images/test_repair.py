import pytest

from agent._proto.containerd import containers_pb2
from agent.node.images import register, repair
from tests.unit.node import conftest


@pytest.fixture
def healer(containerd) -> repair.Healer:
    return repair.Healer(containerd)


@pytest.fixture
async def registered(containerd, fake, image) -> conftest.Image:
    """An image that is registered, on a store that has it."""
    fake.served.update(image.chain)
    await register.Registrar(containerd, conftest.Blobs(image)).register(image.wanted)
    fake.log.clear()
    return image


async def test_records_are_touched_so_that_the_cri_sees_them(healer, fake, registered) -> None:
    outcome = await healer.reconcile(touch=True)

    assert (outcome.images, outcome.touched, outcome.lost) == (1, 3, 0)
    assert sorted(fake.log) == sorted(f"update {name}" for name in registered.names)


async def test_a_lost_chain_is_made_again_from_the_store(healer, fake, registered) -> None:
    fake.lose_backend()
    outcome = await healer.reconcile(touch=False)

    assert (outcome.lost, outcome.restored, outcome.removed) == (1, 1, 0)
    assert {key for _, key in fake.backend} == {registered.chain[-1]}
    assert set(fake.images) == registered.names


async def test_what_the_store_lacks_is_removed_from_containerd(healer, fake, registered) -> None:
    fake.lose_backend()
    fake.served.clear()
    outcome = await healer.reconcile(touch=False)

    assert (outcome.lost, outcome.removed) == (1, 1)
    assert fake.images == {}
    assert fake.snapshots == {}


async def test_what_can_be_unpacked_again_keeps_its_records(healer, fake, image) -> None:
    image.pull_into(fake, "uimgacc")
    fake.lose_backend()
    outcome = await healer.reconcile(touch=False)

    assert (outcome.lost, outcome.restored, outcome.removed) == (1, 0, 0)
    assert set(fake.images) == {str(image.reference)}
    assert fake.snapshots == {}


async def test_what_overlayfs_has_keeps_its_records(healer, fake, image) -> None:
    image.pull_into(fake, "overlayfs", layers=False)
    fake.blobs[image.config][1]["containerd.io/gc.ref.snapshot.uimgacc"] = image.chain[-1]
    outcome = await healer.reconcile(touch=False)

    assert (outcome.lost, outcome.removed) == (1, 0)
    assert set(fake.images) == {str(image.reference)}


async def test_images_of_overlayfs_only_are_not_looked_at(healer, fake, image) -> None:
    image.pull_into(fake, "overlayfs")
    fake.lose_backend("overlayfs")
    outcome = await healer.reconcile(touch=True)

    assert outcome == repair.Outcome()
    assert fake.log == []


async def test_images_that_share_layers_are_removed_from_the_top(
    healer, client, chains, fake, registered
) -> None:
    """The bottom layer of one carries the top of the other."""
    other = conftest.Image("registry.example/other:1", layers=3)
    other.pull_into(fake, "uimgacc", layers=False)
    bottom = registered.chain[0]
    fake.snapshots["uimgacc", other.chain[1]] = (bottom, "committed")
    fake.lose_backend()
    fake.served.clear()
    outcome = await healer.reconcile(touch=False)

    assert outcome.removed == 2
    assert ("uimgacc", bottom) not in fake.snapshots


async def test_a_containers_lost_snapshot_does_not_stand_in_the_way(
    healer, fake, registered
) -> None:
    fake.add_snapshot("uimgacc", "container", registered.chain[-1])
    fake.containers.append(
        containers_pb2.Container(id="c", snapshotter="uimgacc", snapshot_key="container")
    )
    fake.lose_backend()
    outcome = await healer.reconcile(touch=False)

    assert outcome.restored == 1
    assert ("uimgacc", "container") not in fake.snapshots


async def test_a_layer_that_only_a_collection_removes_does_not_stand_in_the_way(
    healer, fake, registered
) -> None:
    """containerd's collector leaves the names of collected layers with the ones below them."""
    fake.stale.add(("uimgacc", registered.chain[0]))
    fake.lose_backend()
    outcome = await healer.reconcile(touch=False)

    assert (outcome.lost, outcome.restored) == (1, 1)
    kept = {"containerd.io/gc.ref.snapshot.uimgacc": registered.chain[-1]}
    assert fake.blobs[registered.config][1] == kept | dict(registered.wanted.source)
    assert {key for _, key in fake.backend} == {registered.chain[-1]}


async def test_an_image_that_is_set_aside_when_the_agent_dies_is_found_again(
    healer, chains, fake, registered
) -> None:
    fake.lose_backend()
    await chains.set_aside(registered.config)
    outcome = await healer.reconcile(touch=False)

    assert (outcome.lost, outcome.restored) == (1, 1)


async def test_a_canary_detects_a_loss(healer, fake, registered) -> None:
    await healer.reconcile(touch=False)
    before = await healer.lost_something()
    fake.lose_backend()

    assert (before, await healer.lost_something()) == (False, True)


async def test_of_very_many_images_so_many_are_canaries(healer, chains, monkeypatch) -> None:
    asked: list[str] = []

    async def exists(top: str) -> bool:
        asked.append(top)
        return True

    monkeypatch.setattr(chains, "exists", exists)
    for number in range(1000):
        healer.watch(f"sha256:{number}")
    for _ in range(1000):
        await healer.lost_something()

    assert len(set(asked)) == repair._CANARIES
    assert "sha256:999" in asked


async def test_repair_frees_a_chain_without_an_image(healer, fake, registered) -> None:
    fake.images.clear()
    fake.lose_backend()
    await healer.repair(registered.chain)

    assert fake.snapshots == {}


async def test_a_lost_snapshot_of_an_image_volume_does_not_stand_in_the_way(
    healer, fake, registered
) -> None:
    """The lease of its sandbox keeps it, and it has no container."""
    volume = "/run/containerd/io.containerd.grpc.v1.cri/image-volumes/sandbox/" + "e" * 64
    fake.add_snapshot("uimgacc", volume, registered.chain[-1])
    fake.leases["sandbox"] = ""
    fake.keep("sandbox", "snapshot", "uimgacc", volume)
    sandbox = containers_pb2.Container(id="sandbox", snapshotter="uimgacc", snapshot_key="sandbox")
    fake.containers.append(sandbox)
    fake.lose_backend()
    outcome = await healer.reconcile(touch=False)

    assert outcome.restored == 1
    assert ("uimgacc", volume) not in fake.snapshots
