"""What is deleted from the store while nodes use it: seen by a real containerd and real mounts.

The collector is played by `retire`, in the order that agent.node.retiring describes.
"""

import json
import os
import pathlib
import shutil
import signal
from collections.abc import Iterator

import pytest

from agent.clients import kube
from agent.kits import files
from agent.model import images, records
from agent.mounts import mountinfo
from agent.store import layout, reading
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
    """A node of a cluster over a store from which things are deleted."""

    def __init__(
        self, folder, registry, store: pathlib.Path, api: apis.Api, *, server: str = ""
    ) -> None:
        self.api = api
        self.name = api.node()
        self.store = layout.Layout(store)
        access = ("--kubeconfig", api.kubeconfig(server=server))
        source = ("--kubernetes", self.name, *access, "--retired-seconds", "0.3")
        super().__init__(folder, registry, store, source=source)

    def layers_of(self, image: str) -> list[records.ImageLayer]:
        record = reading.Reader(self.store).image(images.parse_reference(self.reference(image)))
        assert record is not None
        return record.platforms[0].layers

    def retire(self, image: str) -> list[str]:
        """Delete an image from the store as the collector does; the diff IDs of its layers."""
        # The lowest one is the sandbox image's as well: as if another cache still had that.
        layers = self.layers_of(image)[1:]
        for path in self.store.cache_records.iterdir():
            path.unlink()
        self.store.image_record(images.parse_reference(self.reference(image))).unlink()
        for layer in layers:
            self.store.chain_record(layer.chain_id).unlink(missing_ok=True)
        record = records.RetiredRecord(
            generation=1,
            layers=[
                records.RetiredLayer(diff_id=layer.diff_id, chains=[layer.chain_id])
                for layer in layers
            ],
            caches=["imc-gone"],
        )
        files.write(self.store.retired_record(1), records.encode(record))
        number = records.GenerationRecord(generation=1)
        files.write(self.store.generation_record, records.encode(number))
        return [layer.diff_id for layer in layers]

    def delete_files(self, diff_ids: list[str]) -> None:
        """What follows when all nodes have acknowledged."""
        for diff_id in diff_ids:
            self.store.layer(diff_id).unlink()

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.api.get(kube.NODES, self.name)["metadata"].get("annotations", {}))

    @property
    def acknowledged(self) -> int:
        return int(self.annotations.get("uimgacc.io/generation", "-1"))

    @property
    def held(self) -> list[str]:
        return json.loads(self.annotations.get("uimgacc.io/held", "[]"))

    def mounts_of(self, diff_ids: list[str]) -> list[str]:
        """What is mounted of some layers, by the names of their files."""
        names = {diff_id.removeprefix("sha256:") for diff_id in diff_ids}
        found = [mountinfo.backing_file(entry.source) for entry in mountinfo.read()]
        return [
            source
            for source in found
            if source.startswith(f"{self.store.root}/") and pathlib.PurePath(source).stem in names
        ]


@pytest.fixture
def member(folder: pathlib.Path, registry, pristine, tmp_path, api) -> Iterator[Member]:
    store = pathlib.Path(shutil.copytree(pristine, folder / "store", copy_function=os.link))
    with conftest.running(Member(folder / "n", registry, store, api), registry) as node:
        node.warm_up()
        yield node


def register(member: Member, api: apis.Api, image: str = IMAGE) -> None:
    """Have an image registered for a pod that then goes away again."""
    api.runtime_class("uimgacc")
    api.pod(
        "asker",
        member.name,
        image=member.reference(image),
        annotations={"uimgacc.io/image-cache": "auto"},
        spec={"runtimeClassName": "uimgacc"},
    )
    conftest.wait_until(lambda: member.has(image), seconds=60)
    api.delete_pod("asker")
    conftest.wait_until(lambda: not member.status("asker"), seconds=60)


def test_what_nobody_uses_is_let_go_and_acknowledged(member, api) -> None:
    register(member, api)
    assert member.acknowledged == 0
    gone = member.retire(IMAGE)
    conftest.wait_until(lambda: member.acknowledged == 1, seconds=60)

    assert (member.mounts_of(gone), member.has(IMAGE), member.held) == ([], False, [])
    # Its files may go now; whoever wants the image pulls it as ever.
    member.delete_files(gone)
    with member.client.pod(member.manifest("later", IMAGE)) as pod:
        code, output = member.client.execute(pod.containers[0], ["ls", "/"])
        assert (code, pod.pulled) == (0, [member.reference(IMAGE)]), output
        assert member.mounts_of(gone) == []


def test_a_running_pod_keeps_its_layers_and_is_named(member, api) -> None:
    register(member, api)
    with member.client.pod(member.manifest("runner", IMAGE)) as pod:
        gone = member.retire(IMAGE)
        conftest.wait_until(lambda: member.held, seconds=60)
        assert member.acknowledged == 0
        assert set(member.held) == {f"imc-gone/{diff_id}: default/runner" for diff_id in gone}
        assert len(member.mounts_of(gone)) == len(gone)
        code, output = member.client.execute(pod.containers[0], ["ls", "/"])
        assert (code, "layers" in output) == (0, True)
    conftest.wait_until(lambda: member.acknowledged == 1, seconds=60)

    assert (member.mounts_of(gone), member.has(IMAGE), member.held) == ([], False, [])


def test_a_container_that_only_the_mount_table_knows_keeps_its_layers(member, api) -> None:
    """The snapshotter has lost its database: containerd's records of the snapshots go with it."""
    register(member, api)
    with member.client.pod(member.manifest("runner", IMAGE)) as pod:
        member.snapshotter.end(signal.SIGKILL)
        for path in member.root.glob("uimgacc.db*"):
            path.unlink()
        gone = member.retire(IMAGE)
        member.start_snapshotter()
        conftest.wait_until(lambda: member.held, seconds=60)
        # Longer than any clean-up takes: what it runs on stays, and is not acknowledged.
        conftest.time.sleep(2)
        assert member.acknowledged == 0
        assert len(member.mounts_of(gone)) == len(gone)
        code, output = member.client.execute(pod.containers[0], ["ls", "/"])
        assert (code, "layers" in output) == (0, True)
    conftest.wait_until(lambda: member.acknowledged == 1, seconds=90)

    assert member.mounts_of(gone) == []


def test_an_agent_that_was_away_says_nothing_it_cannot_prove(member, api) -> None:
    register(member, api)
    with member.client.pod(member.manifest("runner", IMAGE)):
        member.agent.end(signal.SIGKILL)
        member.retire(IMAGE)
        assert member.acknowledged == 0
        member.start_agent()
        conftest.wait_until(lambda: member.held, seconds=60)
        assert member.acknowledged == 0
    member.agent.end(signal.SIGKILL)
    member.start_agent()
    conftest.wait_until(lambda: member.acknowledged == 1, seconds=90)


def test_an_outage_of_the_api_delays_only_the_acknowledgement(
    folder, registry, pristine, api, proxy: faults.Proxy
) -> None:
    store = pathlib.Path(shutil.copytree(pristine, folder / "store", copy_function=os.link))
    made = Member(folder / "n", registry, store, api, server=proxy.url)
    with conftest.running(made, registry) as member:
        member.warm_up()
        register(member, api)
        proxy.stop()
        gone = member.retire(IMAGE)
        conftest.wait_until(lambda: not member.mounts_of(gone), seconds=60)
        during = member.acknowledged
        proxy.start()
        conftest.wait_until(lambda: member.acknowledged == 1, seconds=90)

    assert during == 0
