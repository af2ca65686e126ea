"""Making, bounding, merging and verifying start profiles."""

import pytest

from agent.model.starts import start_profiles
from agent.model.starts.start_profiles import Piece, Profile

LOWER, UPPER, OTHER = (f"sha256:{letter * 64}" for letter in "abc")
UNIT = start_profiles.UNIT


def test_pieces_are_joined_over_small_gaps_and_ordered_by_first_use() -> None:
    looks = [{UPPER: [100, 102]}, {LOWER: [7, 8]}, {UPPER: [101, 500], LOWER: [7]}]

    assert start_profiles.make(looks) == Profile(
        (LOWER, UPPER), (Piece(1, 100, 3), Piece(0, 7, 2), Piece(1, 500, 1))
    )


def test_a_layer_that_was_observed_and_not_read_is_in_the_profile() -> None:
    assert start_profiles.make([{LOWER: []}]) == Profile((LOWER,), ())


def test_a_long_range_is_cut_so_that_what_is_read_late_comes_late() -> None:
    segment = start_profiles.SEGMENT
    looks = [{UPPER: range(10)}, {LOWER: [0]}, {UPPER: range(10, 2 * segment)}]

    assert start_profiles.make(looks).pieces == (
        Piece(1, 0, segment),
        Piece(0, 0, 1),
        Piece(1, segment, segment),
    )


def test_what_was_read_last_is_left_out_of_one_that_is_too_large() -> None:
    whole = range(start_profiles.MAX_UNITS - 1)
    made = start_profiles.make([{UPPER: whole}, {LOWER: [0, 1, 2]}, {OTHER: [5]}])

    assert made.size == len(whole) * UNIT
    assert {piece.layer for piece in made.pieces} == {made.layers.index(UPPER)}


@pytest.mark.parametrize(
    ("layers", "pieces"),
    [
        ((LOWER, LOWER), ()),
        (("sha256:../../etc",), ()),
        (tuple(f"sha256:{number:064x}" for number in range(257)), ()),
        ((LOWER,), (Piece(1, 0, 1),)),
        ((LOWER,), (Piece(-1, 0, 1),)),
        ((LOWER,), (Piece(0, -1, 1),)),
        ((LOWER,), (Piece(0, 0, 0),)),
        ((LOWER,), (Piece(0, 0, 2), Piece(0, 1, 1))),
        ((LOWER,), (Piece(0, 0, start_profiles.MAX_UNITS + 1),)),
        ((LOWER,), (Piece(0, start_profiles.MAX_START, 1),)),
        ((LOWER, UPPER), tuple(Piece(at, start_profiles.MAX_START - 2, 1) for at in (0, 1))),
        ((LOWER,), tuple(Piece(0, 2 * at, 1) for at in range(start_profiles.MAX_PIECES + 1))),
    ],
)
def test_one_that_breaks_a_bound_cannot_be_made(
    layers: tuple[str, ...], pieces: tuple[Piece, ...]
) -> None:
    with pytest.raises(start_profiles.ProfileError):
        Profile(layers, pieces)


def test_it_must_be_of_layers_of_the_image_and_within_their_files() -> None:
    profile = Profile((LOWER, UPPER), (Piece(0, 0, 2), Piece(1, 1, 1)))

    assert start_profiles.within(profile, {LOWER: UNIT + 1, UPPER: 2 * UNIT, OTHER: 1}) is profile
    with pytest.raises(start_profiles.ProfileError, match="beyond the end"):
        start_profiles.within(profile, {LOWER: UNIT, UPPER: 2 * UNIT})
    with pytest.raises(start_profiles.ProfileError, match="no layer of the image"):
        start_profiles.within(profile, {LOWER: UNIT + 1})


def test_another_build_takes_the_layers_that_it_shares() -> None:
    profile = Profile((LOWER, UPPER), (Piece(1, 5, 1), Piece(0, 0, 2), Piece(1, 9, 1)))

    assert start_profiles.of_layers(profile, {UPPER, OTHER}) == Profile(
        (UPPER,), (Piece(0, 5, 1), Piece(0, 9, 1))
    )


def test_who_has_observed_a_layer_first_decides() -> None:
    first = Profile((LOWER,), (Piece(0, 0, 2),))
    second = Profile((UPPER, LOWER), (Piece(1, 50, 9), Piece(0, 7, 1)))

    assert start_profiles.merged(first, second) == Profile(
        (LOWER, UPPER), (Piece(0, 0, 2), Piece(1, 7, 1))
    )
    assert start_profiles.merged(first, first) == first


def test_the_units_of_a_layer() -> None:
    profile = Profile((LOWER, UPPER), (Piece(1, 5, 2), Piece(0, 0, 2), Piece(1, 9, 1)))

    assert profile.units_of(UPPER) == {5, 6, 9}
    assert profile.units_of(OTHER) == set()
    assert profile.size == 5 * UNIT
