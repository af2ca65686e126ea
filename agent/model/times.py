"""Times as Kubernetes and the store write them: RFC 3339, in UTC. One parser, one clock.

A duration is measured by the loop's clock or `time.monotonic`, never by this one.
"""

import datetime
from collections.abc import Callable

Clock = Callable[[], datetime.datetime]
"""The time now, aware of its zone. Tests pass their own."""

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
"""The time of what has none: older than everything."""


def now() -> datetime.datetime:
    """The wall clock, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def parse(text: object) -> datetime.datetime | None:
    """Read a time, in UTC; None where there is none, or something that is not a time.

    Without a zone it is UTC. The first hours of year 1 and the last ones of 9999 may have no UTC.
    """
    try:
        moment = in_utc(datetime.datetime.fromisoformat(str(text or "")))
        return moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None


def in_utc(moment: datetime.datetime) -> datetime.datetime:
    """A time that says its zone: UTC where it says none."""
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def stamp(moment: datetime.datetime) -> str:
    """To the second, as the API server writes the times of objects."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(moment: datetime.datetime) -> str:
    """To the microsecond, as a Lease has its times (MicroTime)."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
