"""What several rounds of a measurement give: the median, and how far the rounds lie apart."""

import statistics
from collections.abc import Sequence


def of(name: str, values: Sequence[float]) -> dict[str, float]:
    """The median, the least and the greatest of all rounds."""
    middle = statistics.median(values)
    return {name: middle, f"{name}_min": min(values), f"{name}_max": max(values)}


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The same of the ratios within each round, whose sides saw the same mood of the machine."""
    return of(name, [one / other for one, other in zip(ours, theirs, strict=True)])
