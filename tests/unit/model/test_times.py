import datetime

import pytest

from agent.model import times

WHEN = datetime.datetime(2026, 11, 28, 20, 15, 7, 123456, tzinfo=datetime.UTC)


def test_times_of_objects_are_whole_seconds_in_utc() -> None:
    east = WHEN.astimezone(datetime.timezone(datetime.timedelta(hours=8)))

    assert times.stamp(east) == "2026-11-28T20:15:07Z"


def test_times_of_leases_have_microseconds() -> None:
    assert times.micro_stamp(WHEN) == "2026-11-28T20:15:07.123456Z"


@pytest.mark.parametrize("text", [times.micro_stamp(WHEN), "2026-11-29T04:15:07.123456+08:00"])
def test_a_time_is_read_in_any_zone(text: str) -> None:
    assert times.parse(text) == WHEN


def test_a_time_without_a_zone_is_utc() -> None:
    assert times.parse("2026-11-28T20:15:07.123456") == WHEN


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "yesterday",
        0,
        12.5,
        [],
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00+10:00",
        "9999-12-31T23:59:59-10:00",
    ],
)
def test_what_is_not_a_time_is_none(text: object) -> None:
    assert times.parse(text) is None
