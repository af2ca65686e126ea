"""A node comes to have copies of what runs on it, and gives them back, under running containers."""

import asyncio
import dataclasses
import errno
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.kits.processes import workers
from agent.local import copy_marks, disk
from agent.metrics import registries
from agent.model import pods, records
from agent.mounts.devices import layer_mounting
from agent.node.near import copies, copy_records, copy_view, layer_copy, starts
from agent.node.pods import served_pods
from agent.store import layout
from tests.unit.node.near import worlds

pytestmark = pytest.mark.root


@pytest.fixture
def world(tmp_path: pathlib.Path, monkeypatch) -> Iterator[worlds.World]:
    monkeypatch.setattr(starts, "_CALM_SECONDS", 0.0)
    with worlds.world(tmp_path) as world:
        yield world


class Failing:
    """Workers of which an operation fails; `error` is what it raises, None: nothing."""

    def __init__(self, pool: workers.Pool, operation: str, error: Exception | None) -> None:
        self.pool = pool
        self.operation = operation
        self.error = error
        self.calls: list[str] = []

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        self.calls.append(operation)
        if operation == self.operation and self.error is not None:
            raise self.error
        return await self.pool.call(operation, *arguments, deadline=deadline)


@pytest.fixture
async def pool():
    async with workers.Pool("agent.local.copy_worker", name="the test", size=1) as pool:
        yield pool


def value(name: str, **labels: str) -> float:
    return registries.AGENT.get_sample_value(name, labels) or 0.0


def failures(reason: str) -> float:
    return value("uimgacc_local_failures_total", reason=reason)


async def test_what_a_container_stands_on_is_copied_and_read_from_the_copy(world) -> None:
    name = world.add("a")
    world.start(name)
    async with world.keeper() as keeper:
        sentence = await world.settle(keeper)

        assert sentence == "All layers in use have local copies."
        assert world.reads_copy(name)
        assert keeper.state.used_store == 0
        assert keeper.state.size >= keeper.state.used_local > 1 << 20
    assert world.content(name) == world.expected(name)


async def test_what_is_only_mounted_is_not_copied(world) -> None:
    world.mount(world.add("a"))
    async with world.keeper() as keeper:
        assert await world.settle(keeper) == "No layer is in use."
    assert not world.has_copy("a" * 64)


async def test_nothing_is_copied_while_pods_start(world, monkeypatch) -> None:
    name = world.add("a")
    world.start(name)
    monkeypatch.setattr(starts, "_CALM_SECONDS", 1000.0)
    async with world.keeper() as keeper:
        assert await world.settle(keeper) == "Copying waits until no pod is starting."
        assert not world.has_copy(name)

        monkeypatch.setattr(starts, "_PATIENCE_SECONDS", 0.0)
        await world.settle(keeper)
    assert world.has_copy(name)


async def test_while_pods_start_not_even_mounts_are_looked_at(world, pool, monkeypatch) -> None:
    """That takes a process, and processor time that a start needs."""
    monkeypatch.setattr(starts, "_CALM_SECONDS", 1000.0)
    watched = Failing(pool, "", None)
    async with world.keeper(watched) as keeper:
        await keeper.step()
        world.start(world.add("a"))
        watched.calls.clear()
        assert await keeper.step() == "Copying waits until no pod is starting."
        assert watched.calls == []

        monkeypatch.setattr(starts, "_CALM_SECONDS", 0.0)
        await keeper.step()
        await keeper.step()
    assert world.reads_copy("a" * 64)


async def test_a_node_that_copies_before_starts_does_so_while_pods_start(
    world, monkeypatch
) -> None:
    """Also for a container of which no pod says anything."""
    monkeypatch.setattr(starts, "_CALM_SECONDS", 1000.0)
    world.limits = dataclasses.replace(world.limits, mode="before-start")
    async with world.keeper() as keeper:
        await keeper.step()
        world.start(world.add("a"))
        await keeper.step()
        while keeper.has_more:
            await keeper.step()
    assert world.reads_copy("a" * 64)


