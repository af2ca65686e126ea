import asyncio
import contextlib
import pathlib

import pytest

from agent.kits import machine
from agent.model import reports
from agent.node.health import announcement


class Node:
    """The announcer and what the agent knows of its node."""

    def __init__(self) -> None:
        self.known = asyncio.Event()
        self.root = ""
        self.cluster: str | None = None

    async def wait_known(self) -> None:
        await self.known.wait()


@contextlib.asynccontextmanager
async def running(node: Node, *, leaving: bool = False):
    made = announcement.Announcement(node, node, leaving=leaving)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(check) -> None:
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    monkeypatch.setattr(announcement, "_SOON", 0.02)
    monkeypatch.setattr(announcement, "_LATER", 0.02)


async def test_the_file_is_there_once_all_is_known_and_comes_again(tmp_path: pathlib.Path) -> None:
    node = Node()
    file = tmp_path / reports.ANNOUNCED
    async with running(node) as made:
        assert "not announced" in made.missing
        node.root = str(tmp_path)
        node.cluster = "uid-a"
        await asyncio.sleep(0.1)
        assert not file.exists()  # the node object has no annotation yet

        node.known.set()
        await until(file.exists)
        await until(lambda: not made.missing)
        assert reports.decode_announced(file.read_bytes()) == reports.Announced(
            cluster="uid-a", boot=machine.boot_id()
        )

        file.write_bytes(b"{")
        await until(lambda: reports.decode_announced(file.read_bytes()) is not None)
        file.unlink()
        await until(file.exists)


async def test_nothing_is_announced_before_the_cluster_is_known(tmp_path: pathlib.Path) -> None:
    node = Node()
    node.known.set()
    node.root = str(tmp_path)
    async with running(node):
        await asyncio.sleep(0.1)
        assert list(tmp_path.iterdir()) == []
        node.cluster = ""  # a machine that belongs to none
        await until((tmp_path / reports.ANNOUNCED).exists)


async def test_a_node_that_leaves_is_announced_no_more(tmp_path: pathlib.Path) -> None:
    node = Node()
    node.root, node.cluster = str(tmp_path), "uid-a"
    file = tmp_path / reports.ANNOUNCED
    file.write_bytes(b"{}")
    async with running(node, leaving=True):
        await until(lambda: not file.exists())
