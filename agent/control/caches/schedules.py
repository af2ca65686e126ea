"""Times by a schedule of cron: five fields, in a time zone.

cronsim computes them, as Debian's cron does also where clocks are changed: what falls into an hour
that is left out is due right after it, and what falls into one that comes twice is due once.
"""

import dataclasses
import datetime
import zoneinfo

import cronsim

from agent import errors

LONGEST = 100
"""Characters of a schedule."""


class ScheduleInvalid(errors.PermanentError):
    """A schedule, or a time zone, that is none; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """When something is due, as `schedule` has read it. `zone` is a name of the IANA's data."""

    cron: str
    zone: str = "UTC"

    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        """The first time after a moment, in UTC; None where there is none for many years."""
        local = moment.astimezone(zoneinfo.ZoneInfo(self.zone))
        found = next(cronsim.CronSim(self.cron, local), None)
        return found.astimezone(datetime.UTC) if found is not None else None


def schedule(cron: str, zone: str = "") -> Schedule:
    """Read a schedule, in UTC where no zone is named; raise ScheduleInvalid."""
    cron = " ".join(cron.split())
    if len(cron) > LONGEST or len(cron.split()) != 5:
        raise ScheduleInvalid(
            f"expected the five fields of cron, such as 0 3 * * *, not {cron[:LONGEST]!r}"
        )
    try:
        cronsim.CronSim(cron, datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
    except cronsim.CronSimError as error:
        raise ScheduleInvalid(f"{cron!r} is no schedule of cron: {error}") from error
    zone = zone.strip() or "UTC"
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleInvalid(
            f"expected a time zone such as Asia/Shanghai, not {zone[:LONGEST]!r}"
        ) from error
    return Schedule(cron, zone)
