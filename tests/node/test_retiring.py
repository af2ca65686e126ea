"""Deleting from the store while nodes use it: the real collector, containerd and mounts."""

import json
import os
import pathlib
import shutil
import signal
from collections.abc import Iterator

import msgspec
import pytest

from agent.clients.kube import rest_client
from agent.control.gc import roster
from agent.model import images, reports
from agent.mounts import mountinfo, mountpoints
from agent.store import layout
from agent.store.gc import collection
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from tests.kube import apis, faults
from tests.kube import conftest as servers
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

api_loop = servers.api_loop
api_access = servers.api_access
api = servers.api
proxy = servers.proxy

IMAGE = "lab/layers2:1"


class Member(conftest.Node):
    """A node of a cluster over a store from which things are deleted.

    `local` is when it copies the layers that it runs.
    """

    def __init__(
        self,
        folder,
        registry,
        store: pathlib.Path,
        api: apis.Api,
        *,
        server: str = "",
        local: str = "off",
    ) -> None:
        self.api = api
        self.name = api.node()
        self.store = layout.Layout(store)
        self.announced: tuple[str, ...] = ()
        access = ("--kubeconfig", api.kubeconfig(server=server))
        source = ("--kubernetes", self.name, *access, "--retired-seconds", "0.3")
        # Copies are made however full the disk of this machine is.
        roomy = {"UIMGACC_LOCAL_FREE": "0"}
        super().__init__(folder, registry, store, source=source, agent_environment=roomy)
        for process in (self.agent, self.snapshotter):
            process.command = [*process.command, "--local", local]

    def split(self) -> None:
        """Give the image to be deleted a cache of its own."""
        (cache,) = direct_reader.Reader(self.store).caches()
        gone = [image for image in cache.images if image.ref == self.reference(IMAGE)]
        rest = [image for image in cache.images if image not in gone]
        for name, members in (("imc-gone", gone), ("imc-rest", rest)):
            record = msgspec.structs.replace(cache, id=name, name=name, images=members)
            writer.publish_cache(self.store, record)
        self.store.cache_record(cache.id).unlink()

    def delete(self) -> list[str]:
        """Delete that cache, and have the collector publish that; returns the retired layers."""
        reference = images.parse_reference(self.reference(IMAGE))
        record = direct_reader.Reader(self.store).image(reference)
        rest = direct_reader.Reader(self.store).cache("imc-rest")
        assert record is not None
        assert rest is not None
        writer.delete_cache(self.store, "imc-gone")
        for _ in range(4):
            self.collect()
        assert self.store.generation_record.exists()
        kept = {layer for image in rest.images for layer in image.layers}
        layers = [layer.diff_id for layer in record.platforms[0].layers]
        return [layer for layer in layers if layer not in kept]

    def collect(self) -> None:
        """One round of the collector, as the controller of the cluster has it done.

        Layers of the last round count as settled: no build runs here.
        """
        node = roster.node_of(self.name, self.annotations)
        assert node.acknowledged is not None
        orders = collection.Orders(
            settled=self.announced,
            floor=node.acknowledged,
            held=roster.held_layers([node]),
        )
        self.announced = collection.collect(self.store, orders).announced

    def are_there(self, layers: list[str]) -> bool:
        """Whether the store has files of these layers; after one more round."""
        self.collect()
        return any(self.store.layer(layer).exists() for layer in layers)

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.api.get(rest_client.NODES, self.name)["metadata"].get("annotations", {}))

    @property
    def acknowledged(self) -> int:
        return int(self.annotations.get("uimgacc.io/generation", "-1"))

    @property
    def named(self) -> list[str]:
        """What the node's own page says of it, where pods have names."""
        held: list[str] = json.loads(self.get("/status"))["deletions"]["held"]
        return held

    @property
    def held(self) -> list[str]:
        return json.loads(self.annotations.get("uimgacc.io/held", "[]"))

    def places_of(self, diff_ids: list[str]) -> list[str]:
        """Where some layers are mounted on this node, whatever they are read from."""
        places = {
            mountpoints.mountpoint(f"{self.root}/layers", diff_id.removeprefix("sha256:"))
            for diff_id in diff_ids
        }
        return [entry.target for entry in mountinfo.read() if entry.target in places]

    def mounts_of(self, diff_ids: list[str]) -> list[str]:
        """What is mounted of some layers, by the names of their files."""
        names = {diff_id.removeprefix("sha256:") for diff_id in diff_ids}
        found = [mountinfo.backing_file(entry.source) for entry in mountinfo.read()]
        return [
            source
            for source in found
            if source.startswith(f"{self.store.root}/") and pathlib.PurePath(source).stem in names
        ]


