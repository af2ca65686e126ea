"""Folders that are made ahead: never twice, never lost to a cleanup, never waited for."""

import asyncio
import contextlib
import pathlib

import pytest

from agent.snapshotter import overlay_folders, spare_folders


class Parts:
    """A stock of four over real folders."""

    def __init__(self, root: pathlib.Path) -> None:
        self.places = overlay_folders.Folders(root)
        self._ids = overlay_folders.Ids(0)
        self.stock = spare_folders.Stock(self.places, self._ids, size=4, calm=0.01)

    @property
    def owned(self) -> frozenset[int]:
        return self._ids.reserved

    @contextlib.asynccontextmanager
    async def running(self):
        running = asyncio.get_running_loop().create_task(self.stock.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def wait_made(self, number: int) -> None:
        """Return when so many folders were made, and the last of them is in stock."""
        while len(self.places.ids()) < number or len(self.stock._ready) < 4:
            await asyncio.sleep(0.01)


@pytest.fixture
async def parts(tmp_path: pathlib.Path):
    made = Parts(tmp_path)
    yield made
    made.stock.close()


async def test_what_is_taken_has_its_folders_without_a_stock(parts) -> None:
    id_ = await parts.stock.take()

    assert pathlib.Path(parts.places.upper(id_)).is_dir()
    assert pathlib.Path(parts.places.work(id_)).is_dir()
    assert parts.owned == {id_}


async def test_a_stock_is_made_ahead_and_again_when_it_is_low(parts) -> None:
    async with parts.running():
        await parts.wait_made(4)
        taken = [await parts.stock.take() for _ in range(3)]
        await parts.wait_made(7)

    assert taken == [1, 2, 3]
    assert parts.owned == parts.places.ids() == set(range(1, 8))


async def test_more_than_the_stock_are_taken_at_once(parts) -> None:
    async with parts.running():
        await parts.wait_made(4)
        async with asyncio.TaskGroup() as group:
            taking = [group.create_task(parts.stock.take()) for _ in range(50)]

    taken = {task.result() for task in taking}
    assert len(taken) == 50
    assert taken <= parts.places.ids()


async def test_a_full_disk_is_an_error_for_the_one_that_takes(parts, monkeypatch) -> None:
    def full(id_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.places, "make", full)
    async with parts.running():
        with pytest.raises(OSError, match="No space"):
            await parts.stock.take()
        await asyncio.sleep(0.05)

        assert parts.owned == set()
        monkeypatch.undo()
        assert await parts.stock.take() in parts.owned
