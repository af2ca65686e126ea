"""The table of pulls: sums by image and time, within its bounds."""

import asyncio
import datetime

import msgspec
import pytest

from agent.control.pulls import pull_events, pull_table
from agent.kits.aio import slices

NOW = datetime.datetime(2026, 3, 8, 12, 30, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)
MIB = 1 << 20


def pull(image: str = "r/app:1", seconds: float = 10.0, **more: object) -> pull_events.Pull:
    fields: dict[str, object] = {"namespace": "team", "pod": "p", "node": "n1", "when": NOW} | more
    return pull_events.Pull(image=image, seconds=seconds, **fields)  # type: ignore[arg-type]


def table_of(*pulls: pull_events.Pull, most: int = 100) -> pull_table.PullTable:
    table = pull_table.PullTable(most=most)
    for each in pulls:
        table.add(each, NOW)
    return table


def test_the_image_that_took_most_is_first() -> None:
    costs = table_of(
        pull("r/small:1", 3.0),
        pull("r/app:1", 10.0, size=100 * MIB, node="n1"),
        pull("r/app:1", 30.0, size=100 * MIB, node="n2", pod="q", namespace="other"),
        pull("r/app:1", 20.0, size=100 * MIB, node="n3"),
    ).costs(NOW - DAY, NOW)

    first, second = costs.images
    assert (first.image, first.pulls, first.downloads, first.nodes) == ("r/app:1", 3, 3, 3)
    assert (first.seconds, first.typical, first.downloaded) == (60.0, 20.0, 300 * MIB)
    assert first.pods == {"other": "q", "team": "p"}
    assert second.image == "r/small:1"
    assert (costs.pulls, costs.seconds) == (4, 63.0)
    assert costs.share(first) == pytest.approx(60 / 63)


def test_a_pull_that_only_asked_the_registry_downloads_nothing() -> None:
    """With imagePullPolicy Always, of a large image that the node has."""
    (cost,) = (
        table_of(
            pull(seconds=40.0, size=2000 * MIB),
            pull(seconds=0.4, size=2000 * MIB, times=5),
            pull(seconds=2.0, size=2000 * MIB),
        )
        .costs(NOW - DAY, NOW)
        .images
    )

    assert (cost.pulls, cost.downloads, cost.downloaded) == (7, 1, 2000 * MIB)
    assert cost.seconds == pytest.approx(44.0)
    assert cost.typical == 40.0


def test_only_the_time_that_is_asked_for_counts() -> None:
    table = table_of(
        pull(seconds=1.0, when=NOW - 6 * DAY),
        pull(seconds=2.0, when=NOW - 60 * HOUR),
        pull(seconds=4.0, when=NOW - 20 * HOUR),
        pull(seconds=8.0, when=NOW),
    )

    assert table.costs(NOW - HOUR, NOW).seconds == 8.0
    assert table.costs(NOW - DAY, NOW).seconds == 12.0
    assert table.costs(NOW - 2 * DAY, NOW).seconds == 12.0
    assert table.costs(NOW - 3 * DAY, NOW).seconds == 14.0
    assert table.costs(NOW - 7 * DAY, NOW).seconds == 15.0
    assert table.costs(NOW - 7 * DAY, NOW).since == (NOW - 6 * DAY).replace(minute=0)


def test_what_is_older_than_a_week_goes() -> None:
    table = table_of(pull("r/old:1"), pull("r/app:1"))
    table.add(pull("r/app:1", when=NOW + 9 * DAY), NOW + 9 * DAY)

    costs = table.costs(NOW - 30 * DAY, NOW + 9 * DAY)

    assert [(each.image, each.pulls) for each in costs.images] == [("r/app:1", 1)]
    assert len(table) == 1


@pytest.mark.parametrize("when", [NOW + 30 * DAY, NOW - 400 * DAY, None])
def test_a_node_s_wrong_clock_makes_its_pull_one_of_now(when: datetime.datetime | None) -> None:
    assert table_of(pull(when=when)).costs(NOW - HOUR, NOW).pulls == 1


def test_a_flood_from_one_namespace_does_not_push_out_the_images_of_others() -> None:
    table = pull_table.PullTable(most=50)
    for number in range(5):
        table.add(pull(f"r/app{number}:1", 2.0), NOW)
    for number in range(500):
        forged = pull(f"r/forged{number}:1", 3600.0, namespace="bad", node=f"f{number}")
        table.add(forged, NOW)

    costs = table.costs(NOW - DAY, NOW)

    assert len(table) <= 50
    assert {f"r/app{number}:1" for number in range(5)} <= {each.image for each in costs.images}
    assert costs.pulls == 505
    assert costs.seconds == pytest.approx(10 + 500 * 3600)


