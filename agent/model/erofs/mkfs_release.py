"""Which mkfs.erofs can build layers: by what it prints with -V."""

import dataclasses
import re

MINIMUM = (1, 8)
"""The oldest erofs-utils that build the same bytes twice (`-T0 --mkfs-time`)."""

ADVICE = (
    "install erofs-utils >= 1.8 (Debian 13, Ubuntu 24.10), or name a mkfs.erofs with UIMGACC_MKFS"
)
"""What to do where there is none."""

_RELEASE = re.compile(r"mkfs\.erofs(?: \(erofs-utils\))? ([0-9]+)\.([0-9]+)(\S*)")


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """A release of erofs-utils; `rest` is what follows the first two numbers."""

    major: int
    minor: int
    rest: str = ""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}{self.rest}"

    @property
    def builds_layers(self) -> bool:
        """Whether it is new enough."""
        return (self.major, self.minor) >= MINIMUM


def parse(printed: str) -> Release | None:
    """The release in what `mkfs.erofs -V` prints; None where that names none."""
    match = _RELEASE.search(printed)
    return Release(int(match[1]), int(match[2]), match[3]) if match else None
