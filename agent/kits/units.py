"""Bytes and times as people read them: the one way for pages, commands, messages and the log.

Bytes are in binary units, as Kubernetes counts them: a cache's limit, a volume and a node's
disk are in GiB. Machine-readable output (JSON, metrics, fields of the log) has plain bytes and
seconds instead.
"""

import decimal

UNKNOWN = "-"
"""Stands for a value that there is not; on a phone, such a cell of a page is left out."""


_SUFFIXES = {
    "": 1,
    **{suffix: 1000**power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: 1024**power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}


def quantity(text: str) -> int:
    """The bytes of a quantity as Kubernetes writes one, such as 20Gi; raise ValueError."""
    text = text.strip()
    number = text.rstrip("kKMGTPEi")
    suffix = text[len(number) :]
    if text.endswith("m"):
        number, suffix = text[:-1], ""
    try:
        amount = decimal.Decimal(number) * _SUFFIXES[suffix]
    except (decimal.InvalidOperation, KeyError):
        amount = decimal.Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount < 2**63:
        raise ValueError("expected a quantity of bytes such as 20Gi")
    return int(amount / 1000) if text.endswith("m") else int(amount)


def share(text: str, whole: int) -> int:
    """The bytes of a quantity, or of a percentage of `whole` such as 20%; raise ValueError."""
    if not text.strip().endswith("%"):
        return quantity(text)
    try:
        percent = float(text.strip()[:-1])
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise ValueError("expected a quantity of bytes such as 20Gi, or a percentage such as 20%")
    return int(whole * percent / 100)


def size(count: float) -> str:
    """Bytes with three digits or a little more: "512 B", "1.5 GiB", "312 GiB"."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        # What would be shown as 1024 is one of the next unit.
        if count < 1023.5 or unit == "TiB":
            break
    return f"{count:.0f} {unit}" if count >= 99.95 else f"{count:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """A measured time: "41 ms", "1.2 s", "10 min"; UNKNOWN where there is none."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else span(seconds)


def span(seconds: float) -> str:
    """A time span in one unit and a half: "12 s", "5 min", "3 h 20 min", "2 d 4 h"."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 1:
        return f"{max(0, int(seconds))} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def age(seconds: float) -> str:
    """How long ago something was, as in the tables of kubectl: "5m", "3h", "12d"."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * length or (whole >= length and unit != "m"):
            return f"{whole // length}{unit}"
    return f"{whole}s"
