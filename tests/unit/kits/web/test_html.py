import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kits.web import html


@given(st.text())
def test_text_cannot_leave_its_element(text: str) -> None:
    markup = html.tag("p", text)

    assert markup[3:-4].count("<") == 0
    assert (markup[:3], markup[-4:]) == ("<p>", "</p>")


@given(st.text())
def test_text_cannot_leave_an_attribute(text: str) -> None:
    markup = html.tag("p", title=text)
    inner = markup.removeprefix('<p title="').removesuffix('"></p>')

    assert not set(inner) & set("\"<>'")


def test_markup_goes_in_as_it_is_and_only_once() -> None:
    inner = html.tag("b", "a & b")

    assert html.tag("p", [inner, None, 3], "<") == "<p><b>a &amp; b</b>3&lt;</p>"


def test_adding_text_to_markup_is_text_again() -> None:
    """`Html` is a promise about the whole string, which a sum does not keep."""
    assert html.join(html.tag("b", "x") + "<i>") == "&lt;b&gt;x&lt;/b&gt;&lt;i&gt;"


@given(st.characters(categories=["Cs"]))
def test_what_is_no_unicode_is_shown_as_an_escape(letter: str) -> None:
    """A JSON manifest can hold half of a surrogate pair."""
    document = html.Page(title=letter).render(html.tag("p", letter))

    assert f"<p>\\u{ord(letter):04x}</p>".encode() in document


def test_code_in_a_sentence_is_set_as_code_and_escaped() -> None:
    assert html.prose("run `a <b>` & wait") == "run <code>a &lt;b&gt;</code> &amp; wait"


def test_a_row_that_is_too_short_is_a_mistake_not_a_page() -> None:
    with pytest.raises(ValueError, match="shorter"):
        html.table("c", ("a", "b"), [("only",)])
