"""Start profiles: which parts of an image's layer files its start reads, and in which order.

A profile is made of what the kernel shows of the page cache in a few looks during the
first start of an image (`make`), and written as text by agent.model.starts.profile_codec. The
agent reads these parts ahead of the next start. A profile is advice: one that is absent,
damaged or wrong costs time only. Still each is bounded, for it comes from a node.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from agent import errors
from agent.model import digests

UNIT = 64 << 10
"""Bytes. Starts and lengths are counted in these."""

MAX_LAYERS = 256
MAX_PIECES = 2048
MAX_UNITS = (1 << 30) // UNIT
"""Of all pieces together: a profile covers at most 1 GiB."""

MAX_START = (1 << 42) // UNIT
"""No image's layer files are larger than 4 TiB, all together. As bits that is 8 MiB of memory."""

SEGMENT = (8 << 20) // UNIT
"""Units of the longest piece: the end of a long range is often read much later than its begin."""

_JOINED_OVER = 2
"""Units. To read a gap of this size takes less than a request of its own."""


class ProfileError(errors.PermanentError):
    """A profile is not what it should be; `reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a usable start profile: {reason}")
        self.reason = reason


class Piece(NamedTuple):
    """A range of a layer file: the layer's place in `Profile.layers`, start and length in units."""

    layer: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """The unit behind it."""
        return self.start + self.length


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """What a start reads: `pieces`, in the order of their first use, none of which overlap.

    `layers` are the layers that were observed, by the diff IDs that their files are named by;
    one without pieces was observed and not read.
    """

    layers: tuple[str, ...]
    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        """Raise ProfileError for one that breaks a bound."""
        if len(self.layers) > MAX_LAYERS or len(set(self.layers)) != len(self.layers):
            raise ProfileError("too many layers, or one is there twice")
        if not all(map(digests.is_digest, self.layers)):
            raise ProfileError("a layer has no digest")
        if len(self.pieces) > MAX_PIECES:
            raise ProfileError(f"more than {MAX_PIECES} pieces")
        if sum(piece.length for piece in self.pieces) > MAX_UNITS:
            raise ProfileError(f"more than {MAX_UNITS * UNIT} bytes")
        for piece in self.pieces:
            if not (0 <= piece.layer < len(self.layers) and piece.start >= 0 and piece.length > 0):
                raise ProfileError("a piece is of no layer, or empty")
        ends = {piece.layer: piece.end for piece in sorted(self.pieces)}
        if sum(ends.values()) > MAX_START:
            raise ProfileError("a piece is beyond the end of any file")
        for before, after in itertools.pairwise(sorted(self.pieces)):
            if before.layer == after.layer and after.start < before.end:
                raise ProfileError("pieces overlap")

    @property
    def size(self) -> int:
        """The bytes of all pieces."""
        return sum(piece.length for piece in self.pieces) * UNIT

    def units_of(self, layer: str) -> set[int]:
        """The units of one layer's file that are in it."""
        if layer not in self.layers:
            return set()
        at = self.layers.index(layer)
        pieces = (piece for piece in self.pieces if piece.layer == at)
        return {unit for piece in pieces for unit in range(piece.start, piece.end)}


Look = Mapping[str, Collection[int]]
"""The units of each layer's file that were read between two looks."""


def make(looks: Sequence[Look], *, gap: int = _JOINED_OVER) -> Profile:
    """The profile of a start that was looked at several times, first look first.

    Neighbours are joined over gaps of `gap` units. Where the bounds do not hold all, what was
    read last is left out.
    """
    layers = sorted({layer for look in looks for layer in look})[:MAX_LAYERS]
    timed: list[tuple[int, Piece]] = []
    for at, layer in enumerate(layers):
        first = dict[int, int]()
        for number, look in enumerate(looks):
            for unit in look.get(layer, ()):
                first.setdefault(unit, number)
        timed += (
            (min(first.get(unit, len(looks)) for unit in range(start, start + count)), piece)
            for start, count in _joined(sorted(first), gap)
            for piece in [Piece(at, start, count)]
        )
    return Profile(tuple(layers), tuple(_bounded(piece for _, piece in sorted(timed))))


def _joined(units: Sequence[int], gap: int) -> Iterator[tuple[int, int]]:
    """Ranges (start, length) that hold all units, each at most a segment long."""
    start = end = -1
    for unit in units:
        if start >= 0 and unit - end <= gap and unit - start < SEGMENT:
            end = unit + 1
            continue
        if start >= 0:
            yield start, end - start
        start, end = unit, unit + 1
    if start >= 0:
        yield start, end - start


def _bounded(pieces: Iterator[Piece]) -> Iterator[Piece]:
    left = MAX_UNITS
    for piece in itertools.islice(pieces, MAX_PIECES):
        left -= piece.length
        if left < 0:
            return
        yield piece


def within(profile: Profile, sizes: Mapping[str, int]) -> Profile:
    """The profile, if it is of these layer files alone, given with their bytes; else ProfileError.

    This is how the controller verifies what a node says.
    """
    if strange := set(profile.layers).difference(sizes):
        raise ProfileError(f"{min(strange)} is no layer of the image")
    for piece in profile.pieces:
        if piece.end > -(-sizes[profile.layers[piece.layer]] // UNIT):
            raise ProfileError("a piece is beyond the end of its layer file")
    return profile


def of_layers(profile: Profile, layers: Collection[str]) -> Profile:
    """What a profile says of some layers: another build of the image may share them."""
    kept = [at for at, layer in enumerate(profile.layers) if layer in layers]
    places = {at: place for place, at in enumerate(kept)}
    return Profile(
        tuple(profile.layers[at] for at in kept),
        tuple(
            piece._replace(layer=places[piece.layer])
            for piece in profile.pieces
            if piece.layer in places
        ),
    )


def merged(first: Profile, second: Profile) -> Profile:
    """`first`, and what `second` says of layers that `first` knows nothing of.

    So the first node that has observed a layer decides, and no order in which
    later ones come changes that.
    """
    added = of_layers(second, set(second.layers).difference(first.layers))
    base = len(first.layers)
    layers = (*first.layers, *added.layers)[:MAX_LAYERS]
    pieces = (
        *first.pieces,
        *(piece._replace(layer=base + piece.layer) for piece in added.pieces),
    )
    fitting = _bounded(piece for piece in pieces if piece.layer < len(layers))
    return Profile(layers, tuple(fitting))
