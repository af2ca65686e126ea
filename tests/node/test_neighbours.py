"""What other programs on a node make of registered images, which have no layer blobs.

Mirrors between nodes (Spegel, the embedded registry of k3s), ctr, crictl, the kubelet's collection
of images. They are known by what they ask of containerd: labels, events, sizes.
"""

import asyncio
import json
import pathlib
import random
import tarfile
from collections.abc import Sequence
from typing import Any

import grpc.aio
import pytest

from agent._proto.containerd import events_pb2, events_pb2_grpc
from agent.clients.containerd import rpc
from agent.model import digests, keys
from agent.store.publish import writer
from lab import processes, services
from lab.samples import pushing, tars
from lab.web import registries
from tests.containerd import conftest as containerds
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

IMAGE = "lab/layers2:1"
MANY, SIZE = 20, 200_000


def ctr(node: conftest.Node, *arguments: str | pathlib.Path) -> str:
    return node.containerd.ctr(*arguments, namespace="k8s.io")


def blobs(node: conftest.Node, *filters: str) -> set[str]:
    """The digests of what containerd has as content."""
    return set(ctr(node, "content", "ls", "-q", *filters).split())


def forgotten(node: conftest.Node, image: str) -> bool:
    """Whether an image and its snapshots are gone."""
    top = image_chain(image)[-1]
    listed = ctr(node, "snapshots", "--snapshotter", "uimgacc", "ls")
    return not node.has(image) and top not in listed


def image_chain(image: str) -> list[str]:
    return digests.chain_ids(registries.catalogue()[image]["diff_ids"])


async def test_a_mirror_between_nodes_advertises_what_this_node_can_hand_out(node) -> None:
    """Spegel from 0.3 on advertises tags by the events of images, content by the label of its
    source: looked for when the content appears (and again and again where it is missing, while
    all else waits), and in lists."""
    record = registries.catalogue()[IMAGE]
    labels: dict[str, dict[str, str]] = {}
    tags: list[str] = []

    async def follow(client: rpc.Client, ready: asyncio.Event) -> None:
        filters = ['topic~="/images/create",event.name~="^.+/"', 'topic~="/content/create"']
        options = [("grpc.default_authority", "localhost")]
        async with grpc.aio.insecure_channel(
            f"unix://{node.containerd.address}", options=options
        ) as channel:
            stub = events_pb2_grpc.EventsStub(channel)
            stream = stub.Subscribe(events_pb2.SubscribeRequest(filters=filters))
            ready.set()
            async for envelope in stream:
                # Name of an image or digest of a blob: both are the first field.
                subject = events_pb2.ImageEvent.FromString(envelope.event.value).name
                if envelope.topic == "/content/create":
                    labels[subject] = dict((await client.blob(subject)).labels)
                else:
                    tags.append(subject)

    async with rpc.Client(str(node.containerd.address)) as client:
        ready = asyncio.Event()
        following = asyncio.create_task(follow(client, ready))
        await ready.wait()
        # The stream is open once something of it has come.
        probe = 0
        while not tags:
            probe += 1
            await asyncio.to_thread(node.client.pull_image, node.reference("lab/pause:1"))
            ctr(node, "images", "tag", node.reference("lab/pause:1"), f"probe.example/p:{probe}")
            await asyncio.sleep(0.05)
        node.schedule(node.manifest("pod", IMAGE))
        await asyncio.to_thread(conftest.wait_until, lambda: node.reference(IMAGE) in tags)
        following.cancel()

    source, repository = f"{keys.SOURCE}{node.registry.address}", IMAGE.partition(":")[0]
    own = {record["manifest"], record["config"]}
    if node.containerd.version != "1.7":  # which has no events of content
        assert own <= labels.keys()
    for digest in own & labels.keys():
        assert labels[digest][source] == repository
    advertised = blobs(node, f'labels."{source}"~="^{repository}$"')
    assert advertised == own
    assert advertised.isdisjoint(record["layers"])
    for digest in advertised:
        assert json.loads(ctr(node, "content", "get", digest))


def test_content_that_another_image_brought_keeps_its_repository(node) -> None:
    """One manifest under two names: a push or a mirror finds it under both."""
    other = f"{keys.SOURCE}other.example"
    manifest = registries.catalogue()[IMAGE]["manifest"]
    node.client.pull_image(node.reference(IMAGE), handler="")
    ctr(node, "content", "label", manifest, f"{other}=team/app")
    node.schedule(node.manifest("pod", IMAGE))
    conftest.wait_until(lambda: node.status("pod").get("served"))

    assert manifest in blobs(node, f'labels."{other}"=="team/app"')
    assert manifest in blobs(node, f'labels."{keys.SOURCE}{node.registry.address}"=="lab/layers2"')


def test_an_export_names_what_is_missing_and_works_once_that_is_fetched(node, folder) -> None:
    node.schedule(node.manifest("pod", IMAGE))
    conftest.wait_until(lambda: node.has(IMAGE))
    reference, archive = node.reference(IMAGE), folder / "image.tar"

    with pytest.raises(processes.LabError, match=r"content digest sha256:\w+: not found"):
        ctr(node, "images", "export", archive, reference)
    ctr(node, "content", "fetch", "--plain-http", reference)
    # Through its transfer API ctr 2.1.9 ends now and then before the end of the archive is written.
    ctr(node, "images", "export", "--local", archive, reference)
    with tarfile.open(archive) as opened:
        names = {pathlib.PurePath(name).name for name in opened.getnames()}
    record = registries.catalogue()[IMAGE]
    wanted = [record["manifest"], record["config"], *record["layers"]]
    assert {digest.removeprefix("sha256:") for digest in wanted} <= names


