"""The screen of `uimgacc status`. UIMGACC_GOLDEN=write writes the golden files anew."""

import dataclasses
import io
import json
import os
import pathlib

import pytest
import rich.console

from agent.cli.cluster import problems, status_view, survey
from agent.model import keys
from tests.unit.cli.cluster import surveys

GOLDEN = pathlib.Path(__file__).parents[3] / "golden/status"
CLUSTERS = {"small": surveys.small, "large": surveys.large}


def screen(read: survey.Survey, *, terminal: bool = False) -> str:
    written = io.StringIO()
    console = rich.console.Console(
        width=100, file=written, highlight=False, markup=False, force_terminal=terminal
    )
    status_view.show(console, read, problems.of_survey(read))
    lines = (line.rstrip() for line in written.getvalue().splitlines())
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_screen_is_as_it_was(name: str) -> None:
    shown = screen(CLUSTERS[name]())
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UIMGACC_GOLDEN") == "write":
        golden.write_text(shown)

    assert shown == golden.read_text()


def test_a_large_cluster_with_everything_wrong_fits_on_one_screen() -> None:
    lines = screen(surveys.large()).splitlines()

    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_colours_are_for_terminals() -> None:
    assert "\x1b[" in screen(surveys.small(), terminal=True)
    assert "\x1b" not in screen(surveys.small())


def test_programs_get_all_of_it() -> None:
    read = surveys.large()
    found = problems.of_survey(read)

    answer = json.loads(json.dumps(status_view.to_json(read, found)))

    assert answer["works"] is False
    assert (answer["nodes"]["count"], answer["nodes"]["capable"]) == (5000, 4937)
    assert sum(each["count"] for each in answer["nodes"]["notCapable"]) == 63
    assert len(answer["problems"]) == len(found) > 7
    assert len(answer["savings"]["images"]) == 14
    assert "leader" in answer["unread"]


def test_a_cluster_without_uimgacc_says_how_to_install_it() -> None:
    read = dataclasses.replace(
        surveys.small(), agents=survey.Workload(), controller=survey.Workload()
    )

    shown = screen(read)

    assert "not installed" in shown.splitlines()[0]
    assert "-> uimgacc enable --nfs SERVER:/PATH" in shown


def test_nodes_without_image_volumes_are_counted() -> None:
    tally = surveys.nodes(capable=1)
    tally.label({"name": "native", "labels": {keys.CAPABLE: "true", keys.HANDLER_LABEL: "true"}})
    both = {keys.HANDLER_LABEL: "true", keys.IMAGE_VOLUMES_LABEL: "true"}
    tally.label({"name": "other", "labels": {keys.CAPABLE: "true", **both}})
    read = dataclasses.replace(surveys.small(), nodes=tally)

    assert "1 without image volumes" in screen(read)
    assert status_view.to_json(read, [])["nodes"]["withoutImageVolumes"] == 1
