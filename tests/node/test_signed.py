"""A node that has keys, with a real containerd: what a writer of the store can do to its pods."""

import json
import pathlib
from collections.abc import Iterator

import msgspec
import pytest

from agent.model import images, records
from agent.store import layout, signing_keys
from agent.store.lookup import direct_reader
from tests.containerd import conftest as containerds
from tests.node import conftest
from tests.unit.store import signing

pytestmark = [pytest.mark.root, pytest.mark.containerd]

store = containerds.store

IMAGE, OTHER = "lab/layers2:1", "lab/layers40:1"


@pytest.fixture
def node(folder: pathlib.Path, registry, store: pathlib.Path) -> Iterator[conftest.Node]:
    """A node with the key by which its store, which the test may change, is signed."""
    place, key = layout.Layout(store), signing_keys.generate()
    signing.sign(place, key)
    signing.keys(place, key, folder / "keys")
    made = conftest.Node(folder / "n", registry, store)
    for process in (made.snapshotter, made.agent):
        process.command += ["--trusted-keys", str(folder / "keys")]
    with conftest.running(made, registry) as running:
        running.warm_up()
        yield running


def image_of(node: conftest.Node, store: pathlib.Path, name: str) -> records.ImageRecord:
    record = direct_reader.Reader(layout.Layout(store)).image(
        images.parse_reference(node.reference(name))
    )
    assert record is not None
    return record


def refused(node: conftest.Node) -> set[str]:
    """The kinds of the records that snapshotter and agent did not use."""
    lines = [
        json.loads(line)
        for process in (node.snapshotter, node.agent)
        for line in process.errors.read_text().splitlines()
        if line.startswith("{") and "no signature that counts" in line
    ]
    return {line["kind"] for line in lines}


def test_what_is_signed_is_served(node, registry) -> None:
    mark = registry.mark()
    node.schedule(node.manifest("pod", IMAGE))
    conftest.wait_until(lambda: node.has(IMAGE))

    assert "layers" in node.run(node.manifest("pod", IMAGE), "ls", "/")
    assert registry.layer_gets(mark) == []
    assert refused(node) == set()


def test_a_chain_that_names_another_layer_is_not_served(node, registry, store) -> None:
    """The other layer is signed, too: the attacker exchanges what runs, with sound files only."""
    place = layout.Layout(store)
    own, other = (image_of(node, store, name).platforms[0].layers[-1] for name in (IMAGE, OTHER))
    chain = direct_reader.Reader(place).chain(own.chain_id)
    assert chain is not None
    forged = msgspec.structs.replace(chain, diff_id=other.diff_id, variant_of=own.diff_id)
    place.chain_record(own.chain_id).write_bytes(records.encode(forged))

    mark = registry.mark()
    with node.client.pod(node.manifest("pod", IMAGE)) as pod:
        code, output = node.client.execute(pod.containers[0], ["ls", "/"])
    assert code == 0, output
    assert "layers" in output
    assert len(registry.layer_gets(mark)) > 0
    assert refused(node) == {"chain"}


def test_a_tag_that_stands_for_another_image_is_not_registered(node, store) -> None:
    place = layout.Layout(store)
    reference = images.parse_reference(node.reference(IMAGE))
    other = image_of(node, store, OTHER)
    forged = msgspec.structs.replace(other, ref=str(reference))
    place.image_record(reference).write_bytes(records.encode(forged))

    node.schedule(node.manifest("pod", IMAGE))
    conftest.wait_until(lambda: "not signed" in node.status("pod").get("sentence", ""))
    assert not node.has(IMAGE)
    assert "layers" in _contents(node)
    assert "image" in refused(node)


def _contents(node: conftest.Node) -> str:
    with node.client.pod(node.manifest("pod", IMAGE)) as pod:
        assert pod.pulled == [node.reference(IMAGE)]
        code, output = node.client.execute(pod.containers[0], ["ls", "/"])
    assert code == 0, output
    return output