async def test_a_pod_ends_the_wait_for_the_next_look() -> None:
    known = served_pods.ServedPods()
    looked = starts.Starts(known)
    known.add("a", served_pods.Served(pods.Pod(namespace="default", name="a")))
    async with asyncio.timeout(5):
        await looked.wait(1000.0)


async def test_before_a_start_is_copied_what_no_container_stands_on_yet(world, monkeypatch) -> None:
    name = world.add("a")
    monkeypatch.setattr(starts, "_CALM_SECONDS", 1000.0)
    world.wishes.modes[f"sha256:{name}"] = "before-start"
    async with world.keeper() as keeper:
        await world.settle(keeper)
    assert world.has_copy(name)


async def test_a_layer_that_is_to_have_no_copy_has_none(world) -> None:
    name = world.add("a")
    world.start(name)
    world.wishes.modes[f"sha256:{name}"] = "off"
    async with world.keeper() as keeper:
        assert await world.settle(keeper) == "Some layers in use are read from the store."
    assert not world.has_copy(name)


async def test_an_agent_that_was_killed_before_the_switch_switches_after_its_start(world) -> None:
    name = world.add("a")
    world.start(name)
    world.wishes.modes[f"sha256:{name}"] = "before-start"
    async with world.keeper() as keeper:
        await keeper.step()
        assert world.has_copy(name)
        assert not world.reads_copy(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
    assert world.reads_copy(name)


async def test_a_second_agent_keeps_out(world) -> None:
    name = world.add("a")
    world.start(name)
    async with world.keeper() as first, world.keeper() as second:
        await first.step()
        assert await world.settle(second) == "Another agent of this node keeps the local copies."
        first.close()
        await world.settle(second)
    assert world.has_copy(name)


async def test_wrong_bytes_are_not_used_and_the_layer_is_marked(world) -> None:
    name = world.add("a")
    with world.stored(name).open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"x")
    world.start(name)
    before = failures("wrong_bytes")
    async with world.keeper() as keeper:
        sentence = await world.settle(keeper)

        assert "are not those of its record" in pathlib.Path(world.where.mark(name)).read_text()
        assert sentence == "Some layers in use are read from the store."
    assert failures("wrong_bytes") == before + 1
    assert not world.has_copy(name)
    assert os.listdir(world.where.tmp) == []


async def test_a_hash_tree_in_a_file_of_its_own_is_copied_before_the_layer(world) -> None:
    name = world.add("a")
    tree = world.add_tree(name)
    world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
        assert pathlib.Path(world.where.tree(name)).read_bytes() == tree
        assert keeper.state.size == world.stored(name).stat().st_size + len(tree)
    assert world.reads_copy(name)


async def test_a_wrong_hash_tree_is_as_a_wrong_layer(world) -> None:
    name = world.add("a")
    world.add_tree(name)
    world.files.layer_tree(f"sha256:{name}").write_bytes(bytes(9000))
    world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
    assert os.path.exists(world.where.mark(name))
    assert not world.has_copy(name)


async def test_a_draft_that_was_spoilt_is_not_held_against_the_store(world) -> None:
    name = world.add("a", size=3 << 20)
    world.start(name)
    async with world.keeper() as keeper:
        await keeper._call("prepare", world.where.folder)
        pathlib.Path(world.where.draft(name)).write_bytes(bytes(2 << 20))
        await world.settle(keeper)
    assert world.reads_copy(name)
    assert not os.path.exists(world.where.mark(name))


async def test_what_fits_is_copied_and_what_does_not_is_said(world) -> None:
    small, large = world.add("a"), world.add("b", size=5 << 20)
    world.start(small)
    world.start(large)
    world.limits = dataclasses.replace(world.limits, taken="3Mi")
    async with world.keeper() as keeper:
        sentence = await world.settle(keeper)

    assert sentence.startswith("1 layer has no room: local copies may take 3.0 MiB")
    assert (world.has_copy(small), world.has_copy(large)) == (True, False)


