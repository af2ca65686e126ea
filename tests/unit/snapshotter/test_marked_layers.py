"""What the agent has found wrong while it copied is not served."""

import os
import pathlib
import time

import pytest

from agent.local import copy_paths, disk
from agent.metrics import registries
from agent.snapshotter import marked_layers

NAME = "ab" * 32


class Node:
    def __init__(self, folder: pathlib.Path) -> None:
        self.where = copy_paths.of(str(folder))
        self.given_up: list[str] = []
        self.marked = marked_layers.MarkedLayers(self.where, self.give_up)

    async def give_up(self, diff_id: str) -> None:
        self.given_up.append(diff_id)

    def mark(self, *, age: float = 0.0) -> None:
        disk.prepare(self.where.folder)
        disk.mark(self.where.folder, NAME, "wrong")
        os.utime(self.where.mark(NAME), (0, time.time() - age))


@pytest.fixture
def node(tmp_path: pathlib.Path) -> Node:
    return Node(tmp_path)


def corrupt() -> float:
    return registries.SNAPSHOTTER.get_sample_value("uimgacc_corrupt_layers_total") or 0.0


async def test_a_marked_layer_is_given_up_once(node) -> None:
    before = corrupt()
    await node.marked.look()
    node.mark(age=10)
    await node.marked.look()
    await node.marked.look()

    assert node.given_up == [f"sha256:{NAME}"]
    assert corrupt() == before + 1


async def test_one_that_is_marked_again_is_given_up_again(node) -> None:
    node.mark(age=10)
    await node.marked.look()
    node.mark()
    await node.marked.look()

    assert node.given_up == [f"sha256:{NAME}"] * 2


async def test_a_mark_counts_for_an_hour(node) -> None:
    node.mark(age=3700)
    await node.marked.look()

    assert node.given_up == []


async def test_a_copy_that_is_there_is_right(node) -> None:
    node.mark()
    path = pathlib.Path(node.where.layer(NAME))
    path.parent.mkdir()
    path.write_bytes(b"copy")
    await node.marked.look()

    assert node.given_up == []
