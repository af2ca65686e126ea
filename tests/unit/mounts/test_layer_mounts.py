"""Which mounted layers count as mounted, with the operations run here instead of in workers."""

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from agent.kits.processes import workers
from agent.mounts import layer_mounts, mountinfo, syscalls
from agent.mounts.devices import layer_files, layer_mounting
from tests.unit.mounts import nodes
from tests.unit.mounts.devices.test_layer_files import mount_in_a_container

pytestmark = pytest.mark.root

NAME = f"sha256:{nodes.HEX}"


class Pool:
    """Runs operations; none of them where it is `silent`."""

    def __init__(self) -> None:
        self.silent = False
        self.called: list[str] = []

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        self.called.append(operation)
        if self.silent:
            raise workers.DeadlineError(operation, deadline)
        return {**layer_files.OPERATIONS, **layer_mounting.OPERATIONS}[operation](*arguments)


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def node(tmp_path) -> Iterator[nodes.Node]:
    """Its store is `store`, a link to the mount `mounts/1`."""
    with contextlib.closing(nodes.Node(tmp_path)) as node:
        (tmp_path / "mounts/1").mkdir(parents=True)
        (tmp_path / "store").rename(tmp_path / "backing")
        syscalls.mount(str(tmp_path / "backing"), str(tmp_path / "mounts/1"), "none", 1 << 12)
        (tmp_path / "store").symlink_to("mounts/1")
        try:
            yield node
        finally:
            node.close()
            for entry in mountinfo.read():
                if entry.target.startswith(f"{tmp_path}/mounts/"):
                    syscalls.unmount(entry.target, syscalls.MNT_DETACH)


def take_over(folder: pathlib.Path) -> None:
    """Have another file system with the same store take over."""
    (folder / "mounts/2").mkdir()
    syscalls.mount("new", str(folder / "mounts/2"), "tmpfs", 0)
    subprocess.run(["cp", "-a", f"{folder}/backing/.", folder / "mounts/2"], check=True)
    (folder / "draft").symlink_to("mounts/2")
    (folder / "draft").rename(folder / "store")


async def adopted(node: nodes.Node, pool: Pool, folder: pathlib.Path) -> layer_mounts.LayerMounts:
    """As after a start of the snapshotter."""
    layers = layer_mounts.LayerMounts(
        node.target.parent,
        pool,
        deadline=9,
        store=folder / "store",
        manner=layer_mounts.Manner(way=layer_mounting.LOOP),
    )
    layers.adopt()
    await layers.identify()
    return layers


async def test_a_layer_that_a_container_has_mounted_which_has_ended_is_taken(
    node, pool, tmp_path
) -> None:
    mount_in_a_container(node, tmp_path / "mounts/1", tmp_path / "mounts/1/sha256/ab" / node.name)
    layers = await adopted(node, pool, tmp_path)

    assert layers.is_mounted(NAME)
    assert await layers.copies([NAME]) == set()
    take_over(tmp_path)
    assert not layers.is_mounted(NAME)


async def test_a_copy_is_never_outdated(node, pool, tmp_path) -> None:
    node.make_copy()
    mount_in_a_container(node, node.copy.parents[3], node.copy)
    layers = await adopted(node, pool, tmp_path)
    take_over(tmp_path)

    assert layers.is_mounted(NAME)
    assert await layers.copies([NAME, "sha256:other"]) == {NAME}


async def test_what_was_switched_to_a_copy_is_not_outdated_and_the_store_s_file_is(
    node, pool, tmp_path
) -> None:
    layers = await adopted(node, pool, tmp_path)
    await layers.ensure(NAME, node.stored, node.size)
    node.make_copy()
    node.switch(node.copy)
    assert await layers.copies([NAME]) == {NAME}
    take_over(tmp_path)
    assert layers.is_mounted(NAME)

    node.switch(tmp_path / "mounts/1/sha256/ab" / node.name)
    again = await adopted(node, pool, tmp_path)
    assert not again.is_mounted(NAME)
    assert await again.copies([NAME]) == set()


async def test_a_layer_whose_file_is_not_known_is_looked_at_when_it_is_used(
    node, pool, tmp_path
) -> None:
    mount_in_a_container(node, tmp_path / "mounts/1", tmp_path / "mounts/1/sha256/ab" / node.name)
    pool.silent = True
    layers = await adopted(node, pool, tmp_path)
    assert not layers.is_mounted(NAME)

    pool.silent = False
    await layers.ensure(NAME, node.stored, node.size)

    assert layers.is_mounted(NAME)
    assert len(node.sources) == 1