async def test_the_least_recently_used_goes_for_what_runs_now(world) -> None:
    old, older, new = world.add("a"), world.add("b"), world.add("c")
    for name in (old, older):
        world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
        for name, age in ((old, 4000), (older, 5000)):
            world.end(name)
            os.utime(world.where.layer(name), (0, time.time() - age))
        world.start(new)
        keeper._limits = dataclasses.replace(world.limits, taken="3Mi")
        await world.settle(keeper)

    assert [world.has_copy(name) for name in (old, older, new)] == [True, False, True]


async def test_under_pressure_containers_are_switched_back_and_go_on(world) -> None:
    name = world.add("a")
    world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
        keeper._limits = dataclasses.replace(world.limits, free="100%")
        sentence = await world.settle(keeper)

        assert "nothing is copied, copies are removed" in sentence
        assert not world.has_copy(name)
        keeper._limits = world.limits
        await world.settle(keeper)
    # It is not made again at once, and the container reads on from the store.
    assert not world.has_copy(name)
    assert world.content(name) == world.expected(name)


async def test_a_copy_that_containers_read_stays_while_the_store_is_away(world) -> None:
    name = world.add("a")
    world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
        world.store.away = True
        keeper._known._known.clear()
        keeper._limits = dataclasses.replace(world.limits, free="100%")
        for _ in range(3):
            keeper.look_now()
            await keeper.step()
    assert world.reads_copy(name)


async def test_a_copy_that_nothing_reads_goes_while_the_store_is_away(world) -> None:
    name = world.add("a")
    world.wishes.modes[f"sha256:{name}"] = "before-start"
    async with world.keeper() as keeper:
        await world.settle(keeper)
        world.store.away = True
        keeper._limits = dataclasses.replace(world.limits, free="100%")
        await keeper.step()
    assert not world.has_copy(name)


async def test_what_the_store_has_deleted_goes_with_its_last_container(world, monkeypatch) -> None:
    monkeypatch.setattr(copy_records, "_FRESH_SECONDS", 0.0)
    name = world.add("a")
    world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
        world.store.records.clear()
        world.store.deletions += 1
        world.stored(name).unlink()
        await world.settle(keeper)
        assert world.reads_copy(name)
        assert world.content(name) == world.expected(name)

        world.end(name)
        await world.settle(keeper)
    assert not world.has_copy(name)


async def test_a_switch_is_seen_at_the_next_look_not_a_minute_later(world, monkeypatch) -> None:
    monkeypatch.setattr(copies, "_SWITCHED_SECONDS", 0.0)
    name = world.add("a")
    world.start(name)
    async with world.keeper() as keeper:
        await keeper.step()
        while keeper.has_more:
            await keeper.step()

        assert world.reads_copy(name)
        assert (keeper.state.used_store, keeper.state.used_local > 0) == (0, True)


async def test_a_layer_that_is_wished_no_more_gives_way_within_one_slice(
    world, pool, monkeypatch
) -> None:
    """So are those of warm images, when a pod appears."""
    monkeypatch.setattr(starts, "_CALM_SECONDS", 1e9)
    name = world.add("a", size=4 << 20)
    world.wishes.modes[f"sha256:{name}"] = "before-start"

    class Pod(Failing):
        async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
            if operation == "more":
                world.wishes.modes.clear()
            return await super().call(operation, *arguments, deadline=deadline)

    failing = Pod(pool, "", None)
    async with world.keeper(failing) as keeper:
        keeper._copier._rate = 1 << 20
        keeper.look_now()
        await keeper.step()

    assert failing.calls.count("more") == 1
    assert not world.has_copy(name)


async def test_a_mirrored_record_stays_as_it_was_signed(world) -> None:
    name = world.add("a")
    mirrored = records.encode(world.store.records[f"sha256:{name}"])
    path = pathlib.Path(world.where.record(name))
    path.parent.mkdir(parents=True)
    path.write_bytes(mirrored)
    world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)

    assert world.has_copy(name)
    assert path.read_bytes() == mirrored