def test_an_image_has_the_size_that_most_nodes_say() -> None:
    table = table_of(*(pull(size=100 * MIB, node=node) for node in ("n1", "n2")))
    for _ in range(50):
        believed = table.add(pull(seconds=1000.0, size=200_000 * MIB, node="evil"), NOW)
        assert believed.size == 100 * MIB

    (cost,) = table.costs(NOW - DAY, NOW).images
    assert cost.size == 100 * MIB
    assert cost.downloaded <= 52 * 100 * MIB

    for node in ("n1", "n2"):  # The tag has moved.
        table.add(pull(size=300 * MIB, node=node), NOW)
    (cost,) = table.costs(NOW - DAY, NOW).images
    assert cost.size == 300 * MIB


def test_a_node_has_pulled_for_a_few_hours_in_an_hour_at_most() -> None:
    table = table_of(pull("r/app:1", 10.0))
    for number in range(50):
        table.add(pull(f"r/forged{number}:1", 6 * 3600.0, node="evil", times=20), NOW)

    assert table.costs(NOW - DAY, NOW).seconds == pytest.approx(4 * 3600 + 10)

    table.add(pull("r/forged0:1", 60.0, node="evil", when=NOW + HOUR), NOW + HOUR)
    assert table.costs(NOW - DAY, NOW + HOUR).seconds == pytest.approx(4 * 3600 + 70)


def test_an_image_has_few_namespaces_and_samples_however_many_pull_it() -> None:
    table = pull_table.PullTable(most=10)
    for number in range(200):
        table.add(pull(namespace=f"n{number}", node=f"node-{number}", size=MIB), NOW)

    (row,), _, _ = table.rows(most=10)

    assert len(row.pods) <= 8
    assert len(row.sample) <= 32
    assert len(row.buckets) == 1
    assert len(row.claims) <= 16


@pytest.mark.parametrize("nodes", [1, 30, 1000, 5000])
def test_nodes_are_counted_within_ten_per_cent(nodes: int) -> None:
    table = pull_table.PullTable(most=10)
    for number in range(nodes):
        table.add(pull(node=f"ip-10-0-{number // 256}-{number % 256}.internal"), NOW)

    (cost,) = table.costs(NOW - DAY, NOW).images

    assert abs(cost.nodes - nodes) <= max(1, nodes // 10)


async def test_a_large_table_is_summed_up_with_turns_for_others() -> None:
    """The leader's lease is renewed and requests are answered in the same event loop."""
    table = table_of(
        *(pull(f"r/app{number}:1", when=NOW - 3 * DAY) for number in range(500)), most=600
    )
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(others())
    for work in (table.forgetting(NOW), table.summing(NOW - 7 * DAY, NOW), table.listing(most=9)):
        turns = 0
        await slices.run(work)  # type: ignore[arg-type]
        assert turns >= 9
    task.cancel()


async def test_what_comes_amid_a_sum_is_kept() -> None:
    table = table_of(
        *(pull(f"r/app{number}:1", when=NOW - 6 * DAY) for number in range(100)), most=200
    )
    later = NOW + 2 * DAY
    summing = table.summing(later - 7 * DAY, later)
    next(summing)
    table.add(pull("r/new:1", when=later), later)

    assert [each.image for each in slices.run_nowait(summing).images] == ["r/new:1"]
    assert len(table) == 1


def test_images_that_are_not_listed_are_in_the_sum() -> None:
    table = table_of(*(pull(f"r/app{number}:1", float(number)) for number in range(1, 6)))

    costs = table.costs(NOW - DAY, NOW, most=2)

    assert [each.image for each in costs.images] == ["r/app5:1", "r/app4:1"]
    assert costs.others is not None
    assert (costs.others.pulls, costs.seconds) == (3, 15.0)


def test_what_is_kept_is_what_was_there() -> None:
    table = table_of(
        pull("r/a:1", 1.0, when=NOW - 3 * DAY), pull("r/b:1", 5.0), pull("r/c:1", 9.0), most=3
    )
    rows, others, began = table.rows(most=2)
    kept = msgspec.json.decode(msgspec.json.encode(rows), type=list[pull_table.Row])
    again = pull_table.PullTable(most=3)
    again.load(kept, others, began)

    expected = table.costs(NOW - 7 * DAY, NOW, most=2)
    assert again.costs(NOW - 7 * DAY, NOW) == expected
