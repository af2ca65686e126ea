"""What was saved today, by image: what `uimgacc status` sums up over the nodes.

A day is of UTC, and counts from the agent's start: figures for weeks are in Prometheus.
"""

import dataclasses
import datetime

from agent.matching import estimates
from agent.model import reports

_MOST_IMAGES = 256
_WRITTEN = 10
_NAME_LIMIT = 200


@dataclasses.dataclass(slots=True)
class _Sum:
    seconds: float = 0.0
    size: int = 0
    count: int = 0

    def add(self, saving: estimates.Saving) -> None:
        self.seconds += saving.seconds
        self.size += saving.size
        self.count += 1


class DayTally:
    """Sums of one day. When there are too many images, the one with fewest bytes is forgotten."""

    def __init__(self) -> None:
        self._day = ""
        self._total = _Sum()
        self._images: dict[str, _Sum] = {}

    def add(self, image: str, saving: estimates.Saving, *, when: datetime.datetime) -> None:
        """Count a saving in."""
        day = when.date().isoformat()
        if day != self._day:
            self._day, self._total, self._images = day, _Sum(), {}
        self._total.add(saving)
        name = image[:_NAME_LIMIT]
        if name not in self._images and len(self._images) >= _MOST_IMAGES:
            del self._images[min(self._images, key=lambda each: self._images[each].size)]
        self._images.setdefault(name, _Sum()).add(saving)

    def report(self) -> reports.SavedDay:
        """The day of the last saving, with the images that saved most seconds, then bytes."""
        most = sorted(self._images.items(), key=_rank)[:_WRITTEN]
        return reports.SavedDay(
            day=self._day,
            seconds=round(self._total.seconds, 1),
            size=self._total.size,
            count=self._total.count,
            images=[
                reports.SavedImage(
                    image=image, seconds=round(each.seconds, 1), size=each.size, count=each.count
                )
                for image, each in most
            ],
        )


def _rank(item: tuple[str, _Sum]) -> tuple[float, int, str]:
    image, each = item
    return (-each.seconds, -each.size, image)
