"""The controller's page for people: caches, nodes, and two forms; pure.

Names and messages come from users, so all of them are escaped. Every visitor has signed in;
`token` proves that a form came from this page.
"""

import dataclasses
import datetime
from collections.abc import Iterator

from agent.control.caches import cache_object, cache_state
from agent.control.page import page_data
from agent.control.pulls import advice
from agent.kits import units
from agent.kits.web import html
from agent.model import caches

_KINDS = {
    cache_state.Phase.READY: "good",
    cache_state.Phase.FAILED: "bad",
    cache_state.Phase.UPDATE_FAILED: "warn",
}
# All beside each other, and relative: a proxy may have put the page anywhere.
_PATHS = {"create": "create-cache", "delete": "delete-cache"}
TOKEN = "token"  # noqa: S105 - the name of a field
_PULLS_SHOWN = 20
_NEXT = 10
_NUMBER = {"inputmode": "numeric", "pattern": "[0-9]*"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of the form that was sent last."""

    text: str
    good: bool = True


def render(
    view: page_data.View, *, token: str, now: datetime.datetime, result: Result | None = None
) -> bytes:
    """The page."""
    page = html.Page(title="Image caches", subtitle=f"as of {now:%Y-%m-%d %H:%M:%S} UTC")
    return page.render(
        _result(result),
        _overview(view),
        _caches(view, token, now),
        _pulls(view),
        _create(token),
        _nodes(view),
    )


def _result(result: Result | None) -> html.Html | None:
    if result is None:
        return None
    kind, word = ("good", "Done") if result.good else ("bad", "Not done")
    body = [html.badge(kind, word), " ", html.prose(result.text)]
    return html.tag("section", html.tag("p", *body), class_=kind, role="status")


def _overview(view: page_data.View) -> html.Html:
    ready = sum(each.state.phase in cache_state.SERVING for each in view.caches)
    fleet = view.fleet
    store = "there" if not view.store_problem else html.badge("bad", "not there")
    note = view.store_problem or "answers"
    size = sum(each.state.size for each in view.caches)
    return html.tiles(
        ("Caches", f"{ready} of {len(view.caches)}", "serve pods"),
        ("Nodes", f"{fleet.capable} of {fleet.count}", "serve images"),
        ("Time saved", units.span(fleet.seconds), "since the agents' start"),
        ("Not downloaded", units.size(fleet.size), "since the agents' start"),
        ("Store", store, note),
        ("In caches", units.size(size), "layers that caches share count for each"),
    )


def _caches(view: page_data.View, token: str, now: datetime.datetime) -> html.Html:
    if not view.caches:
        return html.section("Caches", html.tag("p", "There are no caches yet."))
    rows = [list(_cache(each, token, now)) for each in view.caches]
    header = ("Name", "Phase", "Progress", "Size", "Images", "Age", "Message", "Delete")
    return html.section("Caches", html.table("All dialects", header, rows))


def _cache(
    each: cache_object.CacheObject, token: str, now: datetime.datetime
) -> Iterator[html.Child]:
    phase = each.state.phase or cache_state.Phase.PENDING
    going = each.deleted is not None
    yield [html.tag("div", each.key.name), html.tag("code", each.cache_id, class_="note")]
    yield (
        html.badge("warn", "Deleting")
        if going
        else html.badge(_KINDS.get(phase, "plain"), phase.value)
    )
    yield _progress(each)
    yield units.size(each.state.size) if each.state.size else units.UNKNOWN
    names = [str(image) for image in each.request.images] if each.request else []
    yield html.tag("ul", [html.tag("li", name) for name in names]) if names else units.UNKNOWN
    yield units.span((now - each.created).total_seconds())
    yield each.problem or each.state.message or units.UNKNOWN
    yield (
        units.UNKNOWN
        if going
        else _form(
            "delete",
            token,
            _hidden("group", each.key.group),
            _hidden("name", each.key.name),
            _hidden("uid", each.uid),
            html.tag("button", "Delete", type="submit", aria_label=f"Delete {each.key.name}"),
        )
    )


def _progress(each: cache_object.CacheObject) -> html.Html:
    percent = str(each.state.progress)
    name = f"Progress of {each.key.name}"
    bar = html.tag("progress", f"{percent}%", value=percent, max="100", aria_label=name)
    return html.join(bar, " ", f"{percent}%")


def _pulls(view: page_data.View) -> html.Html:
    title = "Where does pulling time go?"
    costs = view.pulls
    if costs is None or not costs.pulls:
        return html.section(title, html.tag("p", "No pulls of the last day are known."))
    made = advice.advise(costs, advice.Cached(view.caches), most=_NEXT)
    spared, size = (
        sum(each.seconds for each in made.next),
        sum(each.size for each in made.next),
    )
    sums = (
        f"{costs.pulls} pulls of the last day took {units.span(costs.seconds)} together, and"
        f" downloaded {units.size(costs.downloaded)}, as kubelets report it."
    )
    hint = (
        f" With caches of the next {len(made.next)}, pods would have waited about"
        f" {units.span(spared)} less, and {units.size(size)} would not have been downloaded:"
        " uimgacc advise prints their ImageCaches."
        if made.next
        else " No further image is worth a cache."
    )
    header = ("Image", "Pulls", "Nodes", "Time", "Downloaded", "In a cache", "Would save")
    rows = [list(_pull(each)) for each in made.images[:_PULLS_SHOWN]]
    table = html.table("The images that took most time", header, rows)
    return html.section(title, html.tag("p", html.prose(sums + hint)), table)


def _pull(each: advice.Assessed) -> Iterator[html.Child]:
    yield each.cost.image
    yield str(each.cost.pulls)
    yield str(each.cost.nodes or units.UNKNOWN)
    yield units.span(each.cost.seconds)
    yield units.size(each.cost.downloaded) if each.cost.downloaded else units.UNKNOWN
    yield each.verdict.value
    yield units.span(each.seconds) if each.seconds else units.UNKNOWN


def _create(token: str) -> html.Html:
    return html.section(
        "Create a cache",
        _form(
            "create",
            token,
            _field("Name", "name", "lower-case letters, digits, - and .", required="required"),
            _lines("Images, one a line", "images", rows="4", required="required"),
            _lines("Pull secrets, one a line, as namespace/name", "secrets", rows="2"),
            _lines(
                "Namespaces that it serves, one a line; if empty, those of the pull secrets,"
                " and all of them without pull secrets",
                "namespaces",
                rows="2",
            ),
            _field("Size limit in GiB", "size", f"{caches.SIZE_DEFAULT} if empty", **_NUMBER),
            _field("Days to keep it", "days", "for ever if empty", **_NUMBER),
            html.tag("button", "Create", type="submit"),
        ),
    )


def _nodes(view: page_data.View) -> html.Html:
    shown = view.fleet.shown
    if not shown:
        return html.section("Nodes", html.tag("p", "No node has an agent yet."))
    header = ("Node", "Serves images", "Why", "Time saved", "Not downloaded", "Images")
    hidden = view.fleet.count - len(shown)
    more = f" (and {hidden} more)" if hidden else ""
    table = html.table(
        f"Nodes with an agent{more}; those that do not serve are first",
        header,
        [list(_node(node)) for node in shown],
    )
    return html.section("Nodes", table)


def _node(node: page_data.Node) -> Iterator[html.Child]:
    yield node.name
    yield html.badge("good", "yes") if node.capable else html.badge("bad", "no")
    yield node.reason or units.UNKNOWN
    saved = node.saved
    yield units.span(saved.seconds) if saved else units.UNKNOWN
    yield units.size(saved.size) if saved else units.UNKNOWN
    counts = [f"{count} {name}" for name, count in saved.images.items() if count] if saved else []
    yield ", ".join(counts) or units.UNKNOWN


def _form(action: str, token: str, *content: html.Child) -> html.Html:
    return html.tag("form", _hidden(TOKEN, token), *content, method="post", action=_PATHS[action])


def _hidden(name: str, value: str) -> html.Html:
    return html.tag("input", type="hidden", name=name, value=value)


def _field(title: str, name: str, hint: str, **more: str) -> html.Html:
    field = html.tag("input", type="text", name=name, maxlength="253", **more)
    note = html.tag("span", hint, class_="note")
    return html.tag("label", html.tag("span", title), field, note)


def _lines(title: str, name: str, **more: str) -> html.Html:
    area = html.tag("textarea", "", name=name, **more)
    return html.tag("label", html.tag("span", title), area)
