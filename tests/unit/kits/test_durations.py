"""Durations as Go writes them."""

import pytest

from agent.kits import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("1h30m", 5400), ("1.5h", 5400), (".5s", 0.5), ("6h0m0s", 21600)],
)
def test_durations_are_read_as_go_writes_them(text, seconds) -> None:
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1d", "-1s", "1h ", "1h1", "\u0661h"])
def test_what_is_no_duration_is_refused(text) -> None:
    with pytest.raises(ValueError, match="duration"):
        durations.seconds(text)