def test_a_push_back_works_and_one_elsewhere_needs_the_layers(node, folder) -> None:
    source, layers = node.reference(IMAGE), registries.catalogue()[IMAGE]["layers"]
    with (
        services.Registry(folder / "a", storage=folder / "storage") as own,
        services.Registry(folder / "b", storage=folder / "other") as other,
    ):
        back, elsewhere = f"{own.address}/team/app:1", f"{other.address}/team/app:1"
        node.client.pull_image(source, handler="")
        ctr(node, "images", "push", "--plain-http", back, source)
        node.client.remove_image(source)
        conftest.wait_until(lambda: blobs(node).isdisjoint(layers))
        node.schedule(node.manifest("pod", IMAGE))
        conftest.wait_until(lambda: node.has(IMAGE))

        # Where the registry has the layers, this node is not asked for them.
        ctr(node, "images", "push", "--plain-http", back, source)
        with pytest.raises(processes.LabError, match="not found"):
            ctr(node, "images", "push", "--plain-http", elsewhere, source)
        ctr(node, "content", "fetch", "--plain-http", source)
        ctr(node, "images", "push", "--plain-http", elsewhere, source)


def test_a_removed_image_is_gone_and_the_next_pod_has_it_again(node) -> None:
    """crictl rmi: containers of the image go on, its layers are let go, nothing brings it back by
    itself."""
    node.schedule(node.manifest("first", IMAGE))
    conftest.wait_until(lambda: node.has(IMAGE))
    with node.client.pod(node.manifest("run", IMAGE)) as pod:
        node.client.remove_image(node.reference(IMAGE))
        assert not node.has(IMAGE)
        code, output = node.client.execute(pod.containers[0], ("ls", "/"))
        assert (code, "layers" in output) == (0, True)
    conftest.wait_until(lambda: forgotten(node, IMAGE))

    node.schedule(node.manifest("second", IMAGE))
    conftest.wait_until(lambda: node.has(IMAGE))
    assert "layers" in node.run(node.manifest("again", IMAGE), "ls", "/")


def test_the_kubelets_collection_counts_what_registered_images_do_not_take(version, folder) -> None:
    """20 registered images and one pulled, none in use, at a full disk.

    The kubelet adds up the sizes that CRI reports, which are those in the manifests: it may stop
    before it has freed anything. What it does when the disk is nearly full, remove all images
    that are not in use, frees what was pulled, and costs the registered ones nothing.
    """
    with services.Registry(folder / "r", storage=folder / "storage") as registry:
        names = [f"many/app{number}" for number in range(MANY)]
        sizes = push_each(registry.address, [*names, "many/pulled"])
        store = folder / "store"
        store.mkdir()
        writer.create(store)
        containerds.build(store, registry, [f"{name}:1" for name in names])
        made = conftest.Node(folder / "n", registry, store, version=version)
        with conftest.running(made, registry) as node:
            for name in names:
                node.schedule(node.manifest(name.replace("/", "-"), f"{name}:1"))
            conftest.wait_until(lambda: all(node.has(f"{name}:1") for name in names), seconds=180)
            pulled = node.reference("many/pulled:1")
            node.client.pull_image(pulled, handler="")
            listed = {image.id: image for image in node.client.list_images()}
            by_name = {
                image.repo_tags[0].removeprefix(f"{registry.address}/"): image
                for image in listed.values()
            }
            assert len(listed) == MANY + 1
            for name in names:
                image = by_name[f"{name}:1"]
                # A little more than the layer: config and manifest.
                assert sizes[name] < image.size < sizes[name] + 8192
                assert not image.pinned
            on_disk = stored_bytes(node)
            assert on_disk < sum(sizes.values()) / 4

            # What ends at a threshold, in the order of last use: nothing is freed yet.
            freed = collect(node, [by_name[f"{name}:1"] for name in names], goal=3 * SIZE)
            assert freed == 3
            assert node.client.image_status(pulled) is not None
            conftest.wait_until(lambda: stored_bytes(node) <= on_disk)

            # Disk pressure: all that is not in use.
            collect(node, node.client.list_images(), goal=1 << 40)
            assert node.client.list_images() == []
            conftest.wait_until(lambda: not blobs(node))
            conftest.wait_until(
                lambda: "Committed" not in ctr(node, "snapshots", "--snapshotter", "uimgacc", "ls")
            )

            node.schedule(node.manifest("again", "many/app0:1"))
            conftest.wait_until(lambda: node.has("many/app0:1"))


def push_each(registry: str, names: Sequence[str]) -> dict[str, int]:
    """Push an image of one layer of its own under each name; the compressed size of the layers."""
    pusher = pushing.Pusher(registry)
    sizes = {}
    for name in names:
        entry = tars.file("data", random.Random(name).randbytes(SIZE))
        pushed = pusher.image(name, "1", [pushing.layer([entry])])
        sizes[name] = pushed.layers[0].size
    pusher.close()
    return sizes


def collect(node: conftest.Node, images: Sequence[Any], goal: int) -> int:
    """Remove images as the kubelet does (realImageGCManager.freeSpace), and return how many."""
    freed = removed = 0
    for image in images:
        if freed >= goal:
            break
        node.client.remove_image(image.id)
        freed, removed = freed + image.size, removed + 1
    return removed


def stored_bytes(node: conftest.Node) -> int:
    """The bytes of images on the node's disk: content and snapshots of both snapshotters."""
    root = node.containerd.root
    places = [
        root / "io.containerd.content.v1.content/blobs",
        root / "io.containerd.snapshotter.v1.overlayfs/snapshots",
        node.root / "snapshots",
    ]
    return sum(
        entry.lstat().st_blocks * 512
        for place in places
        for entry in place.rglob("*")
        if entry.is_file()
    )
