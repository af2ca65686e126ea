"""Layers that are not public: served to those whom a registry gave them, and to the agent."""

import dataclasses
import pathlib

import grpc
import pytest

from agent.model import digests, keys
from agent.mounts import mountinfo
from agent.store.lookup import layer_requests
from tests.snapshotter import conftest, stores

pytestmark = pytest.mark.root

APP = "registry.example.com/team/app"
OTHER = "registry.example.com/other/app"


@pytest.fixture
def store(folder: pathlib.Path) -> stores.Store:
    (folder / "store").mkdir()
    return stores.Store(folder / "store")


@dataclasses.dataclass(frozen=True)
class Node:
    """A snapshotter, on a node that is set up, and what is in its store."""

    snapshotter: conftest.Process
    store: stores.Store

    def is_served(self, chain_id: str, parent: str = "", **labels: str) -> bool:
        """Whether a request is answered from the store; its labels by the names in `keys`."""
        named = {getattr(keys, name): value for name, value in labels.items()}
        key = f"extract-{len(self.snapshotter.walk())} {chain_id}"
        try:
            self.snapshotter.prepare(key, parent, {keys.SNAPSHOT_REF: chain_id, **named})
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                return True
            raise
        return False

    def is_pulled(self, image: str, *chain_ids: str) -> list[bool]:
        """Of which layers a pull of an image finds nothing left to download."""
        parent, served = "", []
        for number, chain_id in enumerate(chain_ids):
            served.append(self.is_served(chain_id, parent, IMAGE_REF=image))
            if served[-1]:
                parent = next(
                    info.name
                    for info in self.snapshotter.walk().values()
                    if info.labels[keys.SNAPSHOT_REF] == chain_id and info.kind == 3
                )
            else:
                extract = [n for n in self.snapshotter.walk() if n.endswith(chain_id)][-1]
                parent = f"unpacked-{number}-{len(self.snapshotter.walk())}"
                self.snapshotter.commit(parent, extract)
        return served

    def proof(self, chain_id: str) -> str:
        """What the agent sends."""
        key = (self.snapshotter.root / layer_requests.AGENT_KEY).read_bytes()
        return layer_requests.agent_proof(key, chain_id)

    @property
    def note(self) -> pathlib.Path:
        return self.snapshotter.root / layer_requests.IMAGE_REFS

    def mounted(self) -> list[str]:
        self.snapshotter.cleanup()
        layers = f"{self.snapshotter.root}/layers/"
        return [entry.target for entry in mountinfo.read() if entry.target.startswith(layers)]


@pytest.fixture
def node(folder: pathlib.Path, store: stores.Store):
    process = conftest.Process(folder, store.layout.root)
    try:
        made = Node(process, store)
        made.note.touch()
        yield made
    finally:
        process.kill()


def private(store: stores.Store, *names: str, sources: list[str] | None) -> list[str]:
    """Publish layers that are not public; the chain IDs."""
    diff_ids = [store.add_layer({name: name}, public=False, sources=sources) for name in names]
    return store.publish_chain(diff_ids)


def test_a_pull_of_a_source_is_served_under_any_tag_or_digest(node, store) -> None:
    chain = private(store, "a", "b", sources=[OTHER, APP])

    for version in (":1", ":2", "@" + chain[0]):
        assert node.is_pulled(APP + version, *chain) == [True, True]


def test_a_pull_of_another_repository_downloads_the_layers(node, store) -> None:
    """The attack: an image whose config names the diff IDs of someone else's."""
    chain = private(store, "a", "b", sources=[APP])

    for image in (OTHER, f"{APP}/x", "evil.example.com/team/app", "team/app"):
        assert node.is_pulled(f"{image}:1", *chain) == [False, False]
    assert node.mounted() == []
    assert "no registry has given this layer" in node.snapshotter.log
    assert f"{OTHER}:1" in node.snapshotter.log


def test_a_public_layer_is_served_to_all(node, store) -> None:
    (base,) = store.add_chain({"base": "1"})
    node.note.unlink()

    assert node.is_served(base)
    assert node.is_pulled(f"{OTHER}:1", base) == [True]


def test_a_public_layer_below_a_private_one_is_served(node, store) -> None:
    base = store.add_layer({"base": "1"})
    own = store.add_layer({"own": "1"}, public=False, sources=[APP])
    chain = store.publish_chain([base, own])

    assert node.is_pulled(f"{OTHER}:1", *chain) == [True, False]
    assert node.is_pulled(f"{APP}:1", *chain) == [True, True]


def test_a_chain_id_for_a_diff_id_does_not_open_the_layers_below(node, store) -> None:
    """On no parent, a chain ID stands for a whole image: each of its layers counts."""
    secret = store.add_layer({"secret": "1"}, public=False, sources=[APP])
    top = store.add_layer({"top": "1"}, public=False, sources=[OTHER])
    chain = store.publish_chain([secret, top])

    assert node.is_pulled(f"{OTHER}:1", chain[1]) == [False]
    assert node.mounted() == []


