"""The controller's page for people: caches, nodes, and two forms; pure.

What it shows was written by others (names, messages), so all of it is text to the
page. Whoever sees it has a key; `token` proves that a form came from this page.
"""

import dataclasses
import datetime
from collections.abc import Iterator

from agent.control import page_data, specs, states
from agent.kits import pages
from agent.model import caches

_KINDS = {
    states.Phase.READY: "good",
    states.Phase.FAILED: "bad",
    states.Phase.UPDATE_FAILED: "warn",
}
# All beside each other, and relative: a proxy may have put the page anywhere.
_PATHS = {"create": "create-cache", "delete": "delete-cache"}
TOKEN = "token"  # noqa: S105 - the name of a field
_NUMBER = {"inputmode": "numeric", "pattern": "[0-9]*"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What became of the form that was sent last."""

    text: str
    good: bool = True


def render(
    view: page_data.View, *, token: str, now: datetime.datetime, said: Said | None = None
) -> bytes:
    """The page."""
    page = pages.Page(title="Image caches", subtitle=f"as of {now:%Y-%m-%d %H:%M:%S} UTC")
    return page.render(
        _said(said),
        _overview(view),
        _caches(view, token, now),
        _create(token),
        _nodes(view),
    )


def _said(said: Said | None) -> pages.Html | None:
    if said is None:
        return None
    kind, word = ("good", "Done") if said.good else ("bad", "Not done")
    body = [pages.badge(kind, word), " ", pages.prose(said.text)]
    return pages.tag("section", pages.tag("p", *body), class_=kind, role="status")


def _overview(view: page_data.View) -> pages.Html:
    ready = sum(each.state.phase in states.SERVING for each in view.caches)
    fleet = view.fleet
    store = "there" if not view.store_problem else pages.badge("bad", "not there")
    note = view.store_problem or "answers"
    size = sum(each.state.size for each in view.caches)
    return pages.tiles(
        ("Caches", f"{ready} of {len(view.caches)}", "serve pods"),
        ("Nodes", f"{fleet.capable} of {fleet.count}", "serve images"),
        ("Time saved", pages.ago(fleet.seconds), "since the agents' start"),
        ("Not downloaded", pages.size(fleet.size), "since the agents' start"),
        ("Store", store, note),
        ("In caches", pages.size(size), "layers that caches share count for each"),
    )


def _caches(view: page_data.View, token: str, now: datetime.datetime) -> pages.Html:
    if not view.caches:
        return pages.section("Caches", pages.tag("p", "There are none yet."))
    rows = [list(_cache(each, token, now)) for each in view.caches]
    header = ("Name", "Phase", "Progress", "Size", "Images", "Age", "Says", "Delete")
    return pages.section("Caches", pages.table("All dialects", header, rows))


def _cache(each: specs.CacheObject, token: str, now: datetime.datetime) -> Iterator[pages.Child]:
    phase = each.state.phase or states.Phase.PENDING
    going = each.deleted is not None
    yield [pages.tag("div", each.key.name), pages.tag("code", each.cache_id, class_="note")]
    yield (
        pages.badge("warn", "Deleting")
        if going
        else pages.badge(_KINDS.get(phase, "plain"), phase.value)
    )
    yield _progress(each)
    yield pages.size(each.state.size) if each.state.size else pages.NONE
    names = [str(image) for image in each.request.images] if each.request else []
    yield pages.tag("ul", [pages.tag("li", name) for name in names]) if names else pages.NONE
    yield pages.ago((now - each.created).total_seconds())
    yield each.problem or each.state.message or pages.NONE
    yield (
        pages.NONE
        if going
        else _form(
            "delete",
            token,
            _hidden("group", each.key.group),
            _hidden("name", each.key.name),
            _hidden("uid", each.uid),
            pages.tag("button", "Delete", type="submit", aria_label=f"Delete {each.key.name}"),
        )
    )


def _progress(each: specs.CacheObject) -> pages.Html:
    percent = str(each.state.progress)
    name = f"Progress of {each.key.name}"
    bar = pages.tag("progress", f"{percent}%", value=percent, max="100", aria_label=name)
    return pages.join(bar, " ", f"{percent}%")


def _create(token: str) -> pages.Html:
    return pages.section(
        "Create a cache",
        _form(
            "create",
            token,
            _field("Name", "name", "lower-case letters, digits, - and .", required="required"),
            _lines("Images, one a line", "images", rows="4", required="required"),
            _lines("Pull secrets, one a line, as namespace/name", "secrets", rows="2"),
            _lines(
                "Namespaces that it serves, one a line; without one those of the pull secrets,"
                " and all without any",
                "namespaces",
                rows="2",
            ),
            _field("Size limit in GiB", "size", f"{caches.SIZE_DEFAULT} if empty", **_NUMBER),
            _field("Days to keep it", "days", "for ever if empty", **_NUMBER),
            pages.tag("button", "Create", type="submit"),
        ),
    )


def _nodes(view: page_data.View) -> pages.Html:
    shown = view.fleet.shown
    if not shown:
        return pages.section("Nodes", pages.tag("p", "No node has an agent yet."))
    header = ("Node", "Serves images", "Why", "Time saved", "Not downloaded", "Images")
    hidden = view.fleet.count - len(shown)
    more = f" (and {hidden} more)" if hidden else ""
    table = pages.table(
        f"Nodes with an agent{more}; those that do not serve come first",
        header,
        [list(_node(node)) for node in shown],
    )
    return pages.section("Nodes", table)


def _node(node: page_data.Node) -> Iterator[pages.Child]:
    yield node.name
    yield pages.badge("good", "yes") if node.capable else pages.badge("bad", "no")
    yield node.reason or pages.NONE
    saved = node.saved
    yield pages.ago(saved.seconds) if saved else pages.NONE
    yield pages.size(saved.size) if saved else pages.NONE
    counts = [f"{count} {name}" for name, count in saved.images.items() if count] if saved else []
    yield ", ".join(counts) or pages.NONE


def _form(action: str, token: str, *content: pages.Child) -> pages.Html:
    return pages.tag("form", _hidden(TOKEN, token), *content, method="post", action=_PATHS[action])


def _hidden(name: str, value: str) -> pages.Html:
    return pages.tag("input", type="hidden", name=name, value=value)


def _field(title: str, name: str, hint: str, **more: str) -> pages.Html:
    field = pages.tag("input", type="text", name=name, maxlength="253", **more)
    note = pages.tag("span", hint, class_="note")
    return pages.tag("label", pages.tag("span", title), field, note)


def _lines(title: str, name: str, **more: str) -> pages.Html:
    area = pages.tag("textarea", "", name=name, **more)
    return pages.tag("label", pages.tag("span", title), area)
