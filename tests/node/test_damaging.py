"""A layer that a node serves is found damaged: who gets what, until it is built again."""

import pathlib
from collections.abc import Iterator

import pytest

from agent.model import images
from agent.store import integrity, layout
from agent.store.lookup import direct_reader
from tests.containerd import conftest as containerds
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

store = containerds.store

IMAGE = "lab/layers2:1"


@pytest.fixture
def node(folder: pathlib.Path, registry, store: pathlib.Path) -> Iterator[conftest.Node]:
    """A node that looks at its layers all the time, on a store of its own."""
    made = conftest.Node(folder / "n", registry, store)
    made.snapshotter.command += ["--damage-seconds", "0.1"]
    made.agent.command += ["--canary-seconds", "0.2"]
    with conftest.running(made, registry) as running:
        running.warm_up()
        running.schedule(running.manifest("pod", IMAGE))
        conftest.wait_until(lambda: running.has(IMAGE))
        yield running


def damage(node: conftest.Node, store: pathlib.Path) -> str:
    """Flip a byte of the image's top layer, and have it found; the layer's diff ID."""
    place = layout.Layout(store)
    reference = images.parse_reference(node.reference(IMAGE))
    record = direct_reader.Reader(place).image(reference)
    assert record is not None
    diff_id = record.platforms[0].layers[-1].diff_id
    with place.layer(diff_id).open("r+b") as file:
        file.seek(-9, 2)
        byte = file.read(1)
        file.seek(-9, 2)
        file.write(bytes([byte[0] ^ 1]))
    assert [each.path for each in integrity.check(place, mark=True)] == [place.layer(diff_id)]
    return diff_id


def contents(node: conftest.Node, pod) -> str:
    code, output = node.client.execute(pod.containers[0], ["ls", "/"])
    assert code == 0, output
    return output


def test_an_image_that_was_not_built_again_is_pulled_and_what_runs_goes_on(node, store) -> None:
    with node.client.pod(node.manifest("pod", IMAGE)) as running:
        diff_id = damage(node, store)
        conftest.wait_until(lambda: not node.has(IMAGE), seconds=60)
        node.schedule(node.manifest("other", IMAGE))
        conftest.wait_until(lambda: diff_id in node.status("other").get("sentence", ""))

        with node.client.pod(node.manifest("next", IMAGE)) as pod:
            assert pod.pulled == [node.reference(IMAGE)]
            assert "layers" in contents(node, pod)
        assert "layers" in contents(node, running)


def test_an_image_that_was_built_again_is_served_and_what_runs_goes_on(
    node, registry, store
) -> None:
    with node.client.pod(node.manifest("pod", IMAGE)) as running:
        damage(node, store)
        containerds.build(store, registry, [IMAGE])
        conftest.wait_until(
            lambda: any("had lost" in str(line.get("outcome")) for line in node.events()),
            seconds=60,
        )
        conftest.wait_until(lambda: node.has(IMAGE))

        assert "layers" in node.run(node.manifest("again", IMAGE), "ls", "/")
        assert "layers" in contents(node, running)
    assert list(integrity.check(layout.Layout(store))) == []
