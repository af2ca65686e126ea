"""What a look at a node shows of mounted layers and local copies; pure."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agent.local import budget, disk, layer_survey


class Mount(NamedTuple):
    """A mounted layer, by 64 hex digits; see layer_survey.Mounted."""

    name: str
    target: str
    devices: list[str]
    is_local: bool
    users: list[str]
    size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look. `copies` are by the layer's name; `free` and `whole` are bytes of their disk."""

    mounts: Sequence[Mount]
    copies: Mapping[str, disk.Copy] = dataclasses.field(hash=False)
    free: int
    whole: int

    @classmethod
    def of(cls, mounted: Sequence[layer_survey.Mounted], look: disk.Look) -> "View":
        """What a worker has seen."""
        copies, free, whole = look
        mounts = [Mount(*each) for each in mounted]
        return cls(mounts=mounts, copies={each[0]: each for each in copies}, free=free, whole=whole)

    @property
    def used(self) -> Sequence[Mount]:
        """The mounts that containers stand on."""
        return [each for each in self.mounts if each.users]

    @property
    def unswitched(self) -> Sequence[Mount]:
        """The mounts that read the store although there is a copy."""
        return [each for each in self.mounts if not each.is_local and each.name in self.copies]

    @property
    def devices(self) -> list[str]:
        """The loop devices that containers read through; none where one of them reads otherwise."""
        if not all(each.devices for each in self.used):
            return []
        return sorted({device for each in self.used for device in each.devices})

    @property
    def copied_bytes(self) -> int:
        """What all copies take."""
        return sum(size for _, size, _ in self.copies.values())

    def used_bytes(self, *, local: bool) -> int:
        """Bytes of the layers that containers read from their copies, or from the store."""
        sizes = {each.name: each.size for each in self.used if each.is_local is local}
        return sum(sizes.values())

    def containers(self, *, local: bool) -> int:
        """Containers that read all of their layers from copies, or not all of them."""
        everyone = {user for each in self.used for user in each.users}
        dependent = {user for each in self.used if not each.is_local for user in each.users}
        return len(everyone - dependent if local else dependent)

    def from_copy(self, name: str) -> Sequence[Mount]:
        """The mounts that read the copy of a layer."""
        return [each for each in self.mounts if each.is_local and each.name == name]

    def budgeted(self) -> list[budget.Copy]:
        """The copies as they are decided about."""
        used = {each.name for each in self.used}
        return [
            budget.Copy(name=name, size=size, used_at=used_at, in_use=name in used)
            for name, size, used_at in self.copies.values()
        ]
