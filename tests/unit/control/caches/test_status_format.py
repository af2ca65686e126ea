"""Statuses read and written: nothing is lost, and no status of anybody ends the controller."""

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.caches import cache_object, cache_state, status_format
from agent.model import caches, keys

DIALECTS = [caches.Dialect.NATIVE, caches.Dialect.ALIBABA, caches.Dialect.TENCENT]
MOMENTS = st.integers(0, 2**32).map(lambda at: datetime.datetime.fromtimestamp(at, datetime.UTC))
MAYBE = st.none() | MOMENTS
STATES = st.builds(
    cache_state.State,
    phase=st.sampled_from(cache_state.Phase),
    cache_id=st.text(max_size=5),
    progress=st.integers(0, 100),
    message=st.text(max_size=20),
    generation=st.integers(0, 9),
    started=MAYBE,
    changed=MAYBE,
    expires=MAYBE,
    matched=MAYBE,
    verified=st.booleans(),
    size=st.integers(0, 2**50),
    images=st.lists(st.builds(cache_state.BuiltImage, image=st.text(), digest=st.text())).map(
        tuple
    ),
    build=st.builds(
        cache_state.Build,
        spec=st.text(max_size=5),
        platforms=st.lists(st.text(max_size=5)).map(tuple),
        time=MAYBE,
        failures=st.integers(0, 9),
        failed=st.text(max_size=5),
        retry=MAYBE,
    ),
    events=st.lists(
        st.builds(
            cache_state.Happening,
            name=st.text(),
            message=st.text(),
            at=MOMENTS,
            warning=st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
)


@given(STATES, st.sampled_from(DIALECTS))
def test_what_is_written_is_read_again(state: cache_state.State, dialect: caches.Dialect) -> None:
    status = status_format.patch_of(state, dialect, {})
    found = status_format.of_status(status, dialect)

    expected = state
    if dialect is caches.Dialect.TENCENT:
        assert "phase" not in status
        # Its users have no word for these.
        phase = {cache_state.Phase.CREATING: cache_state.Phase.PENDING}.get(
            state.phase, state.phase
        )
        expected = cache_state.dataclasses.replace(state, events=(), phase=phase)
    assert found == expected
    assert status_format.patch_of(state, dialect, status) == {}


def applied(status: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386."""
    result = dict(status) if isinstance(status, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = applied(result.get(key), value)
        else:
            result[key] = value
    return result


@given(STATES, STATES)
def test_a_patch_makes_one_status_the_other(
    one: cache_state.State, other: cache_state.State
) -> None:
    before = status_format.patch_of(one, caches.Dialect.ALIBABA, {})
    patch = status_format.patch_of(other, caches.Dialect.ALIBABA, before)

    after = applied(before, patch)

    assert status_format.of_status(after, caches.Dialect.ALIBABA) == other


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["phase", "progress", "images", "build", "events", "conditions", "size", "startTime"]
)


@given(st.dictionaries(FIELDS, JSON) | JSON)
def test_any_status_can_be_read_and_put_right(status: Any) -> None:
    state = status_format.of_status(status, caches.Dialect.ALIBABA)
    before = status if isinstance(status, dict) else {}

    patch = status_format.patch_of(state, caches.Dialect.ALIBABA, before)

    assert status_format.of_status(applied(before, patch), caches.Dialect.ALIBABA) == (
        cache_state.dataclasses.replace(state, phase=state.phase or cache_state.Phase.PENDING)
    )


def test_times_of_conditions_change_with_their_status_only() -> None:
    first = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
    later = first + datetime.timedelta(hours=1)
    ready = cache_state.State(phase=cache_state.Phase.READY, changed=first)
    before = status_format.conditions(ready, None)
    updating = cache_state.State(phase=cache_state.Phase.UPDATING, changed=later)

    after = status_format.conditions(updating, before)

    times = [each["lastTransitionTime"] for each in after]
    assert times == [status_format.stamp(first), status_format.stamp(later)]


METADATA = st.dictionaries(
    st.sampled_from(["uimgacc.io/refresh-hours", "uimgacc.io/last-matched", "uimgacc.io/refresh"]),
    st.text(max_size=20),
)


@given(METADATA, JSON, JSON)
def test_any_object_can_be_read(annotations: dict[str, str], spec: Any, status: Any) -> None:
    found = cache_object.parse(
        {
            "apiVersion": "uimgacc.io/v1",
            "kind": "ImageCache",
            "metadata": {
                "name": "a",
                "uid": "u",
                "resourceVersion": "1",
                "annotations": annotations,
                "labels": {keys.AUTO_CREATED: "true"},
            },
            "spec": spec,
            "status": status,
        }
    )

    assert (found.request is None) is bool(found.problem)
    assert found.cache_id


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "1e9"])
def test_a_refresh_that_makes_no_sense_is_none(text: str) -> None:
    assert cache_object._hours(text) is None
