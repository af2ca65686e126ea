"""What was saved today, by image."""

import datetime

from agent.matching import estimates
from agent.model import reports
from agent.node.report import day_savings

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def saving(size: int, seconds: float = 10.0) -> estimates.Saving:
    expectation = estimates.expect(size, estimates.Throughput(), None)
    return estimates.Saving(seconds=seconds, size=size, actual=0.1, expectation=expectation)


def test_images_are_summed_up_the_most_seconds_first() -> None:
    tally = day_savings.DayTally()
    tally.add("a", saving(5, 1.0), when=NOON)
    tally.add("b", saving(7, 2.0), when=NOON)
    tally.add("a", saving(5, 4.0), when=NOON)

    report = tally.report()

    assert (report.day, report.seconds, report.size, report.count) == ("2026-03-01", 7.0, 17, 3)
    assert [(each.image, each.seconds, each.count) for each in report.images] == [
        ("a", 5.0, 2),
        ("b", 2.0, 1),
    ]


def test_a_new_day_begins_with_nothing() -> None:
    tally = day_savings.DayTally()
    tally.add("a", saving(5), when=NOON)
    tally.add("b", saving(7), when=NOON + datetime.timedelta(hours=12))

    report = tally.report()

    assert (report.day, report.size) == ("2026-03-02", 7)
    assert [each.image for each in report.images] == ["b"]


def test_neither_memory_nor_the_annotation_grows_with_the_images() -> None:
    tally = day_savings.DayTally()
    for at in range(2000):
        tally.add(f"registry.example.com/{at}-{'x' * 500}", saving(at), when=NOON)
    tally.add("large", saving(1 << 40), when=NOON)

    report = tally.report()

    assert report.count == 2001
    assert len(report.images) == 10
    assert max(len(each.image) for each in report.images) == 200
    # manifests/base/node-policy.yaml allows so much on a Lease.
    assert len(reports.encode_saved(reports.Saved(today=report))) < 4096 - 500
