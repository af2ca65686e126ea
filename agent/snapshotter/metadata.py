"""What the snapshotter knows of a snapshot: values, and why a request for one is refused.

The tables that hold them are in agent.snapshotter.tables.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from agent import errors

VIEW, ACTIVE, COMMITTED = 1, 2, 3
KIND_NAMES = {VIEW: "view", ACTIVE: "active", COMMITTED: "committed"}


class NotFoundError(errors.PermanentError):
    """No snapshot has that key or name; `key` is it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"snapshot {key} does not exist")
        self.key = key


class ExistsError(errors.PermanentError):
    """A snapshot has that key or name already; `key` is it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"snapshot {key} already exists")
        self.key = key


class StateError(errors.PermanentError):
    """The snapshot is not in a state in which this can be done to it."""


class InvalidError(errors.PermanentError):
    """The request asks for what no snapshot can be."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot. Times are nanoseconds since 1970; `diff_id` is None for ordinary ones.

    `layer_size` is the size of the store's layer file; `size` and `inodes` are those
    of a committed ordinary snapshot once they have been counted.
    """

    id: int
    name: str
    parent: str
    kind: int
    created: int
    updated: int
    labels: Mapping[str, str]
    diff_id: str | None
    layer_size: int | None
    size: int | None
    inodes: int | None

    def field(self, name: str, key: str) -> str | None:
        """A field's value, for agent.snapshotter.filters."""
        match name:
            case "labels":
                return self.labels.get(key)
            case "name":
                return self.name
            case "parent":
                return self.parent
            case "kind":
                return KIND_NAMES[self.kind]
            case _:
                return None


class LowerLayer(NamedTuple):
    """A layer of the store below a snapshot's own."""

    chain_id: str
    diff_id: str
    layer_size: int


class Link(NamedTuple):
    """What a mount needs of one folder of a chain; `diff_id` is None for an ordinary snapshot's.

    `id_maps` (id_ranges.IdMaps.text) says how the owners of its files are mapped, which were
    written in a user namespace; None for those of an image.
    """

    id: int
    diff_id: str | None
    layer_size: int | None
    id_maps: str | None = None