def test_a_pull_that_names_no_image_gets_public_layers_only(node, store) -> None:
    (chain_id,) = private(store, "a", sources=[APP])

    assert not node.is_served(chain_id)
    assert not node.is_served(chain_id, IMAGE_REF="")
    assert not node.is_served(chain_id, IMAGE_REF="Not a reference")
    assert "node-setup" in node.snapshotter.log


def test_a_name_counts_only_where_node_set_up_has_verified_who_writes_it(node, store) -> None:
    """Else the image's author may: containerd passes a manifest's annotations on as labels."""
    (chain_id,) = private(store, "a", sources=[APP])
    node.note.unlink()
    assert node.is_pulled(f"{APP}:1", chain_id) == [False]

    node.note.touch()
    assert node.is_pulled(f"{APP}:1", chain_id) == [True]


def test_the_agent_is_served_and_nothing_else_that_says_it_is_the_agent(node, store) -> None:
    one, other = private(store, "a", sources=[]), private(store, "b", sources=[])
    node.note.unlink()
    for forged in ("true", "", node.proof(other[0]), "\u00e9"):
        assert not node.is_served(one[0], AGENT_PROOF=forged)

    assert node.is_served(one[0], AGENT_PROOF=node.proof(one[0]))


def test_the_key_is_roots_and_survives_a_restart(node, store) -> None:
    (chain_id,) = private(store, "a", sources=[])
    path = node.snapshotter.root / layer_requests.AGENT_KEY
    before = node.proof(chain_id)
    node.snapshotter.kill()
    node.snapshotter.start()

    assert path.stat().st_mode & 0o777 == 0o600
    assert node.is_served(chain_id, AGENT_PROOF=before)


def test_what_is_recorded_for_one_is_not_served_to_another(node, store) -> None:
    (chain_id,) = private(store, "a", sources=[APP])
    assert node.is_served(chain_id, AGENT_PROOF=node.proof(chain_id))

    assert node.is_pulled(f"{OTHER}:1", chain_id) == [False]
    assert node.is_pulled(f"{APP}:1", chain_id) == [True]


@pytest.mark.parametrize(
    ("image", "expected"),
    [(f"{APP}:1", True), (f"{APP}:2", True), (f"{APP}@sha256:{'0' * 64}", True), (OTHER, False)],
)
def test_layers_of_an_earlier_version_belong_to_the_images_that_have_them(
    node, store, image, expected
) -> None:
    chain = private(store, "a", "b", sources=None)
    store.add_image(f"{APP}:1", [stores.diff_id_of({name: name}) for name in ("a", "b")])
    store.add_image(f"{OTHER}:1", [digests.sha256(b"another layer")])

    assert node.is_pulled(image, *chain) == [expected, expected]


def test_an_image_record_of_another_repository_proves_nothing(node, store) -> None:
    """As when its file was copied: the record says whose it is."""
    (chain_id,) = private(store, "a", sources=None)
    store.add_image(f"{APP}:1", [chain_id])
    images = store.layout.image_records / "registry.example.com"
    (images / "other" / "app").mkdir(parents=True)
    (images / "other/app/1.json").write_bytes((images / "team/app/1.json").read_bytes())
    (images / "other/app/2.json").write_bytes(b"damaged")

    assert node.is_pulled(f"{OTHER}:1", chain_id) == [False]
    assert node.is_pulled(f"{OTHER}:2", chain_id) == [False]


def test_the_agent_is_served_the_layers_of_a_whole_image_one_by_one_without_the_store(
    node, store
) -> None:
    """An image that is one snapshot becomes a volume: what it has recorded is enough."""
    chain = private(store, "a", "b", "c", sources=[APP])
    assert node.is_served(chain[-1], AGENT_PROOF=node.proof(chain[-1]))
    for path in (store.layout.root / "meta" / "chains").rglob("*.json"):
        path.unlink()

    assert not node.is_served(chain[0], IMAGE_REF=f"{APP}:1")
    parent = ""
    for chain_id in chain[:2]:
        assert node.is_served(chain_id, parent, AGENT_PROOF=node.proof(chain_id))
        (parent,) = (
            info.name
            for info in node.snapshotter.walk().values()
            if info.labels.get(keys.SNAPSHOT_REF) == chain_id and info.kind == 3
        )
    with node.snapshotter.mounted(node.snapshotter.prepare("container", parent)) as root:
        assert sorted(path.name for path in root.iterdir()) == ["a", "b"]


def test_an_image_that_ends_within_another_one_is_served_as_recorded(node, store) -> None:
    chain = private(store, "a", "b", "c", sources=[APP])
    assert node.is_served(chain[-1], AGENT_PROOF=node.proof(chain[-1]))
    for path in (store.layout.root / "meta" / "chains").rglob("*.json"):
        path.unlink()

    assert node.is_served(chain[1], AGENT_PROOF=node.proof(chain[1]))
    whole = next(
        info.name
        for info in node.snapshotter.walk().values()
        if info.labels.get(keys.SNAPSHOT_REF) == chain[1] and info.kind == 3
    )
    with node.snapshotter.mounted(node.snapshotter.prepare("container", whole)) as root:
        assert sorted(path.name for path in root.iterdir()) == ["a", "b"]
