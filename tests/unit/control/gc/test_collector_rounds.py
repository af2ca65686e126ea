"""The collector's rounds, with real workers on a real store and time that is not."""

import asyncio
import pathlib

import pytest

from agent import errors
from agent.control.gc import collector_rounds, collector_worker, roster
from agent.kits.processes import workers
from agent.store import layout
from agent.store.gc import generations
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from tests.unit.store import making

SETTLE = 180.0


class Cluster:
    """Nodes as the API server would list them."""

    def __init__(self) -> None:
        self.nodes: dict[str, roster.Node] = {}
        self.problem = ""

    async def list_nodes(self) -> list[roster.Node]:
        if self.problem:
            raise errors.TemporaryError(self.problem)
        return list(self.nodes.values())

    def says(self, name: str, acknowledged: int | None, *held: str) -> None:
        self.nodes[name] = roster.Node(name, acknowledged, held)


class DirectPool:
    """Runs operations in this process: for tests in which time is not real."""

    async def call(self, operation, *arguments, deadline):
        return collector_worker.OPERATIONS[operation](*arguments)


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    place = making.store(tmp_path / "store")
    making.cache(place, "imc-one", making.image(place, "one"))
    return place


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def collector(place, cluster) -> collector_rounds.Collector:
    return collector_rounds.Collector(
        collector_rounds.Where(str(place.root), ""), DirectPool(), cluster
    )


async def rounds(
    collector: collector_rounds.Collector, count: int, *, pause: float = SETTLE
) -> str:
    sentence = ""
    for _ in range(count):
        sentence = await collector.round()
        await asyncio.sleep(pause)
    return sentence


pytestmark = pytest.mark.looptime


async def test_a_deleted_cache_goes_when_the_nodes_have_let_go(place, cluster, collector) -> None:
    cluster.says("a", 0)
    cluster.says("b", 0, f"imc-one/{making.digest('one')}: ns/pod")
    writer.delete_cache(place, "imc-one")

    sentence = await rounds(collector, 4)

    assert "2 of 2 nodes still hold layers of the first, 1" in sentence
    assert collector.holders("imc-one").endswith("held by pod ns/pod on b.")
    cluster.says("b", 0)
    cluster.says("a", 1)
    await rounds(collector, 2)
    assert collector.holders("imc-one").endswith("waiting for b.")
    assert place.layer(making.digest("one")).exists()
    cluster.says("b", 1)
    sentence = await rounds(collector, 2)
    assert sentence.startswith("1 layers were deleted")
    assert (collector.holders("imc-one"), await collector.round()) == (
        "",
        "Nothing is to be deleted.",
    )
    assert not place.layer(making.digest("one")).exists()


async def test_nothing_is_decided_before_it_has_settled(place, cluster, collector) -> None:
    writer.delete_cache(place, "imc-one")

    await rounds(collector, 10, pause=SETTLE / 20)

    assert generations.outstanding(place).phases == {}


async def test_a_round_that_fails_begins_all_waiting_anew(place, cluster, collector) -> None:
    making.cache(place, "imc-two", making.image(place, "two", ref="r.io/two:1"))
    writer.delete_cache(place, "imc-one")
    await rounds(collector, 1)
    cache = place.cache_record("imc-two")
    content = cache.read_bytes()
    cache.write_bytes(b"{")

    assert "is damaged" in await collector.round()

    cache.write_bytes(content)
    await rounds(collector, 1)
    assert generations.outstanding(place).phases == {}
    await rounds(collector, 1)
    assert list(generations.outstanding(place).phases) == [1]


async def test_a_node_that_is_gone_is_waited_for_by_a_new_collector_too(place, cluster) -> None:
    now = [1000.0]

    def collector() -> collector_rounds.Collector:
        return collector_rounds.Collector(
            collector_rounds.Where(str(place.root), ""),
            DirectPool(),
            cluster,
            wall_clock=lambda: now[0],
        )

    cluster.says("gone", 0)
    await collector().round()
    cluster.nodes.clear()
    writer.delete_cache(place, "imc-one")

    await rounds(collector(), 6)

    assert place.layer(making.digest("one")).exists()
    now[0] += 86_401
    await rounds(collector(), 6)
    assert not place.layer(making.digest("one")).exists()


async def test_a_damaged_roster_is_doubt(place, cluster, collector) -> None:
    writer.delete_cache(place, "imc-one")
    place.nodes_record.write_bytes(b'{"nodes": {"a": {}}}')

    assert "nodes.json is damaged" in await rounds(collector, 4)
    assert place.layer(making.digest("one")).exists()


async def test_the_service_goes_on_after_failures(place, cluster, collector) -> None:
    writer.delete_cache(place, "imc-one")
    cluster.problem = "no API server"
    service = asyncio.get_running_loop().create_task(collector.run())
    await asyncio.sleep(100)
    said = collector.state.sentence
    cluster.problem = ""

    await asyncio.sleep(3 * SETTLE + 100)

    service.cancel()
    assert said == "Nothing was deleted: no API server"
    assert direct_reader.Reader(place).layer(making.digest("one")) is None


async def test_once_an_hour_everything_is_gone_through(place, cluster, collector) -> None:
    await rounds(collector, 2)
    stray = making.layer(place, "stray")

    await rounds(collector, 10, pause=60.0)
    quiet = generations.outstanding(place).pending
    await rounds(collector, 60, pause=60.0)

    assert quiet == ()
    assert direct_reader.Reader(place).layer(stray.diff_id) is None


@pytest.mark.looptime(False)
async def test_with_real_workers(place, cluster) -> None:
    writer.delete_cache(place, "imc-one")
    patience = collector_rounds.Patience(settle=0.0, interval=0.0, deadline=60.0)
    async with workers.Pool(
        "agent.control.gc.collector_worker", name="the collector", size=1, packages=True
    ) as pool:
        collector = collector_rounds.Collector(
            collector_rounds.Where(str(place.root), ""), pool, cluster, patience=patience
        )
        for _ in range(4):
            await collector.round()

    assert not place.layer(making.digest("one")).exists()


def test_the_owner_is_looked_at_only_when_no_one_else_can_change_it(place) -> None:
    arguments = (str(place.root), [], {"cluster": "another"}, {})
    with generations.locked(place):
        busy = collector_worker.collect(*arguments)
    refused = collector_worker.collect(*arguments)

    assert busy[0] == collector_worker.BUSY
    assert refused[0] == collector_worker.REFUSED
