"""The mounts that containerd makes of a snapshot: the same as its own overlayfs's.

Pure. Source: containerd plugins/snapshots/overlay/overlay.go, `mounts`.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Mount:
    """One mount for containerd: the arguments of mount(8)."""

    kind: str
    source: str
    options: tuple[str, ...]


def without_duplicates(lowers: Sequence[str]) -> list[str]:
    """Each folder once, at its topmost place.

    The kernel refuses the same lower folder twice (ELOOP), and the topmost one
    hides all that a lower one of the same content could add.
    """
    return list(dict.fromkeys(lowers))


def active(upper: str, work: str, lowers: Sequence[str], *, extra: Sequence[str] = ()) -> Mount:
    """A writable snapshot; `lowers` topmost first."""
    if not lowers:
        return Mount("bind", upper, ("rw", "rbind"))
    lowerdir = ":".join(without_duplicates(lowers))
    return Mount(
        "overlay",
        "overlay",
        (*extra, f"workdir={work}", f"upperdir={upper}", f"lowerdir={lowerdir}"),
    )


def view(own: str, lowers: Sequence[str], *, extra: Sequence[str] = ()) -> Mount:
    """A read-only snapshot; `own` is its empty folder, shown when it has no parent."""
    distinct = without_duplicates(lowers)
    if not distinct:
        return Mount("bind", own, ("ro", "rbind"))
    if len(distinct) == 1:
        return Mount("bind", distinct[0], ("ro", "rbind"))
    return Mount("overlay", "overlay", (*extra, f"lowerdir={':'.join(distinct)}"))
