"""The text of start profiles, and decoders that trust nothing."""

import base64
import random
import zlib

import pytest

from agent.model.starts import profile_codec, start_profiles
from agent.model.starts.start_profiles import Piece, Profile

LAYERS = tuple(f"sha256:{number:064x}" for number in range(1, 7))


def random_looks(seed: int) -> list[dict[str, list[int]]]:
    """Looks at a start, some of them of many far ranges."""
    source = random.Random(seed)
    spread = source.choice([100, 10_000, 1_000_000])
    return [
        {
            layer: [source.randrange(spread) for _ in range(source.choice([0, 3, 60, 900]))]
            for layer in source.sample(LAYERS, source.randrange(len(LAYERS)) + 1)
        }
        for _ in range(source.randrange(1, 6))
    ]


@pytest.mark.parametrize("seed", range(40))
def test_what_is_encoded_is_decoded(seed: int) -> None:
    profile, text = profile_codec.encode_looks(random_looks(seed))

    assert profile_codec.decode(text) == profile
    assert len(text) <= profile_codec.TEXT_LIMIT


def test_a_usual_profile_is_small() -> None:
    source = random.Random(7)
    units = {layer: [source.randrange(6000) for _ in range(30)] for layer in LAYERS}
    profile, text = profile_codec.encode_looks([units])

    assert len(profile.pieces) > 150
    assert len(text) < 1300


def test_one_of_too_many_far_ranges_is_joined_over_larger_gaps() -> None:
    looks = [{LAYERS[0]: range(0, 15_000, 5)}, {LAYERS[1]: range(3, 6_000, 5)}]
    profile, text = profile_codec.encode_looks(looks)

    assert len(profile.pieces) < 200
    assert profile.units_of(LAYERS[0]) >= set(range(0, 15_000, 5))
    assert profile_codec.decode(text) == profile


def packed(raw: bytes) -> str:
    """A text of any content."""
    return base64.b64encode(zlib.compress(raw)).decode()


HEAD = bytes([1, 1]) + bytes(32)
BOMB = base64.b64encode(zlib.compress(bytes(8 << 20), 9)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "????",
        "AAAA",
        "é",
        packed(b""),
        packed(b"\x02"),
        packed(b"\x01\xff\xff\xff\xff\xff\xff\xff"),
        packed(b"\x01\x81\x02" + bytes(32 * 257)),
        packed(HEAD),
        packed(HEAD + b"\x00\x00"),
        packed(HEAD + b"\x01\x01\x00\x00"),
        packed(HEAD + b"\x01\x00\x01\x00"),
        packed(HEAD + b"\x01\x00\x00"),
        packed(HEAD + b"\x02\x00\x00\x03\x00\x05\x00"),
        packed(HEAD + b"\xff\xff\xff\xff\x0f"),
        packed(bytes([1, 2]) + bytes(64) + b"\x00"),
        packed(HEAD + b"\x00")[:-8],
        base64.b64encode(zlib.compress(HEAD + b"\x00") + b"more").decode(),
        BOMB[: profile_codec.TEXT_LIMIT],
        BOMB,
        "A" * (profile_codec.TEXT_LIMIT + 1),
    ],
)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(start_profiles.ProfileError):
        profile_codec.decode(text)


@pytest.mark.parametrize("seed", range(200))
def test_damage_is_refused_or_gives_a_sound_profile(seed: int) -> None:
    source = random.Random(seed)
    raw = bytearray(HEAD + b"\x03\x00\x00\x04\x00\x09\x01\x00\x13\x02")
    for _ in range(source.randrange(1, 4)):
        raw[source.randrange(len(raw))] = source.randrange(256)
    try:
        profile = profile_codec.decode(packed(bytes(raw)))
    except start_profiles.ProfileError:
        return

    assert Profile(profile.layers, profile.pieces) == profile


REPORT = profile_codec.Report(
    node="node-1.example",
    image="docker.io/library/app:1",
    manifest=f"sha256:{'d' * 64}",
    text=profile_codec.encode(Profile(LAYERS[:1], (Piece(0, 3, 4),))),
)


def test_a_report_is_read_as_it_was_written() -> None:
    assert profile_codec.parse_report(str(REPORT)) == REPORT


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(REPORT)[1:],
        f"{REPORT}\n",
        str(REPORT).replace("node-1", "node 1"),
        str(REPORT).replace("sha256:", "sha512:"),
        str(REPORT) + "A" * profile_codec.REPORT_LIMIT,
    ],
)
def test_another_form_of_report_is_refused(text: str) -> None:
    with pytest.raises(start_profiles.ProfileError):
        profile_codec.parse_report(text)
