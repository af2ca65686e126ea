import pytest

from agent.kits import units


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (102350, "100 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (150 << 20, "150 MiB"),
        (2 << 40, "2.0 TiB"),
        (30000 << 40, "30000 TiB"),
    ],
)
def test_sizes_are_short(count: int, expected: str) -> None:
    assert units.size(count) == expected


def test_measured_times_are_readable() -> None:
    times = [units.duration(seconds) for seconds in (None, 0.0414, 1.25, 119, 600, 7300)]

    assert times == ["-", "41 ms", "1.2 s", "119.0 s", "10 min", "2 h 1 min"]


def test_spans_are_readable() -> None:
    assert [units.span(s) for s in (-5, 59, 200_000)] == ["0 s", "59 s", "2 d 7 h"]


def test_ages_are_those_of_kubectl() -> None:
    assert [units.age(s) for s in (-5, 5, 130, 3700, 3 * 86400)] == ["0s", "5s", "2m", "1h", "3d"]


def test_a_share_is_bytes_or_a_part_of_the_whole() -> None:
    assert [units.share(text, 200) for text in ("1Ki", "20%", "0%", " 12.5 % ")] == [
        1024,
        40,
        0,
        25,
    ]


@pytest.mark.parametrize("text", ["%", "-1%", "101%", "nan%", "20 %%", "much"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a quantity of bytes"):
        units.share(text, 200)
