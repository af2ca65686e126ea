"""A layer of which wrong bytes were seen is not served for a while, and named once."""

import asyncio
import logging

from agent.metrics import snapshotter_metrics
from agent.mounts import verification
from tests.unit.store import making

LAYER = making.digest("layer")


class Pool:
    """Names the layers that devices have seen wrong bytes of, as a worker does."""

    def __init__(self, *names: str, fails: bool = False) -> None:
        self.names = names
        self.fails = fails
        self.calls: list[str] = []

    async def call(self, operation: str, *arguments, deadline: float):
        self.calls.append(operation)
        if self.fails:
            raise FileNotFoundError(2, "No such file or directory", "/dev/mapper/control")
        return list(self.names)


def made(pool: Pool, tmp_path) -> verification.Verification:
    return verification.Verification(tmp_path, pool, deadline=1)


async def watch(verified: verification.Verification, rounds: int) -> list[str]:
    """The layers that were handed on in so many looks at the devices."""
    given: list[str] = []

    async def give_up(diff_id: str) -> None:
        given.append(diff_id)

    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(verified.watch(0, give_up))
            for _ in range(3 * rounds):
                await asyncio.sleep(0)
            task.cancel()
    return given


async def test_a_layer_that_failed_is_counted_named_and_given_up_once(tmp_path, caplog) -> None:
    verified = made(Pool(f"{LAYER.removeprefix('sha256:')}.erofs"), tmp_path)
    before = snapshotter_metrics.CORRUPT_LAYERS._value.get()
    assert not verified.is_corrupt(LAYER)

    given = await watch(verified, 5)

    assert given == [LAYER]
    assert verified.is_corrupt(LAYER)
    assert snapshotter_metrics.CORRUPT_LAYERS._value.get() == before + 1
    assert [getattr(record, "layer", "") for record in caplog.records] == [LAYER]


async def test_it_is_tried_again_an_hour_after_it_was_last_seen(tmp_path, monkeypatch) -> None:
    verified = made(Pool(), tmp_path)
    assert verified.note(LAYER)
    assert not verified.note(LAYER)

    monkeypatch.setattr(verification, "_REFUSED_SECONDS", 0.0)

    assert not verified.is_corrupt(LAYER)
    assert verified.note(LAYER)


async def test_a_look_that_fails_is_logged_and_made_again(tmp_path, caplog) -> None:
    pool = Pool(fails=True)

    assert await watch(made(pool, tmp_path), 4) == []
    assert len(pool.calls) > 1
    assert "not looked at" in caplog.text


async def test_a_node_that_cannot_verify_says_so_at_the_start(tmp_path, caplog) -> None:
    await made(Pool(fails=True), tmp_path).prepare()

    assert "modprobe dm_verity" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR
