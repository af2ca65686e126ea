"""Where paths lead: as continuity's RootPath, which joins texts step by step."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.build.tar import rooted_path


def joined(folder: bytes, rest: bytes) -> bytes:
    return posixpath.normpath(b"/" + (folder + b"/" + rest).lstrip(b"/"))


def by_text(path: bytes, readlink: rooted_path.Readlink) -> bytes:
    """As continuity writes it down, with Go's filepath.Join."""
    walked = 0
    while True:
        before, current = walked, b"/"
        for part in path.split(b"/"):
            if not part or part == b".":
                continue
            candidate = joined(current, part)
            target = readlink(candidate[1:]) if candidate != b"/" else None
            if target is None:
                current = candidate
                continue
            if walked > rooted_path.MAX_LINKS:
                raise rooted_path.TooManyLinksError
            walked += 1
            current = target if target.startswith(b"/") else joined(current, target)
        if walked == before:
            return joined(current, b"")[1:]
        path = current


TEXTS = st.lists(st.sampled_from([b"a", b"b", b"..", b".", b"", b"c"]), max_size=4).map(b"/".join)
LINKS = st.dictionaries(
    st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(b"/".join),
    TEXTS,
    max_size=5,
)


@given(TEXTS, LINKS)
def test_any_path_leads_where_joined_texts_lead(path: bytes, links: dict[bytes, bytes]) -> None:
    try:
        expected: bytes | None = by_text(path, links.get)
    except rooted_path.TooManyLinksError:
        expected = None
    try:
        actual: bytes | None = rooted_path.resolve(path, links.get)
    except rooted_path.TooManyLinksError:
        actual = None

    assert expected == actual


def test_names_that_are_looked_at_are_counted() -> None:
    counts: list[int] = []
    rooted_path.resolve(b"a/b/c", {b"a": b"d/e"}.get, counts.append)

    assert sum(counts) >= 3 + 4


def test_a_long_path_costs_no_more_than_its_length() -> None:
    """The parents of a path of 2,000 names were joined anew for each of them."""
    path = b"/".join([b"d"] * 2000)
    for _ in range(5):
        assert rooted_path.resolve(path, {}.get) == path


def test_a_circle_is_refused() -> None:
    with pytest.raises(rooted_path.TooManyLinksError):
        rooted_path.resolve(b"a", {b"a": b"b", b"b": b"a"}.get)