@pytest.mark.parametrize(("mode", "is_copied"), [("off", False), ("before-start", True)])
async def test_what_is_wished_of_a_layer_holds_for_the_variant_in_its_place(
    world, mode, is_copied
) -> None:
    """Pods and caches name layers as their images do."""
    name, real = world.add("b"), world.add("a")
    if mode == "off":
        world.start(name)
    chain = records.ChainRecord(diff_id=f"sha256:{name}", parent=None, variant_of=f"sha256:{real}")
    path = layout.Layout(pathlib.Path(world.where.folder)).chain_record(f"sha256:{real}")
    path.parent.mkdir(parents=True)
    path.write_bytes(records.encode(chain))
    world.wishes.modes[f"sha256:{real}"] = mode
    async with world.keeper() as keeper:
        await world.settle(keeper)

    assert world.has_copy(name) is is_copied
    assert not world.has_copy(real)


async def test_a_store_that_deletes_nothing_is_not_asked_for_each_copy(world, monkeypatch) -> None:
    monkeypatch.setattr(copy_records, "_FRESH_SECONDS", 0.0)
    name = world.add("a")
    world.wishes.modes[f"sha256:{name}"] = "before-start"
    async with world.keeper() as keeper:
        await world.settle(keeper)
        asked = world.store.asked
        await world.settle(keeper)
        none = world.store.asked - asked
        world.store.deletions += 1
        await world.settle(keeper)

    assert none == 0
    assert world.store.asked == asked + 1


async def test_a_copy_that_outlives_its_layer_is_kept_for_its_container(world) -> None:
    """Marked before the copy would be given back, or while that is done."""
    name = world.add("a")
    world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
        copy_marks.keep(str(world.root), [f"sha256:{name}"])
        keeper._limits = dataclasses.replace(world.limits, taken="0")
        await world.settle(keeper)
        kept = world.reads_copy(name)
        seen = copy_view.View.of(*await keeper._call("survey", world.root))
        await keeper._evict(world.where, seen, name, "pressure")
        assert kept
        assert world.reads_copy(name)

        world.end(name)
        await world.settle(keeper)
    assert not world.has_copy(name)
    assert disk.outliving(world.where.folder) == []


async def test_a_store_that_is_away_has_deleted_nothing(world, monkeypatch) -> None:
    """Nor has another one that is mounted in its place while it is asked."""
    monkeypatch.setattr(copy_records, "_FRESH_SECONDS", 0.0)
    name = world.add("a")
    world.wishes.modes[f"sha256:{name}"] = "before-start"
    async with world.keeper() as keeper:
        await world.settle(keeper)
        world.store.away = True
        await world.settle(keeper)
        assert world.has_copy(name)


async def test_another_layer_of_the_same_name_is_never_put_behind_a_mount(world) -> None:
    """Another store may have the same layer with other bytes."""
    name = world.add("a")
    world.start(name)
    world.wishes.modes[f"sha256:{name}"] = "before-start"
    async with world.keeper() as keeper:
        await keeper.step()
        record = world.store.records[f"sha256:{name}"]
        other = f"sha256:{'0' * 64}"
        world.store.records[f"sha256:{name}"] = type(record)(
            **{field: getattr(record, field) for field in record.__struct_fields__}
            | {"sha256": other}
        )
        keeper._known._known.clear()
        await world.settle(keeper)
    assert not world.reads_copy(name)


async def test_a_mount_without_a_loop_device_stays_with_the_store(world) -> None:
    name = world.add("a")
    world.mount(name, layer_mounting.STORED)
    world.start(name)
    async with world.keeper() as keeper:
        sentence = await world.settle(keeper)
    assert sentence == "Some layers in use are read from the store."
    assert world.content(name) == world.expected(name)


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "disk_full"), (errno.EIO, "disk_error")]
)
async def test_a_disk_that_fails_is_left_alone_for_a_while(world, pool, number, reason) -> None:
    name = world.add("a")
    world.start(name)
    draft = world.where.draft(name)
    failing = Failing(pool, "more", OSError(number, os.strerror(number), draft))
    before = failures(reason)
    async with world.keeper(failing) as keeper:
        sentence = await world.settle(keeper)
        assert sentence.startswith("Nothing is copied for now")
        assert not os.path.exists(draft)
        failing.error = None
        failing.calls.clear()
        await world.settle(keeper)
        assert failing.calls == []

        keeper._pauses.end("disk")
        await world.settle(keeper)
    assert failures(reason) == before + 1
    assert world.reads_copy(name)


