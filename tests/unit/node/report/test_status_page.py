"""What a person reads on the page; how it looks is tested in a browser (tests/pages)."""

import datetime
import html
import re

import pytest

from agent.matching import decisions
from agent.node.near import copies
from agent.node.report import status, status_page
from tests.unit.node import statuses


def text_of(shown: status.Status) -> str:
    document = status_page.render(shown, now=statuses.NOW).decode()
    body = document.partition("<body>")[2]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def test_a_well_node_says_so_first() -> None:
    text = text_of(statuses.busy())

    assert "This node serves images from the store" in text
    assert text.index("serves images") < text.index("Health")
    assert "What to do - " not in text


def test_a_node_that_cannot_serve_says_why_and_what_to_do() -> None:
    text = text_of(statuses.busy(problem="read did not answer within 2 s", capable=False))

    assert "does not serve images from the store; pods pull their images as usual" in text
    assert text.count("read did not answer within 2 s") >= 2
    assert "Is the store's server up" in text
    assert "away to answer the last probe" in text


def test_a_first_problem_is_a_doubt_not_a_verdict() -> None:
    text = text_of(statuses.busy(problem="read did not answer within 2 s"))

    assert "In doubt" in text
    assert "does not serve" not in text


@pytest.mark.parametrize("outcome", decisions.Outcome)
def test_every_outcome_has_a_word_and_a_reason(outcome) -> None:
    pod = statuses.pod("app", outcome.value, sentence="the reason")
    text = text_of(statuses.busy(pods=[pod], ended_pods=[]))

    assert "waiting" not in text
    assert "the reason" in text


def test_savings_show_the_figures_behind_them() -> None:
    text = text_of(statuses.busy())

    assert "run at 38.1 MiB/s" in text
    assert "1.1 GiB at 38.1 MiB/s, from 5 pulls of this node" in text
    assert "the build: 61.0 s for 572 MiB, of which 286 MiB count" in text
    assert "nothing measured, so nothing claimed" in text
    assert "170 GiB" in text
    assert "1 h 10 min" in text
    assert "82%" in text


def test_how_much_survives_an_outage_is_said_in_containers_and_bytes() -> None:
    text = text_of(statuses.busy())

    assert "Survives an outage 75% 3 of 4 containers, now" in text
    assert "2.9 GiB of 3.7 GiB are read from this node's disk" in text
    assert "3 need no store, 1 read from it" in text
    assert "9 layers, 3.9 GiB; at most 18.6 GiB now" in text


def test_a_node_without_containers_claims_no_independence() -> None:
    text = text_of(statuses.busy(local=copies.State()))

    assert "no container runs on the store's layers" in text


def test_what_holds_up_a_deletion_is_named() -> None:
    text = text_of(statuses.busy())

    assert "generation 6 and all before" in text
    assert "imc-old/0123456789abcdef: team/trainer-0" in text


def test_an_idle_node_has_a_page_as_well() -> None:
    nothing = status.Savings(
        seconds=0.0,
        bytes=0,
        images={"hit": 0, "partial": 0, "miss": 0},
        bytes_per_second=None,
        samples=[],
        last=[],
    )
    mounts = status.Mounts(folder="", layers={})
    text = text_of(
        statuses.busy(pods=[], ended_pods=[], savings=nothing, mounts=mounts, manifest_problems={})
    )

    assert "No pods on this node yet" in text
    assert "Nothing saved yet" in text


def test_a_thousand_pods_do_not_make_a_page_without_end() -> None:
    shown = statuses.busy(pods=[statuses.pod(f"pod-{n}") for n in range(1000)])
    document = status_page.render(shown, now=statuses.NOW)

    assert "The newest 100 of 1000" in document.decode()
    assert len(document) < 200_000


def test_a_clock_that_was_set_back_is_no_negative_time() -> None:
    before = statuses.NOW - datetime.timedelta(days=1)
    document = status_page.render(statuses.busy(), now=before).decode()

    assert "-1" not in re.sub(r"<[^>]*>", " ", document.partition("<main>")[2])


def test_pods_that_are_gone_stand_apart_with_their_end() -> None:
    ended = statuses.NOW - datetime.timedelta(minutes=2)
    gone = statuses.pod("job", None, sentence="it ended before its turn came", ended=ended)
    text = text_of(statuses.busy(pods=[], ended_pods=[gone]))

    assert "No pods on this node yet" not in text
    assert "Gone since: the last 1, the latest first" in text
    assert "3 min ago, ended 2 min ago" in re.sub(r" +,", ",", text)
    assert "waiting" not in text
