"""Schedules of cron: read strictly, and right where clocks are changed."""

import pytest

from agent.control.caches import schedules
from agent.model import times


def after(cron: str, moment: str, zone: str = "") -> str:
    start = times.parse(moment)
    assert start is not None
    found = schedules.schedule(cron, zone).after(start)
    return times.stamp(found) if found is not None else ""


@pytest.mark.parametrize(
    ("cron", "zone", "moment", "expected"),
    [
        ("0 3 * * *", "", "2026-07-01T02:59:59Z", "2026-07-01T03:00:00Z"),
        ("0 3 * * *", "", "2026-07-01T03:00:00Z", "2026-07-02T03:00:00Z"),
        ("0 3 * * *", "Asia/Shanghai", "2026-07-01T12:00:00Z", "2026-07-01T19:00:00Z"),
        ("*/15 9-17 * * MON-FRI", "", "2026-07-03T17:50:00Z", "2026-07-06T09:00:00Z"),
        # 02:30 does not exist on that night: right after it.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
        # It comes twice on that one: once.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ("  0  0 29  2 * ", "", "2026-07-01T00:00:00Z", "2028-02-29T00:00:00Z"),
    ],
)
def test_the_next_time(cron: str, zone: str, moment: str, expected: str) -> None:
    assert after(cron, moment, zone) == expected


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("", ""),
        ("@daily", ""),
        ("* * * *", ""),
        ("* * * * * *", ""),
        ("61 * * * *", ""),
        ("0 0 30 2 *", ""),
        ("CRON_TZ=UTC 0 3 * *", ""),
        (f"{','.join(['1'] * 60)} * * * *", ""),
        ("0 3 * * *", "Mars/Olympus"),
        ("0 3 * * *", "../../etc/passwd"),
        ("0 3 * * *", "Asia"),
    ],
)
def test_what_is_no_schedule_is_said(cron: str, zone: str) -> None:
    with pytest.raises(schedules.ScheduleInvalid):
        schedules.schedule(cron, zone)