async def test_a_store_that_hangs_is_left_alone_and_the_draft_gone_on_with(world, pool) -> None:
    name = world.add("a")
    world.start(name)
    failing = Failing(pool, "more", workers.DeadlineError("more", 20.0))
    async with world.keeper(failing) as keeper:
        await world.settle(keeper)
        assert os.path.exists(world.where.draft(name))
        failing.error = None
        await world.settle(keeper)
        assert not world.has_copy(name)

        keeper._pauses.end("store")
        await world.settle(keeper)
    assert world.reads_copy(name)


async def test_a_worker_that_hangs_at_the_store_is_killed(world, monkeypatch) -> None:
    monkeypatch.setattr(layer_copy, "_HANG_SECONDS", 0.3)
    name = world.add("a")
    world.start(name)
    sound = world.stored(name).read_bytes()
    world.stored(name).unlink()
    os.mkfifo(world.stored(name))  # whose opening waits for a writer, as for a server
    before = failures("store_deadline")
    async with world.keeper() as keeper:
        assert "begin did not answer within 0.3 s" in await world.settle(keeper)
        world.stored(name).unlink()
        world.stored(name).write_bytes(sound)
        keeper._pauses.end("store")
        await world.settle(keeper)
    assert failures("store_deadline") == before + 1
    assert world.reads_copy(name)


async def test_what_a_look_that_failed_was_for_is_done_when_its_pause_ends(world, pool) -> None:
    """A busy machine's survey misses its deadline; nothing changes any more until the next one."""
    failing = Failing(pool, "survey", None)
    name = world.add("a")
    async with world.keeper(failing) as keeper:
        await world.settle(keeper)
        failing.error = workers.DeadlineError("survey", 10.0)
        world.start(name)
        assert (await keeper.step()).startswith("There are no local copies: ")
        failing.error = None
        keeper._pauses.end("look")
        while await keeper.step() and keeper.has_more:
            pass
    assert world.reads_copy(name)


async def test_a_store_that_did_not_answer_is_asked_when_its_pause_ends(world, monkeypatch) -> None:
    """Not at the next look that is due anyway, a minute later."""
    monkeypatch.setattr(copies, "_STUCK_SECONDS", math.inf)
    world.start(world.add("a"))
    world.store.away = True
    async with world.keeper() as keeper:
        await keeper.step()
        assert keeper._look_at == keeper._pauses.next_end < math.inf


async def test_a_worker_that_was_ended_is_no_failure(world, pool) -> None:
    name = world.add("a")
    world.start(name)
    stale = OSError(errno.ESTALE, "another worker", world.where.draft(name))
    failing = Failing(pool, "more", stale)
    async with world.keeper(failing) as keeper:
        await keeper.step()
        failing.error = None
        await world.settle(keeper)
    assert world.reads_copy(name)


async def test_a_folder_that_cannot_be_written_changes_nothing_else(world, monkeypatch) -> None:
    name = world.add("a")
    world.start(name)
    pathlib.Path(world.where.folder).write_text("no folder")
    async with world.keeper() as keeper:
        assert (await world.settle(keeper)).startswith("There are no local copies: ")
        assert keeper._pauses.holds("look")
    assert world.content(name) == world.expected(name)


async def test_a_folder_that_somebody_has_removed_is_made_again(world) -> None:
    name = world.add("a")
    world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
        shutil.rmtree(world.where.folder)
        await world.settle(keeper)
        keeper._pauses.end("look")
        await world.settle(keeper)
    assert world.reads_copy(name)
    assert world.content(name) == world.expected(name)


async def test_the_time_to_independence_is_observed_once(world) -> None:
    name = world.add("a")
    world.start(name)
    before = value("uimgacc_local_independent_seconds_count")
    async with world.keeper() as keeper:
        await world.settle(keeper)
        await world.settle(keeper)
    assert value("uimgacc_local_independent_seconds_count") == before + 1
    assert value("uimgacc_used_layer_bytes", source="store") == 0
    assert copies.State().used_store == 0
