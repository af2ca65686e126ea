"""Events of pulls in the words of several kubelets, and in those of forgers."""

import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.pulls import pull_events, pull_table

AT = "2026-03-01T12:00:00Z"
NEW = 'Successfully pulled image "app:1" in 12.3s (15.1s including waiting). Image size: 123 bytes.'


def event(message: Any, **more: Any) -> dict[str, Any]:
    return {
        "kind": "Event",
        "metadata": {"name": "p.1", "namespace": "team"},
        "involvedObject": {"kind": "Pod", "namespace": "team", "name": "p"},
        "reason": "Pulled",
        "message": message,
        "source": {"component": "kubelet", "host": "n1"},
        "lastTimestamp": AT,
        "count": 1,
        **more,
    }


def test_the_words_since_1_30() -> None:
    assert pull_events.read(event(NEW)) == pull_events.Pull(
        image="docker.io/library/app:1",
        seconds=12.3,
        size=123,
        namespace="team",
        pod="p",
        node="n1",
        when=datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC),
    )


@pytest.mark.parametrize(
    ("took", "seconds"),
    [
        ("313ms (313ms including waiting)", 0.313),
        ("1m2.345s (1m2.345s including waiting)", 62.345),
        ("1h0m3.5s (2h0m0s including waiting)", 3603.5),
        ("15µs (15µs including waiting)", 15e-6),
        ("0s (796ms including waiting)", 0.0),
        # Up to 1.26.
        ("2.5s", 2.5),
    ],
)
def test_the_words_before_1_30_and_go_s_times(took: str, seconds: float) -> None:
    pull = pull_events.read(event(f'Successfully pulled image "a.example/app:1" in {took}'))

    assert pull is not None
    assert (pull.image, pull.size) == ("a.example/app:1", 0)
    assert pull.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("rest", ["", " and can be accessed by the pod"])
def test_an_image_that_was_there_was_not_pulled(rest: str) -> None:
    text = f'Container image "app:1" already present on machine{rest}'

    assert pull_events.read(event(text)) is None


def test_alike_events_of_a_pod_that_client_go_has_combined() -> None:
    pull = pull_events.read(event(f"(combined from similar events): {NEW}", count=7))

    assert pull is not None
    assert (pull.seconds, pull.times) == (12.3, 7)


def test_an_event_of_the_newer_kind_of_events() -> None:
    pull = pull_events.read(
        event(
            NEW,
            source={},
            reportingComponent="kubelet",
            reportingInstance="n2",
            lastTimestamp=None,
            eventTime="2026-03-01T12:00:00.123456Z",
            count=None,
        )
    )

    assert pull is not None
    assert (pull.node, pull.times) == ("n2", 1)
    assert pull.when is not None


@pytest.mark.parametrize(
    "message",
    [
        "",
        "anything",
        7,
        NEW.replace("app:1", "\x1b[31mapp"),
        NEW.replace("app:1", "app:1\n\nSystem: "),
        NEW.replace("app:1", '../etc" '),
        NEW.replace("app:1", "UPPER/case"),
        NEW.replace("app:1", "a" * 600),
        NEW.replace("123 bytes", f"{10**17} bytes"),
        NEW.replace("12.3s", "999999h"),
        NEW.replace("12.3s", "1.2.3s"),
        NEW.replace("12.3s", "-12.3s"),
        NEW.replace("12.3s", "nan"),
        NEW + "\x1b]0;title\x07",
        "x" * 5000,
    ],
)
def test_what_no_kubelet_writes_is_not_believed(message: Any) -> None:
    with pytest.raises(pull_events.NotUnderstood):
        pull_events.read(event(message))


@pytest.mark.parametrize(
    "more",
    [
        {"source": {"component": "me"}},
        {"source": "kubelet"},
        {"involvedObject": {"kind": "Pod", "namespace": "team", "name": "p\x1b[0m"}},
        {"involvedObject": []},
        {"involvedObject": {"name": "p"}},
    ],
)
def test_events_of_others_and_of_no_pod(more: dict[str, Any]) -> None:
    with pytest.raises(pull_events.NotUnderstood):
        pull_events.read(event(NEW, **more))


def test_figures_of_a_forger_are_capped() -> None:
    pull = pull_events.read(event(NEW, count=10**9, source={"component": "kubelet", "host": "a b"}))

    assert pull is not None
    assert pull.times == 20
    assert pull.node == ""


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
FIELDS = ("message", "count", "lastTimestamp", "source", "involvedObject", "reportingComponent")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FIELDS), ANYTHING, st.text(max_size=20), st.integers(0, len(NEW)))
def test_whatever_an_event_says_it_is_read_or_refused(field, value, inserted, at) -> None:
    changed = event(NEW[:at] + inserted + NEW[at:]) | {field: value}
    try:
        pull = pull_events.read(changed)
    except pull_events.NotUnderstood:
        return

    if pull is not None:
        assert pull.image.isascii()
        assert pull.image.isprintable()
        assert 0 <= pull.seconds <= pull_events.LONGEST
        assert 0 <= pull.size <= pull_events.LARGEST
        assert 1 <= pull.times <= 20
        pull_table.PullTable(most=1).add(pull, datetime.datetime.now(datetime.UTC))
