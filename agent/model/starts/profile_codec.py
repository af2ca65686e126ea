"""The text form of start profiles, and what a node says to the controller by an annotation.

The text is base64 of zlib of: the version (1), the number of layers, 32 bytes of each layer's
diff ID, the number of pieces, and of each piece the layer's number, the distance of its start
from the end of the piece before it in that layer (zigzag: the sign in the lowest bit), and
its length less one. Numbers are of 7 bits a byte, lowest first; the highest bit says that
another byte follows (LEB128). 180 ranges of six layers are 900 letters.

A decoder trusts nothing: text and content are bounded before and while they are unpacked.
"""

import base64
import binascii
import dataclasses
import re
import zlib
from collections.abc import Sequence

from agent.model.starts import start_profiles

TEXT_LIMIT = 16 << 10
"""Letters of a profile's text."""

_RAW_LIMIT = 64 << 10
_VERSION = 1
_NUMBER_BYTES = 5
_GAPS = (2, 4, 16, 64, 256, 1024)

REPORT_LIMIT = TEXT_LIMIT + 1024
"""Letters of a report; manifests/base/node-policy.yaml has the same."""

_REPORT = re.compile(
    r"1 (?P<node>[a-z0-9][a-z0-9.-]{0,252}) (?P<image>[!-~]{1,500})"
    r" (?P<manifest>sha256:[0-9a-f]{64}) (?P<text>[A-Za-z0-9+/]+={0,2})"
)


def encode(profile: start_profiles.Profile) -> str:
    """The text of a profile; ProfileError where it is longer than TEXT_LIMIT."""
    raw = bytearray([_VERSION])
    _put(raw, len(profile.layers))
    for layer in profile.layers:
        raw += bytes.fromhex(layer.removeprefix("sha256:"))
    _put(raw, len(profile.pieces))
    ends = [0] * len(profile.layers)
    for piece in profile.pieces:
        _put(raw, piece.layer)
        distance = piece.start - ends[piece.layer]
        _put(raw, 2 * distance if distance >= 0 else -2 * distance - 1)
        _put(raw, piece.length - 1)
        ends[piece.layer] = piece.end
    text = base64.b64encode(zlib.compress(raw, 9)).decode()
    if len(raw) > _RAW_LIMIT or len(text) > TEXT_LIMIT:
        raise start_profiles.ProfileError(f"its text has more than {TEXT_LIMIT} letters")
    return text


def encode_looks(looks: Sequence[start_profiles.Look]) -> tuple[start_profiles.Profile, str]:
    """The profile of a start, joined over as large gaps as its text needs to be short enough."""
    for gap in _GAPS:
        profile = start_profiles.make(looks, gap=gap)
        is_cut = len(profile.pieces) == start_profiles.MAX_PIECES
        if is_cut and gap < _GAPS[-1]:
            continue
        try:
            return profile, encode(profile)
        except start_profiles.ProfileError:
            continue
    raise start_profiles.ProfileError("its ranges are too many and too far from each other")


def decode(text: str) -> start_profiles.Profile:
    """The profile that a text says; raise ProfileError."""
    raw = _Reader(_unpacked(text))
    if raw.byte() != _VERSION:
        raise start_profiles.ProfileError("of a later version")
    layers = tuple(
        f"sha256:{raw.bytes(32).hex()}" for _ in range(raw.count(start_profiles.MAX_LAYERS))
    )
    ends = [0] * len(layers)
    pieces = []
    for _ in range(raw.count(start_profiles.MAX_PIECES)):
        layer = raw.number()
        if layer >= len(layers):
            raise start_profiles.ProfileError("a piece is of no layer")
        zigzag = raw.number()
        distance = zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
        piece = start_profiles.Piece(layer, ends[layer] + distance, raw.number() + 1)
        ends[layer] = piece.end
        pieces.append(piece)
    raw.finish()
    return start_profiles.Profile(layers, tuple(pieces))


def _put(raw: bytearray, number: int) -> None:
    while number > 0x7F:
        raw.append(number & 0x7F | 0x80)
        number >>= 7
    raw.append(number)


def _unpacked(text: str) -> bytes:
    if len(text) > TEXT_LIMIT:
        raise start_profiles.ProfileError(f"its text has more than {TEXT_LIMIT} letters")
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(packed, _RAW_LIMIT)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise start_profiles.ProfileError(str(error)) from error
    if not unpacker.eof or unpacker.unused_data:
        raise start_profiles.ProfileError("it is cut off, too long, or something follows it")
    return raw


class _Reader:
    """Reads numbers from bytes; ProfileError at their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        return self.bytes(1)[0]

    def bytes(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise start_profiles.ProfileError("it is cut off")
        self._at += count
        return part

    def number(self) -> int:
        number = 0
        for at in range(_NUMBER_BYTES):
            byte = self.byte()
            number |= (byte & 0x7F) << (7 * at)
            if byte < 0x80:
                return number
        raise start_profiles.ProfileError("a number is too large")

    def count(self, limit: int) -> int:
        number = self.number()
        if number > limit:
            raise start_profiles.ProfileError(f"it has {number} of what may be {limit}")
        return number

    def finish(self) -> None:
        if self._at != len(self._data):
            raise start_profiles.ProfileError("something follows it")


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a node says by the annotation `keys.START_PROFILE` of a cache's object.

    `node` is its own name, which admission compares with its token; `image` a reference,
    `manifest` the digest of the manifest for the node's platform, `text` the profile.
    """

    node: str
    image: str
    manifest: str
    text: str

    def __str__(self) -> str:
        return f"1 {self.node} {self.image} {self.manifest} {self.text}"


def parse_report(annotation: str) -> Report:
    """Read a report; its profile is decoded by who uses it. Raises ProfileError."""
    matched = _REPORT.fullmatch(annotation) if len(annotation) <= REPORT_LIMIT else None
    if matched is None:
        raise start_profiles.ProfileError("not of the form of a report")
    return Report(**matched.groupdict())
