import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from agent._proto.containerd import containers_pb2
from agent.clients.containerd import rpc
from agent.kits.aio import tasks
from agent.model import digests, images, keys
from agent.node.images import containerd_images, image_snapshots, register, registration_plan
from tests.unit.node import conftest


@pytest.fixture
def registrar(containerd, image) -> register.Registrar:
    return register.Registrar(containerd, conftest.Blobs(image))


async def test_everything_is_there_before_the_image_is(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    done = await registrar.register(image.wanted)

    assert len(done.new) == 2
    creates = [index for index, call in enumerate(fake.log) if call.startswith("create")]
    assert len(creates) == 3
    assert min(creates) == len(fake.log) - 3
    assert set(fake.images) == image.names


async def test_labels_keep_the_snapshots_from_being_collected(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    await registrar.register(image.wanted)

    source = dict(image.wanted.source)
    kept = {"containerd.io/gc.ref.snapshot.uimgacc": image.chain[-1]}
    assert fake.blobs[image.config][1] == kept | source
    kept = {"containerd.io/gc.ref.content.config": image.config}
    assert fake.blobs[image.manifest][1] == kept | source
    labels = dict(fake.images[str(image.reference)].labels)
    assert labels["io.cri-containerd.image"] == "managed"


async def test_an_index_is_the_target_and_refers_to_the_manifest(containerd, fake) -> None:
    image = conftest.Image("registry.example/app:1", index=True)
    fake.served.update(image.chain)
    registrar = register.Registrar(containerd, conftest.Blobs(image))
    await registrar.register(image.wanted)

    assert fake.images[str(image.reference)].target.digest == image.target
    assert fake.blobs[image.target][1] == {
        "containerd.io/gc.ref.content.m.0": image.manifest,
        "containerd.io/distribution.source.registry.example": "app",
    }


async def test_the_lease_is_ended(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    await registrar.register(image.wanted)

    assert fake.leases == {}
    assert len(fake.ended) == 1


async def test_what_is_present_is_left_alone(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    fake.log.clear()
    done = await registrar.register(image.wanted)

    assert done.already
    assert fake.log == []


async def test_what_is_remembered_of_a_nodes_life_is_bounded(containerd, fake, monkeypatch) -> None:
    monkeypatch.setattr(image_snapshots, "_MOUNTED", 3)
    images = [conftest.Image(f"registry.example/app-{number}:1") for number in range(10)]
    registrar = register.Registrar(containerd, conftest.Blobs(*images))
    for image in images:
        fake.served.update(image.chain)
        await registrar.register(image.wanted)

        assert image.chain[-1] in containerd.chains._mounted
        assert len(containerd.chains._mounted) <= 3


async def test_what_is_present_is_mounted_once_after_a_start(
    containerd, client, fake, image
) -> None:
    fake.served.update(image.chain)
    await register.Registrar(containerd, conftest.Blobs(image)).register(image.wanted)
    fake.log.clear()
    restarted = containerd_images.of(client, conftest.PLATFORM, snapshotter=conftest.NAME)
    registrar = register.Registrar(restarted, conftest.Blobs(image))
    await registrar.register(image.wanted)
    await registrar.register(image.wanted)

    assert [call.split()[0] for call in fake.log] == ["view", "remove"]


async def test_a_layer_that_would_be_unpacked_is_rolled_back(registrar, fake, image) -> None:
    fake.served.add(image.chain[0])
    with pytest.raises(register.NotServedError) as caught:
        await registrar.register(image.wanted)

    assert caught.value.chain_id == image.chain[1]
    assert fake.images == {}
    assert fake.snapshots == {}
    assert fake.leases == {}


async def test_all_layers_take_one_request(registrar, fake, image) -> None:
    """The snapshotter takes a chain on no parent for all its layers."""
    fake.served.add(image.chain[-1])
    done = await registrar.register(image.wanted)

    assert [layer.chain_id for layer in done.new] == image.chain
    assert fake.snapshots == {("uimgacc", image.chain[-1]): ("", "committed")}


async def test_an_image_that_is_pulled_all_the_same_is_laid_out_once(
    registrar, fake, image
) -> None:
    """A pull asks for the layers one by one, and a collection must not take them."""
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    await registrar.lay_out(image.wanted)
    fake.log.clear()
    await registrar.lay_out(image.wanted)

    assert {key for _, key in fake.snapshots} == set(image.chain)
    assert fake.blobs[image.config][1] == {
        "containerd.io/gc.ref.snapshot.uimgacc": image.chain[-1],
        f"containerd.io/gc.ref.snapshot.uimgacc/{image.chain[-2][7:19]}": image.chain[-2],
        **image.wanted.source,
    }
    assert fake.log == []
    assert fake.leases == {}


@pytest.mark.parametrize("way", ["forget", "set_aside"])
async def test_an_image_that_was_laid_out_is_let_go_as_a_whole(
    registrar, chains, fake, image, way
) -> None:
    """A reference that stays keeps layers, and makes the image count as one on the snapshotter."""
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    await registrar.lay_out(image.wanted)
    await getattr(chains, way)(image.config)

    assert not [key for key in fake.blobs[image.config][1] if key.startswith("containerd.io/gc")]


async def test_layers_that_are_not_served_are_not_laid_out(registrar, fake, image) -> None:
    fake.served.add(image.chain[-1])
    await registrar.register(image.wanted)
    await registrar.lay_out(image.wanted)

    assert {key for _, key in fake.snapshots} == {image.chain[-1]}


async def test_layers_of_another_image_with_snapshots_are_known(chains, fake) -> None:
    """Its one snapshot has them, and theirs are no snapshots."""
    fake.add_snapshot("uimgacc", "c")
    chains.remember(["a", "b", "c"])
    chains.remember(["a", "b", "x", "gone"])
    assert await chains.count_shared(["a", "b", "x", "y"]) == 2
    assert await chains.count(["a", "b", "x", "y"]) == 0
    assert await chains.count_shared(["n", "o"]) == 0


async def test_two_may_find_at_once_that_an_image_has_gone(chains) -> None:
    chains.remember(["a", "b", "gone"])
    asked = [chains.count_shared(["a", "b", last]) for last in "xy"]

    assert await tasks.together(*asked) == [0, 0]


async def test_only_layers_above_the_known_ones_are_new(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    fake.add_snapshot("uimgacc", image.chain[0])
    done = await registrar.register(image.wanted)

    assert [layer.chain_id for layer in done.new] == [image.chain[1]]


async def test_an_image_that_overlayfs_has_gets_the_label_and_keeps_its_own(
    registrar, fake, image
) -> None:
    image.pull_into(fake, "overlayfs")
    fake.images[str(image.reference)].labels["pinned"] = "yes"
    fake.served.update(image.chain)
    await registrar.register(image.wanted)

    assert set(fake.blobs[image.config][1]) == {
        "containerd.io/gc.ref.snapshot.uimgacc",
        "containerd.io/gc.ref.snapshot.overlayfs",
        *image.wanted.source,
    }
    labels = dict(fake.images[str(image.reference)].labels)
    assert labels["pinned"] == "yes"
    assert keys.REGISTERED not in labels


async def test_a_tag_of_another_target_is_not_moved(registrar, fake, image) -> None:
    fake.add_image(str(image.reference), "sha256:" + "9" * 64)
    fake.served.update(image.chain)
    done = await registrar.register(image.wanted)

    assert not done.complete
    assert fake.images[str(image.reference)].target.digest == "sha256:" + "9" * 64
    assert image.names <= set(fake.images)


async def test_a_tag_that_we_have_set_is_moved(registrar, fake, image) -> None:
    fake.add_image(str(image.reference), "sha256:" + "9" * 64, labels={keys.REGISTERED: "true"})
    fake.served.update(image.chain)
    done = await registrar.register(image.wanted)

    assert done.complete
    assert fake.images[str(image.reference)].target.digest == image.target


async def test_a_chain_that_the_snapshotter_has_lost_is_an_error(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    fake.lose_backend()
    with pytest.raises(register.BrokenError) as caught:
        await registrar.register(image.wanted)

    assert list(caught.value.chain) == image.chain


async def test_a_record_without_its_blob_is_an_error(containerd, fake, image) -> None:
    fake.served.update(image.chain)
    registrar = register.Registrar(containerd, conftest.Blobs())
    with pytest.raises(register.BlobMissingError):
        await registrar.register(image.wanted)

    assert fake.images == {}


async def test_two_pods_register_an_image_once(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(registrar.register(image.wanted))

    assert len([call for call in fake.log if call.startswith("create")]) == 3


async def test_a_silent_snapshotter_is_worth_another_try(registrar, fake, image) -> None:
    fake.down = True
    with pytest.raises(rpc.UnavailableError):
        await registrar.register(image.wanted)


async def test_an_image_made_of_an_artifact_is_known_by_the_digest_of_that(
    registrar, fake, image
) -> None:
    """containerd gets the image's manifest: it would refuse that of the artifact."""
    artifact = digests.sha256(b"artifact")
    image.make_of(artifact)
    fake.served.update(image.chain)
    await registrar.register(image.wanted)

    assert f"registry.example/app@{artifact}" in fake.images
    assert {known.target.digest for known in fake.images.values()} == {image.manifest}
    assert set(fake.blobs) == {image.manifest, image.config}


def test_a_digest_in_the_reference_leaves_no_tag(image) -> None:
    other = conftest.Image(f"registry.example/app:1@{image.target}")

    assert other.wanted.tag == ""


def test_an_image_for_other_machines_is_not_registered(image) -> None:
    platform = conftest.images.Platform("linux", "arm64")
    wanted = registration_plan.registration_of(
        image.reference, image.record, platform, snapshotter="uimgacc"
    )

    assert wanted is None


async def test_a_config_beyond_the_size_of_a_message_is_written_in_pieces(client, fake) -> None:
    data = bytes(range(256)) * (17 << 12)
    lease = await client.create_lease(600)
    await client.write(digests.sha256(data), data, labels={"k": "v"}, lease=lease)

    assert fake.blobs[digests.sha256(data)] == (data, {"k": "v"})


async def test_indexes_within_indexes_refer_to_one_another(image) -> None:
    made = image.record.platforms[0]
    inner, outer = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    nested = msgspec.structs.replace(made, indexes=[inner])
    record = msgspec.structs.replace(image.record, target=outer, platforms=[nested])

    wanted = registration_plan.registration_of(
        image.reference, record, images.parse_platform(made.platform), snapshotter="uimgacc"
    )

    assert wanted.blobs[outer] == {"containerd.io/gc.ref.content.m.0": inner}
    assert wanted.blobs[inner] == {"containerd.io/gc.ref.content.m.0": made.manifest}


async def test_what_is_not_served_because_of_a_damaged_layer_says_which(containerd, image) -> None:
    async def damage(diff_ids: Sequence[str]) -> str:
        return f"{diff_ids[0]} (has 3 bytes)"

    registrar = register.Registrar(containerd, conftest.Blobs(image), damage=damage)
    with pytest.raises(register.NotServedError) as caught:
        await registrar.register(image.wanted)

    layer = image.wanted.layers[0].diff_id
    assert caught.value.damage == f"{layer} (has 3 bytes)"
    assert "create the caches" in str(caught.value)


async def test_an_image_is_laid_out_without_being_present(registrar, fake, image) -> None:
    """The kubelet's pull finds all layers and blobs, and asks the registry for the manifest."""
    fake.served.update(image.chain)
    done = await registrar.lay_out_ahead(image.wanted)

    assert fake.images == {}
    assert len(done.new) == 2
    parents = {key: parent for (_, key), (parent, _) in fake.snapshots.items()}
    assert parents == dict(zip(image.chain, ["", *image.chain], strict=False))
    assert set(fake.blobs) == {image.config, image.manifest}
    labels = [key for _, labels in fake.blobs.values() for key in labels]
    assert not [key for key in labels if key.startswith(keys.SOURCE)]


async def test_what_is_laid_out_outlives_a_garbage_collection_and_then_goes(
    registrar, fake, image
) -> None:
    fake.served.update(image.chain)
    await registrar.lay_out_ahead(image.wanted)
    fake.collect()
    assert len(fake.snapshots) == 2

    (lease,) = fake.leases
    del fake.leases[lease]
    fake.collect()
    assert (fake.snapshots, fake.blobs) == ({}, {})


async def test_laying_out_again_renews_the_lease_and_adds_none(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    for _ in range(3):
        await registrar.lay_out_ahead(image.wanted)

    assert len(fake.leases) == 1
    fake.collect()
    assert len(fake.snapshots) == 2


async def test_an_image_that_was_pulled_is_left_alone(registrar, fake, image) -> None:
    image.pull_into(fake, "uimgacc")
    done = await registrar.lay_out_ahead(image.wanted)

    assert done.already
    assert (fake.leases, set(fake.images)) == ({}, {str(image.reference)})


async def test_an_image_that_was_registered_is_so_no_longer(registrar, fake, image) -> None:
    """An earlier version has registered it for pods of its namespace, and so for all."""
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    await registrar.lay_out_ahead(image.wanted)

    assert fake.images == {}
    fake.collect()
    assert {key for _, key in fake.snapshots} == set(image.chain)


async def test_a_registered_image_that_a_container_uses_stays_until_it_ends(
    registrar, fake, image
) -> None:
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    container = containers_pb2.Container(id="c", image=str(image.reference))
    fake.containers.append(container)
    await registrar.lay_out_ahead(image.wanted)
    assert set(fake.images) == image.names

    fake.containers.clear()
    await registrar.lay_out_ahead(image.wanted)
    assert fake.images == {}


async def test_what_the_snapshotter_does_not_serve_is_not_laid_out(registrar, fake, image) -> None:
    fake.served.update(image.chain[:1])
    with pytest.raises(register.NotServedError):
        await registrar.lay_out_ahead(image.wanted)


def parents_of(fake) -> dict[str, str]:
    return {key: parent for (_, key), (parent, _) in fake.snapshots.items()}


def present(fake, image) -> None:
    """Have the config of an image, and with it its chain, kept as by its records."""
    labels = {"containerd.io/gc.ref.snapshot.uimgacc": image.chain[-1]}
    fake.add_blob(image.config, b"", labels)
    fake.add_image(str(image.reference), image.config)


async def test_for_a_volume_each_layer_has_a_snapshot_before_the_image_is_present(
    containerd, fake
) -> None:
    """containerd looks for each of them before it mounts an image as a volume."""
    image = conftest.Image("registry.example/model:1", layers=4)
    fake.served.update(image.chain)
    registrar = register.Registrar(containerd, conftest.Blobs(image))
    await registrar.register(image.wanted, each=True)

    creates = [index for index, call in enumerate(fake.log) if call.startswith("create")]
    prepared = [index for index, call in enumerate(fake.log) if call.startswith("prepare")]
    assert max(prepared) < min(creates)
    fake.collect()
    assert set(parents_of(fake)) == set(image.chain)


async def test_an_image_that_is_present_for_containers_becomes_a_volume(
    registrar, fake, image
) -> None:
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    assert set(parents_of(fake)) == {image.chain[-1]}
    await registrar.register(image.wanted, each=True)

    fake.collect()
    assert set(parents_of(fake)) == set(image.chain)
    fake.log.clear()
    await registrar.register(image.wanted, each=True)
    assert fake.log == []


async def test_a_volume_that_cannot_be_laid_out_is_not_present(registrar, fake, image) -> None:
    fake.served.add(image.chain[-1])
    with pytest.raises(register.NotServedError) as caught:
        await registrar.register(image.wanted, each=True)

    assert caught.value.chain_id == image.chain[0]
    assert fake.images == {}


async def test_an_image_in_the_middle_that_is_one_snapshot_keeps_nothing_below_it(
    chains, fake
) -> None:
    """Then the layers below it are kept by themselves, also once that image has gone."""
    image = conftest.Image("registry.example/model:1", layers=5)
    fake.served.update(image.chain)
    present(fake, image)
    base = image.chain[:3]
    async with chains.lease() as lease:
        await chains.serve(base, lease=lease)
        await chains.serve(image.chain, lease=lease)
        assert await chains.complete(image.chain, image.config) == []
    fake.collect()

    assert parents_of(fake)[base[-1]] == ""
    assert set(parents_of(fake)) == set(image.chain)
    await chains.forget(image.config)
    fake.collect()
    assert parents_of(fake) == {}


async def test_layers_that_another_image_keeps_are_kept_for_this_one_too(chains, fake) -> None:
    image = conftest.Image("registry.example/model:1", layers=3)
    fake.served.update(image.chain)
    present(fake, image)
    async with chains.lease() as lease:
        await chains.lay_out(image.chain, lease=lease)
        assert await chains.complete(image.chain, image.config) == []

    labels = fake.blobs[image.config][1]
    assert image.chain[-2] in labels.values()


async def test_a_tag_is_taken_back_and_the_image_keeps_its_other_names(
    registrar, fake, image
) -> None:
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    await registrar.withdraw(image.wanted.tag)
    await registrar.withdraw(image.wanted.tag)

    assert set(fake.images) == image.names - {image.wanted.tag}


async def test_a_tag_that_was_pulled_is_not_taken_back(registrar, fake, image) -> None:
    fake.served.update(image.chain)
    await registrar.register(image.wanted)
    fake.images[image.wanted.tag].labels.pop(keys.REGISTERED)
    await registrar.withdraw(image.wanted.tag)

    assert set(fake.images) == image.names
