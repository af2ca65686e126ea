"""containerd's filter language; the cases are those of its own parser's tests that concern us."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.snapshotter import filters

FIELDS = {
    ("name", ""): "sn",
    ("parent", ""): "",
    ("labels", "a"): "1",
    ("labels", "io/x.y"): 'say "hi"',
}


def field(name: str, key: str) -> str | None:
    return FIELDS.get((name, key))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name==sn", True),
        ("name!=sn", False),
        ("name", True),
        ("parent", False),
        ('parent==""', True),
        ("labels.a==1", True),
        ("labels.a!=2", True),
        ("labels.none!=2", True),
        ("labels.none==", False),
        ("labels.none", False),
        ('labels."io/x.y"=="say \\"hi\\""', True),
        ("labels.a~=^[0-9]$", True),
        ("name==sn,labels.a==1", True),
        ("name==sn,labels.a==2", False),
        ("unknown==x", False),
    ],
)
def test_one_filter(text: str, expected: bool) -> None:
    assert filters.any_matches(filters.parse_all([text]), field) is expected


def test_no_filter_matches_and_several_are_an_or() -> None:
    assert filters.any_matches([], field)
    assert filters.any_matches(filters.parse_all(["name==x", "labels.a==1"]), field)


@pytest.mark.parametrize("text", ["==x", "name=x", 'name=="x"y', "a b", "name~x"])
def test_what_does_not_parse_is_an_error(text: str) -> None:
    with pytest.raises(filters.FilterError):
        filters.parse(text)


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_quoted_value_is_taken_as_it_is(key: str, value: str) -> None:
    def quote(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    (selector,) = filters.parse(f"labels.{quote(key)}=={quote(value)}")

    assert (selector.key, selector.value) == (key, value)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_a_filter_error(text: str) -> None:
    with contextlib.suppress(filters.FilterError):
        filters.parse(text)


def test_the_equality_that_a_filter_requires() -> None:
    selectors = filters.parse('labels."r"==x,parent=="p"')

    assert filters.required(selectors, "labels", "r") == "x"
    assert filters.required(selectors, "parent") == "p"
    assert filters.required(selectors, "name") is None
