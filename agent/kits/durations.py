"""Durations as Go's programs write them: `12h`, `1m30s`, `250ms` (Go's time.ParseDuration)."""

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def seconds(duration: str) -> float:
    """The seconds of a duration; raise ValueError for what is none, and for a negative one."""
    parts = list(_PART.finditer(duration))
    if duration == "0":
        return 0.0
    if not parts or "".join(part[0] for part in parts) != duration:
        raise ValueError(f"not a duration of at least 0, like 12h or 30m: {duration!r}")
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts)
