"""What is wrong with a cluster, and the command for each."""

import dataclasses
import os
import pathlib

import pytest

from agent.cli.cluster import node_tally, problems, remedies, survey
from agent.model import reports
from agent.node.health import node_patch
from tests.unit.cli.cluster import surveys

PAGE = pathlib.Path(__file__).parents[4] / "docs/operate/troubleshooting.md"
BEGIN, END = "<!-- what status says -->\n", "<!-- end -->\n"


def keys_of(read: survey.Survey) -> list[str]:
    return [each.remedy.key for each in problems.of_survey(read)]


def of_cache(*each) -> list[problems.Problem]:
    return problems.of_survey(dataclasses.replace(surveys.small(), caches=surveys.caches(*each)))


def test_nothing_is_wrong_with_a_cluster_that_is_well() -> None:
    assert keys_of(surveys.small()) == []


def test_everything_has_a_command_without_gaps() -> None:
    found = problems.of_survey(surveys.large())

    assert {each.remedy.key for each in found} >= {
        "controller-not-ready",
        "no-leader",
        "agents-not-ready",
        "rolling-out",
        "versions-differ",
        "store-unavailable",
        "served-locally",
        "handler-missing",
        "no-agent",
        "build-failed",
        "no-space",
        "build-stuck",
        "never-looked-at",
        "tags-moved",
        "deletion-waits",
    }
    assert [each.command for each in found if "{" in each.command] == []
    faults = [each.is_fault for each in found]
    assert faults == sorted(faults, reverse=True)


def test_commands_name_an_example() -> None:
    commands = [each.command for each in problems.of_survey(surveys.large())]

    assert "kubectl -n uimgacc-system exec uimgacc-node-c3 -c agent -- uimgacc doctor" in commands
    assert "kubectl describe imagecaches.uimgacc.io gone-0" in commands


@pytest.mark.parametrize(
    ("phase", "message", "key"),
    [
        ("Failed", "The build failed: the Secret team/pull does not exist.", "secret-missing"),
        ("Failed", "The build failed: the images need 31 GiB or more.", "needs-more"),
        ("UpdateFailed", "The build failed: 401 from the registry.", "build-failed"),
        ("Pending", "The store does not answer: no answer within 5 s", "store-does-not-answer"),
        ("Creating", "It is being built: the builder's pod does not start: ...", "builder-waits"),
        ("Failed", "The manifest cannot be used: spec.images: 21 images", "invalid"),
    ],
)
def test_a_cache_s_message_is_known(phase: str, message: str, key: str) -> None:
    assert [each.remedy.key for each in of_cache(surveys.cache("c", phase, message))] == [key]


def test_a_cache_that_waits_for_its_turn_is_no_problem() -> None:
    waiting = surveys.cache("c", "Pending", "It waits for a free slot: it is built when it is ...")

    assert of_cache(waiting) == []


def test_what_was_switched_off_is_no_fault() -> None:
    off = dataclasses.replace(
        surveys.small(), off=True, nodes=surveys.nodes(surveys.node("n", "SwitchedOff", "off"))
    )
    found = problems.of_survey(off)

    assert [each.remedy.key for each in found] == ["switched-off", "node-switched-off"]
    assert not any(each.is_fault for each in found)


@pytest.mark.parametrize(
    ("message", "key", "is_fault"),
    [
        (f"no plugin; node set-up: {reports.SETUP_WAITS}: see", "node-waits", False),
        (f"no plugin; node set-up: restarted, and {reports.SETUP_KEEPS}: x", "node-not-back", True),
        ("no plugin", "snapshotter-not-configured", True),
    ],
)
def test_a_node_whose_set_up_waits_is_sent_to_the_list_of_nodes(
    message: str, key: str, is_fault: bool
) -> None:
    node = surveys.node("n", "SnapshotterNotConfigured", message)
    (found,) = problems.of_survey(dataclasses.replace(surveys.small(), nodes=surveys.nodes(node)))

    assert (found.remedy.key, found.is_fault) == (key, is_fault)
    assert (found.command == "uimgacc node list") is key.startswith("node-")


def test_a_node_that_was_left_out_is_no_fault() -> None:
    node = surveys.node("n", "", "")
    node["metadata"]["labels"] = {"uimgacc.io/enabled": "false"}
    (found,) = problems.of_survey(dataclasses.replace(surveys.small(), nodes=surveys.nodes(node)))

    assert found.command == "uimgacc node enable n"
    assert not found.is_fault


def test_each_reason_of_a_node_s_condition_has_a_command() -> None:
    of_setup = {node_tally.DISABLED, node_tally.NOT_BACK, node_tally.WAITS}
    reasons = {*node_patch.REASONS.values(), node_patch.LOCAL, *of_setup}

    assert {each.reason for each in remedies.NODES if each.reason} == reasons


def test_the_documentation_has_the_same_table() -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = "\n".join(remedies.table()) + "\n"
    if os.environ.get("UIMGACC_GOLDEN") == "write":
        PAGE.write_text(f"{before}{BEGIN}{made}{END}{after}")

    assert f"{BEGIN}{made}{END}" in PAGE.read_text()