def copied(pristine: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A store of its own for a test; layer files never change, so they are shared."""

    def copy(source: str, to: str) -> None:
        (os.link if source.endswith(".erofs") else shutil.copy2)(source, to)

    shutil.copytree(pristine, target, copy_function=copy)
    # As if the build that made it had ended long ago: what it counted on may go.
    shutil.rmtree(layout.Layout(target).claims)
    return target


@pytest.fixture
def local() -> str:
    return "off"


@pytest.fixture
def member(folder: pathlib.Path, registry, pristine, api, local) -> Iterator[Member]:
    made = Member(folder / "n", registry, copied(pristine, folder / "store"), api, local=local)
    with conftest.running(made, registry) as node:
        node.split()
        node.warm_up()
        yield node


def register(member: Member, api: apis.Api) -> None:
    """Have the image registered for a pod that then goes away again."""
    api.runtime_class("uimgacc")
    ask(member, api, "asker", IMAGE)
    conftest.wait_until(lambda: member.has(IMAGE), seconds=60)
    api.delete_pod("asker")
    conftest.wait_until(lambda: not member.status("asker"), seconds=60)


def ask(member: Member, api: apis.Api, name: str, image: str) -> None:
    """Have a pod appear that wants its image from the store; copies are looked at for it."""
    api.pod(
        name,
        member.name,
        image=member.reference(image),
        annotations={"uimgacc.io/image-cache": "auto"},
        spec={"runtimeClassName": "uimgacc"},
    )


def stays(member: Member, pod, layers: list[str]) -> None:
    """The layers are read, so they stay, however often the collector comes."""
    for _ in range(8):
        assert member.are_there(layers)
        assert len(member.mounts_of(layers)) == len(layers)
        code, output = member.client.execute(pod.containers[0], ["ls", "/"])
        assert (code, "layers" in output) == (0, True)


def test_an_unused_image_is_released_and_deleted(member, api) -> None:
    register(member, api)
    assert member.acknowledged == 0
    gone = member.delete()
    conftest.wait_until(lambda: not member.are_there(gone), seconds=60)

    assert (member.mounts_of(gone), member.has(IMAGE), member.held) == ([], False, [])
    # A new pod pulls the image as usual; layers of other caches still come from the store.
    with member.client.pod(member.manifest("later", IMAGE)) as pod:
        code, output = member.client.execute(pod.containers[0], ["ls", "/"])
        assert (code, pod.pulled) == (0, [member.reference(IMAGE)]), output
        assert member.mounts_of(gone) == []


def test_a_running_pod_keeps_its_layers_and_is_named(member, api) -> None:
    register(member, api)
    with member.client.pod(member.manifest("runner", IMAGE)) as pod:
        gone = member.delete()
        conftest.wait_until(lambda: member.held, seconds=60)
        store_id = direct_reader.open_store(member.store.root).id
        tags = [reports.layer_tag(store_id, layer) for layer in gone]
        assert [each.partition(": ")[0] for each in member.held] == [f"imc-gone/{t}" for t in tags]
        assert all("pod-" in each and "runner" not in each for each in member.held)
        assert [each.partition(": ")[2] for each in member.named] == ["default/runner"] * len(gone)
        stays(member, pod, gone)
    conftest.wait_until(lambda: not member.are_there(gone), seconds=90)

    assert (member.mounts_of(gone), member.has(IMAGE)) == ([], False)


def test_a_pod_with_an_image_volume_keeps_its_layers_and_is_named(member, api) -> None:
    register(member, api)
    manifest = member.manifest("runner", "lab/zstd:1", volumes=[IMAGE])
    with member.client.pod(manifest) as pod:
        gone = member.delete()
        conftest.wait_until(lambda: member.held, seconds=60)
        assert [each.partition(": ")[2] for each in member.named] == ["default/runner"] * len(gone)
        code, output = member.client.execute(pod.containers[0], ["ls", "/volumes/0"])
        assert (code, "layers" in output) == (0, True)
    conftest.wait_until(lambda: not member.are_there(gone), seconds=90)


@pytest.mark.parametrize("local", ["before-start"])
def test_a_deletion_does_not_wait_for_a_pod_that_runs_on_copies(member, api) -> None:
    register(member, api)
    with member.client.pod(member.manifest("runner", IMAGE)) as pod:
        # Copies are looked at now, not at the next of the looks every ten seconds.
        ask(member, api, "neighbour", "lab/zstd:1")
        conftest.wait_until(lambda: member.metric('uimgacc_used_layer_bytes{source="local"}'))
        conftest.wait_until(lambda: not member.metric('uimgacc_used_layer_bytes{source="store"}'))
        gone = member.delete()
        conftest.wait_until(lambda: not member.are_there(gone), seconds=90)
        drop_caches()
        code, output = member.client.execute(
            pod.containers[0], ["sh", "-c", "find / -xdev -type f | xargs cat | wc -c"]
        )
        assert (code, int(output) > 0, member.held) == (0, True, [])
    copies = layout.Layout(member.root / "local")
    conftest.wait_until(lambda: not member.places_of(gone))
    ask(member, api, "later", "lab/zstd:1")
    conftest.wait_until(lambda: not any(copies.layer(each).exists() for each in gone))


def drop_caches() -> None:
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def test_a_container_that_only_the_mount_table_knows_keeps_its_layers(member, api) -> None:
    """The snapshotter has lost its database: containerd's records of the snapshots go with it."""
    register(member, api)
    with member.client.pod(member.manifest("runner", IMAGE)) as pod:
        member.snapshotter.end(signal.SIGKILL)
        for path in member.root.glob("uimgacc.db*"):
            path.unlink()
        gone = member.delete()
        member.start_snapshotter()
        conftest.wait_until(lambda: member.held, seconds=60)
        stays(member, pod, gone)
    conftest.wait_until(lambda: not member.are_there(gone), seconds=90)

    assert member.mounts_of(gone) == []


def test_an_agent_that_was_away_says_nothing_it_cannot_prove(member, api) -> None:
    register(member, api)
    with member.client.pod(member.manifest("runner", IMAGE)) as pod:
        member.agent.end(signal.SIGKILL)
        gone = member.delete()
        stays(member, pod, gone)
        member.start_agent()
        conftest.wait_until(lambda: member.held, seconds=60)
        stays(member, pod, gone)
    member.agent.end(signal.SIGKILL)
    assert member.are_there(gone)
    member.start_agent()
    conftest.wait_until(lambda: not member.are_there(gone), seconds=90)


def test_an_outage_of_the_api_delays_only_the_acknowledgement(
    folder, registry, pristine, api, proxy: faults.Proxy
) -> None:
    store = copied(pristine, folder / "store")
    made = Member(folder / "n", registry, store, api, server=proxy.url)
    with conftest.running(made, registry) as member:
        member.split()
        member.warm_up()
        register(member, api)
        proxy.stop()
        gone = member.delete()
        conftest.wait_until(lambda: not member.mounts_of(gone), seconds=60)
        assert member.are_there(gone)
        assert member.acknowledged == 0
        proxy.start()
        conftest.wait_until(lambda: not member.are_there(gone), seconds=90)
