"""Pages for people: HTML without scripts, and the one look that they share.

Whatever is not `Html` is escaped when it is put into an element, so there is no
place where one could forget to. A template engine would bring a language, a
loader and a cache for what is a dozen elements.
"""

import base64
import dataclasses
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence

from agent.kits import units
from agent.kits.web import html_style

_SYMBOLS = {"good": "✓", "warn": "!", "bad": "✕", "plain": ""}

_VOID = frozenset({"input", "link", "meta"})
# A data URL, so that no browser asks for /favicon.ico.
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath fill='%230b62c4' d='M2 3h12v3H2zm0 4h12v3H2zm0 4h12v3H2z'/%3E%3C/svg%3E"
)


class Html(str):
    """Markup that is whole and may be put into a page as it is."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]
"""Content of an element: Html as it is, other text escaped, None nothing, others one by one."""


def join(*children: Child) -> Html:
    """Children as markup, one after the other."""
    return Html("".join(map(_markup, children)))


def _markup(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return html.escape(str(child))
    return "".join(map(_markup, child))


def tag(name: str, /, *children: Child, **attributes: str) -> Html:
    """An element. `class_="a"` gives class="a", `aria_label="b"` aria-label="b"."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def prose(text: str) -> Html:
    """A sentence; what it has between backticks is set as code."""
    parts = text.split("`")
    return join(tag("code", part) if place % 2 else part for place, part in enumerate(parts))


def badge(kind: str, text: str) -> Html:
    """A word with a mark: kind is good, warn, bad or plain. The mark is not read aloud."""
    symbol = _SYMBOLS[kind]
    mark = tag("span", f"{symbol} ", aria_hidden="true") if symbol else None
    return tag("span", mark, text, class_=f"badge {kind}")


def tiles(*each: tuple[str, Child, Child]) -> Html:
    """Figures at a glance: (name, value, a line below it)."""
    return tag(
        "dl",
        [
            tag("div", tag("dt", name), tag("dd", value), tag("dd", note, class_="note"))
            for name, value, note in each
        ],
        class_="tiles",
    )


def facts(each: Mapping[str, Child]) -> Html:
    """Names and values, one a line."""
    return tag("dl", [tag("div", tag("dt", k), tag("dd", v)) for k, v in each.items()])


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Child]]) -> Html:
    """A table whose first column names the row. On a phone each row is a card.

    The roles are said again because a browser forgets them where the style makes
    blocks of rows and cells.
    """
    head = tag("tr", [tag("th", name, scope="col", role="columnheader") for name in header])
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head, role="rowgroup"),
        tag("tbody", [_row(header, row) for row in rows], role="rowgroup"),
        role="table",
    )


def _row(header: Sequence[str], row: Sequence[Child]) -> Html:
    first = tag("th", row[0], scope="row", role="rowheader", data_label=header[0])
    rest = [_cell(name, cell) for name, cell in zip(header[1:], row[1:], strict=True)]
    return tag("tr", first, rest, role="row")


def _cell(name: str, content: Child) -> Html:
    empty = {"class_": "none"} if content == units.UNKNOWN else {}
    return tag("td", tag("div", content), role="cell", data_label=name, **empty)


def section(title: str, *children: Child) -> Html:
    """A part of the page under a heading of its own."""
    anchor = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    heading = tag("h2", title, id=anchor)
    return tag("section", heading, *children, aria_labelledby=anchor)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page: `title` for tab and heading, `subtitle` below it, `links` by their text."""

    title: str
    subtitle: Child = None
    links: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def render(self, *body: Child) -> bytes:
        """The document. What cannot be written in UTF-8 is shown as an escape."""
        links = [tag("a", text, href=target) for text, target in self.links.items()]
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("link", rel="icon", href=_ICON),
            tag("title", f"{self.title} · uimgacc"),
            tag("style", Html(html_style.CSS)),
        )
        content = tag(
            "body",
            tag("header", tag("h1", self.title), tag("p", self.subtitle, class_="note")),
            tag("main", *body),
            tag("footer", tag("nav", links, aria_label="More")) if links else None,
        )
        document = "<!DOCTYPE html>\n" + tag("html", head, content, lang="en")
        return document.encode("utf-8", "backslashreplace")


def headers(*, form_action: str = "'none'") -> dict[str, str]:
    """The headers that a page is sent with: nothing may be loaded, run, framed or kept."""
    digest = base64.b64encode(hashlib.sha256(html_style.CSS.encode()).digest()).decode()
    policy = {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": form_action,
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in policy.items()),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
