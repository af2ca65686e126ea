import dataclasses
import pathlib
from typing import Annotated, Literal

import pytest

from agent.kits import flags


def no_spaces(text: str) -> None:
    if " " in text:
        raise ValueError("has a space")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Well:
    """All kinds of settings."""

    place: Annotated[pathlib.Path, "Where it is."]
    depth_seconds: Annotated[float, "How long a stone falls, 100 % of the way."] = 2.0
    buckets: Annotated[int, "How many there are."] = 3
    open: Annotated[bool, "Whether it has no lid."] = True
    bottom: Annotated[pathlib.Path | None, "What lies there."] = None
    water: Annotated[Literal["sweet", "salt"], "What it gives."] = "sweet"
    owner: Annotated[str, "Whose it is.", flags.Checked(no_spaces)] = ""
    rope_metres: Annotated[float, "How long the rope is.", flags.Formerly("rope")] = 10.0
    width_metres: Annotated[float, "How wide it is.", flags.Formerly("width", variable=False)] = 1.0
    frog: Annotated[tuple[str, ...], "A frog in it.", flags.FlagOnly()] = ()
    cursed: Annotated[bool, "Better not drink.", flags.FlagOnly()] = False
    inner: float = 1.0


def read(*arguments: str, **environment: str) -> Well:
    return flags.read(
        Well,
        arguments,
        program="well",
        description="Gives water.",
        check=lambda well: ["it is dry"] if well.buckets == 13 else [],
        environment={f"UIMGACC_{name}": value for name, value in environment.items()},
    )


def test_defaults_hold_where_nothing_is_said() -> None:
    assert read("--place=/w") == Well(place=pathlib.Path("/w"))


def test_flags_beat_variables_and_these_beat_defaults() -> None:
    well = read("--buckets=5", PLACE="/w", BUCKETS="4", DEPTH_SECONDS="1.5", OPEN="False")

    assert (well.place, well.buckets, well.depth_seconds) == (pathlib.Path("/w"), 5, 1.5)
    assert well.open is False


def test_a_flag_that_is_repeated_collects_and_a_switch_needs_no_value() -> None:
    well = read("--place=/w", "--frog=a", "--frog", "b", "--cursed", FROG="ignored")

    assert (well.frog, well.cursed) == (("a", "b"), True)


def test_empty_is_unset_where_there_may_be_nothing() -> None:
    assert read(PLACE="/w", BOTTOM="").bottom is None


def test_a_former_name_is_still_read_and_the_new_one_wins() -> None:
    assert read("--place=/w", "--rope=5").rope_metres == 5
    assert read(PLACE="/w", ROPE="6").rope_metres == 6
    assert read(PLACE="/w", ROPE="6", ROPE_METRES="7").rope_metres == 7


def test_all_problems_are_reported_at_once_a_line_for_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--buckets=many", "--water", "dirty", "--hat", DEPTH_SECONDS="-1", OWNER="a b")

    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("well: ")] == [
        "well: unknown: --hat",
        "well: --place (UIMGACC_PLACE) is needed: Where it is.",
        "well: UIMGACC_DEPTH_SECONDS: expected a number that is not negative, not '-1'",
        "well: --buckets: expected a whole number that is not negative, not 'many'",
        "well: --water: expected sweet or salt, not 'dirty'",
        "well: UIMGACC_OWNER: has a space",
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "", "1s"])
def test_what_is_no_finite_number_is_refused(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read("--place=/w", f"--depth-seconds={value}")

    assert "--depth-seconds: expected a number" in capsys.readouterr().err


def test_values_that_do_not_fit_together_are_a_problem_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        read("--place=/w", "--buckets=13")

    assert capsys.readouterr().err.endswith("well: it is dry\n")


def test_a_former_name_is_read_as_a_variable_only_where_it_means_the_same_to_all_roles() -> None:
    assert read("--place=/w", ROPE="3").rope_metres == 3
    assert read("--place=/w", WIDTH="3").width_metres == 1
    assert read("--place=/w", "--width=3", "--rope=4").width_metres == 3


def test_help_describes_every_flag_with_variable_and_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--help")

    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--depth-seconds SECONDS How long a stone falls, 100 % of the way." in text
    assert "[UIMGACC_DEPTH_SECONDS] (default 2)" in text
    assert "--water sweet|salt What it gives. [UIMGACC_WATER] (default sweet)" in text
    assert "--cursed Better not drink. A flag" in text
    assert "--rope " not in text


def test_the_table_of_the_reference_has_a_row_for_each_setting() -> None:
    rows = list(flags.markdown(Well))

    assert len(rows) == 2 + len(flags.settings_of(Well)) == 13
    assert rows[2] == "| `UIMGACC_PLACE` | `--place` | required | Where it is. |"
    assert rows[9] == (
        "| `UIMGACC_ROPE_METRES`, formerly `UIMGACC_ROPE` | `--rope-metres` | `10`"
        " | How long the rope is. |"
    )
