"""The node's half of deleting, against a containerd that collects its garbage."""

import asyncio
import json

import pytest

from agent import errors
from agent._proto.containerd import containers_pb2
from agent.kits.aio import backoff
from agent.local import copy_marks, copy_paths, disk
from agent.model import keys, pods, records, reports
from agent.mounts import mount_users
from agent.node.images import register, retirement
from tests.unit.node import conftest


class Node:
    """A store's generations, a board, and the mounts that follow containerd's snapshots."""

    def __init__(self, fake, containerd) -> None:
        self.fake = fake
        self.generations: list[records.RetiredRecord | None] = []
        self.store_problem = ""
        self.spread = 0.0
        self.on_board: dict[str, str] = {}
        self.log: list[str] = []
        self.root = "/r"
        self.copied: frozenset[str] = frozenset()
        self.pods: list[pods.Pod] | None = []
        self.extra_mounts: dict[str, int] = {}
        self.retirer = retirement.Retirer(self, containerd, self, self, layers_at=self.mounts)

    def on_node(self) -> list[pods.Pod] | None:
        return self.pods

    def mounts(self, folder: str) -> mount_users.Layers:
        assert folder == f"{self.root}/layers"
        used = dict.fromkeys(self.copied, frozenset({"/container"}))
        return mount_users.Layers(dict(self.extra_mounts), used, self.copied)

    async def generation(self) -> int:
        if self.store_problem:
            raise errors.TemporaryError(self.store_problem)
        return len(self.generations)

    async def generation_spread(self) -> float:
        return self.spread

    async def store(self) -> records.StoreRecord:
        return records.StoreRecord(format=1, id="store-1")

    async def retired(self, generation: int) -> records.RetiredRecord | None:
        return self.generations[generation - 1]

    async def annotations_before(self) -> dict[str, str]:
        return self.on_board

    def annotate(self, **annotations: str | None) -> None:
        for key, value in annotations.items():
            self.on_board.pop(key, None)
            if value is not None:
                self.on_board[key] = value

    def retire(self, *gone: conftest.Image) -> None:
        layers = [
            records.RetiredLayer(diff_id=layer.diff_id, chains=[layer.chain_id])
            for image in gone
            for layer in image.record.platforms[0].layers
        ]
        number = len(self.generations) + 1
        self.generations.append(
            records.RetiredRecord(generation=number, layers=layers, caches=["imc-gone"])
        )

    def run_container(self, image: conftest.Image, pod: str = "ns/pod") -> None:
        namespace, _, name = pod.partition("/")
        uid = f"uid of {pod}"
        self.fake.add_snapshot("uimgacc", "c1", image.chain[-1])
        self.fake.containers.append(
            containers_pb2.Container(
                id="c1",
                snapshotter="uimgacc",
                snapshot_key="c1",
                labels={
                    "io.kubernetes.pod.namespace": namespace,
                    "io.kubernetes.pod.name": name,
                    "io.kubernetes.pod.uid": uid,
                },
            )
        )

    def stop_container(self) -> None:
        self.fake.containers.clear()
        del self.fake.snapshots["uimgacc", "c1"]

    @property
    def acknowledged(self) -> str:
        return self.on_board["uimgacc.io/generation"]

    @property
    def held(self) -> list[str]:
        return json.loads(self.on_board.get("uimgacc.io/held", "[]"))


@pytest.fixture
def other() -> conftest.Image:
    return conftest.Image("registry.example/other:1")


@pytest.fixture
async def node(fake, containerd, image, other) -> Node:
    image.pull_into(fake, "uimgacc")
    other.pull_into(fake, "uimgacc")
    made = Node(fake, containerd)
    await made.retirer.begin()
    return made


async def test_a_new_node_has_acknowledged_nothing(node) -> None:
    assert node.on_board == {"uimgacc.io/generation": "0"}


async def test_what_runs_on_containerds_own_snapshotter_since_before_is_not_taken_for_released(
    node, fake, image, other
) -> None:
    """The node had --native: its links lead to the store, and no mount here shows them."""
    for each in (image, other):
        each.pull_into(fake, keys.NATIVE_SNAPSHOTTER)
    fake.labels[image.chain[0]] = {keys.NATIVE_LAYER: "sha256:1"}
    for key, chain in (("c0", other.chain), ("c1", image.chain)):
        name = keys.NATIVE_SNAPSHOTTER
        fake.add_snapshot(name, key, chain[-1])
        fake.containers.append(containers_pb2.Container(id=key, snapshotter=name, snapshot_key=key))
    node.retire(image)
    with pytest.raises(retirement.UnknownHoldingsError, match="1 containers still read"):
        await node.retirer.look()
    assert node.acknowledged == "0"

    del fake.containers[-1]
    await node.retirer.look()
    assert node.acknowledged == "1"


