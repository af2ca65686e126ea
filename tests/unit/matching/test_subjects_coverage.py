"""Layer arithmetic."""

import pytest

from agent.matching import subjects
from agent.model import images
from tests.unit.matching import making


def layers(letters: str) -> list[making.records.ImageLayer]:
    return making.image("app", letters).platforms[0].layers


def held(letters: str) -> set[str]:
    return {making.digest(f"layer {letter}") for letter in letters}


@pytest.mark.parametrize(
    ("letters", "having", "expected"),
    [
        ("abc", "abc", (3, 3)),
        ("abc", "ab", (3, 2)),
        ("abc", "bc", (3, 0)),
        ("abc", "ac", (3, 1)),
        ("aab", "a", (2, 1)),
        ("", "", (0, 0)),
    ],
)
def test_only_layers_from_the_bottom_in_a_row_count(
    letters: str, having: str, expected: tuple[int, int]
) -> None:
    covered = subjects.cover([layers(letters)], held(having))

    assert (covered.layers, covered.held_layers) == expected


def test_a_layer_of_two_images_counts_once() -> None:
    covered = subjects.cover([layers("ab"), layers("ac")], held("ab"))

    assert covered.size == sum(map(making.layer_size, "abc"))
    assert covered.held_size == sum(map(making.layer_size, "ab"))


def test_a_layer_that_one_image_reaches_counts_though_another_does_not() -> None:
    assert subjects.cover([layers("xb"), layers("ab")], held("ab")).held_layers == 2


@pytest.mark.parametrize(
    ("made_for", "node", "found"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm", "linux/arm/v7", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/amd64/v3", "linux/amd64", False),
        ("windows/amd64", "linux/amd64", False),
        ("nonsense", "linux/amd64", False),
    ],
)
def test_the_layers_are_those_of_the_nodes_platform(made_for: str, node: str, found: bool) -> None:
    record = making.image("app", "ab", platform=made_for)

    assert (subjects.layers_for(record, images.parse_platform(node)) is not None) is found


def test_without_a_platform_the_first_is_taken() -> None:
    assert subjects.layers_for(making.image("app", "ab", platform="linux/s390x"), None)