async def test_an_idle_image_goes_and_is_acknowledged_at_once(node, fake, image, other) -> None:
    node.retire(image)
    sentence = await node.retirer.look()

    assert set(fake.images) == {str(other.reference)}
    assert {key for _, key in fake.snapshots} == set(other.chain)
    assert node.on_board == {"uimgacc.io/generation": "1"}
    assert "1 images were dropped" in sentence


@pytest.mark.looptime
async def test_nodes_of_a_fleet_look_at_moments_of_their_own(
    node, image, other, monkeypatch
) -> None:
    monkeypatch.setattr(backoff, "within", lambda seconds: seconds / 2)
    began = asyncio.get_running_loop().time()
    node.spread = 50.0
    node.retire(image)
    asyncio.get_running_loop().call_later(20, node.retire, other)
    await node.retirer.look()

    assert asyncio.get_running_loop().time() - began == pytest.approx(25, abs=1)
    assert node.acknowledged == "2", "what came meanwhile is done as well: one patch of the node"

    await node.retirer.look()
    node.spread = 1e9
    node.generations.append(None)
    await node.retirer.look()
    assert asyncio.get_running_loop().time() - began == pytest.approx(25 + 300, abs=2)
    assert node.acknowledged == "3"


async def test_a_moment_comes_once_for_what_is_held_for_long(node, image, monkeypatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(backoff, "within", lambda seconds: waits.append(seconds) or 0.0)
    node.spread = 50.0
    node.run_container(image)
    node.retire(image)
    for _ in range(3):
        await node.retirer.look()

    assert (waits, node.acknowledged) == ([50.0], "0")


async def test_what_a_container_runs_on_is_kept_named_and_acknowledged_later(
    node, fake, image
) -> None:
    node.retire(image)
    node.run_container(image, "team/web-0")
    await node.retirer.look()
    layers = image.record.platforms[0].layers
    running = node.acknowledged, node.held, str(image.reference) in fake.images
    named = node.retirer.state.held
    node.stop_container()
    await node.retirer.look()

    tags = [reports.layer_tag("store-1", layer.diff_id) for layer in layers]
    pod = reports.pod_tag("uid of team/web-0")
    assert running == ("0", [f"imc-gone/{tag}: {pod}" for tag in tags], True)
    assert named == [f"imc-gone/{layer.diff_id}: team/web-0" for layer in layers]
    assert node.on_board == {"uimgacc.io/generation": "1"}
    assert str(image.reference) not in fake.images


async def test_what_runs_on_copies_alone_is_acknowledged_at_once(node, image, tmp_path) -> None:
    layers = [layer.diff_id for layer in image.record.platforms[0].layers]
    places = [diff_id.removeprefix("sha256:")[:16] for diff_id in layers]
    node.root = str(tmp_path)
    node.extra_mounts = dict.fromkeys(places, 7)
    node.copied = frozenset(places[1:])
    node.retire(image)
    node.run_container(image, "team/web-0")
    await node.retirer.look()
    one_left = node.acknowledged, len(node.held)
    node.copied = frozenset(places)
    await node.retirer.look()

    assert one_left == ("0", 1)
    assert (node.acknowledged, node.held) == ("1", [])
    marks = disk.outliving(copy_paths.of(node.root).folder)
    assert sorted(marks) == sorted(diff_id.removeprefix("sha256:") for diff_id in layers)


async def test_its_image_goes_with_its_last_container(node, fake, image, tmp_path) -> None:
    node.root = str(tmp_path)
    layers = image.record.platforms[0].layers
    node.copied = frozenset(layer.diff_id.removeprefix("sha256:")[:16] for layer in layers)
    node.run_container(image, "team/web-0")
    node.retire(image)
    await node.retirer.look()
    await node.retirer.look()
    running = node.acknowledged, str(image.reference) in fake.images
    node.stop_container()
    node.copied = frozenset()
    await node.retirer.look()

    assert running == ("1", True)
    assert str(image.reference) not in fake.images
    assert not {key for _, key in fake.snapshots}.intersection(image.chain)
    assert not node.retirer._outlived


async def test_a_copy_that_goes_while_it_is_marked_is_held(
    node, image, monkeypatch, tmp_path
) -> None:
    places = [
        layer.diff_id.removeprefix("sha256:")[:16] for layer in image.record.platforms[0].layers
    ]

    def keep(root: str, diff_ids: list[str]) -> None:
        node.copied = frozenset()

    monkeypatch.setattr(copy_marks, "keep", keep)
    node.extra_mounts, node.copied = dict.fromkeys(places, 7), frozenset(places)
    node.retire(image)
    node.run_container(image)
    await node.retirer.look()

    assert node.acknowledged == "0"


async def test_a_copy_that_cannot_be_marked_is_doubt(node, image, tmp_path) -> None:
    places = [
        layer.diff_id.removeprefix("sha256:")[:16] for layer in image.record.platforms[0].layers
    ]
    (tmp_path / "local").write_text("no folder")
    node.root = str(tmp_path)
    node.extra_mounts, node.copied = dict.fromkeys(places, 7), frozenset(places)
    node.retire(image)
    node.run_container(image)
    with pytest.raises(retirement.UnknownHoldingsError):
        await node.retirer.look()

    assert node.acknowledged == "0"


async def test_a_later_generation_waits_for_an_earlier_one(node, fake, image, other) -> None:
    node.retire(image)
    node.retire(other)
    node.run_container(image)
    await node.retirer.look()

    assert node.acknowledged == "0"
    # But what is idle has gone already.
    assert str(other.reference) not in fake.images


async def test_an_earlier_generation_does_not_wait_for_a_later_one(node, image, other) -> None:
    node.retire(other)
    node.retire(image)
    node.run_container(image)
    await node.retirer.look()

    assert node.acknowledged == "1"


async def test_a_mount_alone_keeps_the_node_from_it(node, image) -> None:
    place = image.record.platforms[0].layers[0].diff_id.removeprefix("sha256:")[:16]
    node.extra_mounts[place] = 7
    node.retire(image)
    await node.retirer.look()
    mounted = node.acknowledged
    node.extra_mounts.clear()
    await node.retirer.look()

    assert (mounted, node.acknowledged) == ("0", "1")


async def test_a_pod_that_is_about_to_start_keeps_its_image(node, fake, image) -> None:
    container = pods.Container(name="c", image=str(image.reference))
    node.pods = [pods.Pod(namespace="team", name="new", containers=(container,))]
    node.retire(image)
    await node.retirer.look()

    assert str(image.reference) in fake.images
    assert node.retirer.state.held[0].endswith(": team/new")


async def test_nothing_is_removed_while_an_image_is_being_registered(
    node, fake, chains, image
) -> None:
    node.retire(image)
    async with asyncio.TaskGroup() as group, chains.gate.shared():
        looking = group.create_task(node.retirer.look())
        await asyncio.wait([looking], timeout=1)
        meanwhile = str(image.reference) in fake.images
    assert meanwhile
    assert str(image.reference) not in fake.images


async def test_an_image_that_was_unpacked_here_is_not_held(node, fake, image) -> None:
    fake.inodes = dict.fromkeys(image.chain, 12)
    node.retire(image)
    await node.retirer.look()

    assert str(image.reference) in fake.images
    assert node.acknowledged == "1"


async def test_what_was_deleted_long_ago_is_acknowledged(node, image) -> None:
    node.generations = [None, None]
    node.retire(image)
    await node.retirer.look()

    assert node.acknowledged == "3"


@pytest.mark.parametrize("away", ["store", "containerd", "snapshotter", "root", "pods"])
async def test_unknown_holdings_are_not_acknowledged(node, fake, image, away) -> None:
    node.retire(image)
    match away:
        case "store":
            node.store_problem = "the store does not answer"
        case "containerd":
            await fake.stop()
        case "snapshotter":
            fake.down = True
        case "root":
            node.root = ""
        case "pods":
            node.pods = None
    with pytest.raises(errors.TemporaryError):
        await node.retirer.look()

    assert node.on_board == {"uimgacc.io/generation": "0"}


async def test_a_damaged_record_is_doubt(node, image, monkeypatch) -> None:
    async def damaged(_generation: int) -> None:
        raise errors.PermanentError("damaged record")

    node.retire(image)
    monkeypatch.setattr(node, "retired", damaged)
    with pytest.raises(errors.PermanentError):
        await node.retirer.look()

    assert node.acknowledged == "0"


async def test_a_new_agent_goes_on_from_what_the_last_one_acknowledged(node, image) -> None:
    node.retire(image)
    await node.retirer.look()
    await node.retirer.begin()

    assert node.acknowledged == "1"


@pytest.mark.parametrize("text", ["", "x", "-3", "1.5", "٣"])
async def test_an_annotation_that_is_no_number_counts_as_nothing(node, text) -> None:
    node.on_board["uimgacc.io/generation"] = text
    await node.retirer.begin()

    assert node.acknowledged == "0"


async def test_another_store_begins_anew(node, image) -> None:
    node.on_board["uimgacc.io/generation"] = "9"
    await node.retirer.begin()
    node.retire(image)
    node.run_container(image)
    await node.retirer.look()

    assert node.acknowledged == "0"


async def test_a_quiet_store_costs_one_question(node, fake) -> None:
    fake.down = True

    assert "Nothing is held" in await node.retirer.look()


async def test_layers_that_were_laid_out_for_a_pull_go_at_once(node, fake, containerd) -> None:
    """The pull has not come, and finds nothing to download from but the registry."""
    waiting = conftest.Image("registry.example/private:1")
    fake.served.update(waiting.chain)
    registrar = register.Registrar(containerd, conftest.Blobs(waiting))
    await registrar.lay_out_ahead(waiting.wanted)
    node.retire(waiting)
    await node.retirer.look()

    assert not set(waiting.chain) & {key for _, key in fake.snapshots}
    assert node.on_board == {"uimgacc.io/generation": "1"}
