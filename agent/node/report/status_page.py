"""The agent's own page: is this node well, what became of its pods, and does it pay?

A view of agent.node.report.status, which a person without JavaScript, with a phone or
with a screen reader can use. Names and messages are other people's: agent.kits.web.html
escapes them.
"""

import datetime
from collections.abc import Iterator, Mapping

from agent.kits import units
from agent.kits.web import html
from agent.matching import decisions
from agent.matching import estimates as arithmetic
from agent.node.health import capability
from agent.node.images import retirement
from agent.node.near import copies, warm_images
from agent.node.report import status

_SHOWN_PODS = 100
_SHOWN_LAYERS = 200
_POD_HEADER = ("Pod", "Result", "Why", "Ready after", "Seen")

_OUTCOMES = {
    decisions.Outcome.HIT.value: ("good", "hit"),
    decisions.Outcome.PARTIAL.value: ("warn", "partial"),
    decisions.Outcome.MISS.value: ("bad", "miss"),
    decisions.Outcome.NOT_READY.value: ("warn", "not ready"),
    decisions.Outcome.FORBIDDEN.value: ("warn", "not allowed"),
    decisions.Outcome.NOT_ASKED.value: ("plain", "not asked"),
}

_CHECKS = {
    capability.Check.STORE.value: "Store",
    capability.Check.CONTAINERD.value: "containerd",
    capability.Check.PLUGIN.value: "Snapshotter in containerd",
    capability.Check.HANDLER.value: "Runtime handlers",
    capability.Check.SNAPSHOTTER.value: "Snapshotter process",
    capability.Check.KERNEL.value: "Kernel",
    capability.Check.SWITCH.value: "Switch of the cluster",
}


def render(shown: status.Status, *, now: datetime.datetime) -> bytes:
    """The page as it is sent, with agent.kits.web.html.headers."""
    page = html.Page(
        title=f"Node {shown.node.name}",
        subtitle=[
            f"uimgacc agent {shown.node.version}, up for ",
            _span(shown.node.started, now),
            ". This page is as of ",
            html.tag("time", now.strftime("%Y-%m-%d %H:%M:%S UTC"), datetime=now.isoformat()),
            "; reload it to update.",
        ],
        links={"Metrics for Prometheus": "/metrics", "All of this as JSON": "/status"},
    )
    return page.render(
        _verdict(shown.node),
        _tiles(shown),
        _checks(shown.node),
        _pods(shown, now),
        _warm(shown.warm),
        _savings(shown.savings, now),
        _local(shown.local),
        _store(shown),
        _deletions(shown.deletions),
        _containerd(shown),
    )


def _span(since: datetime.datetime, now: datetime.datetime) -> html.Html:
    """How long ago, with the moment itself for programs and on hovering."""
    text = units.span((now - since).total_seconds())
    return html.tag("time", text, datetime=since.isoformat(), title=since.isoformat())


def _verdict(node: status.Node) -> html.Html:
    if node.capable and not node.problems:
        kind, word, said = "good", "Well", "This node serves images from the store."
    elif node.capable:
        kind, word = "warn", "In doubt"
        said = "This node serves images, but the last look found a problem."
    else:
        kind, word = "bad", "Not capable"
        said = "This node does not serve images from the store; pods pull their images as usual."
    return html.tag(
        "section",
        html.tag("h2", html.badge(kind, word), " ", said),
        None if kind == "good" else html.tag("p", html.prose(node.reason)),
        class_=kind,
    )


def _tiles(shown: status.Status) -> html.Html:
    account = shown.savings
    came = sum(account.images.values())
    ratio = f"{account.images['hit'] / came:.0%}" if came else units.UNKNOWN
    answered = units.duration(shown.store.probe_seconds)
    prepared = sum(bool(pod.registered or pod.laid_out) for pod in shown.pods)
    counts = ", ".join(f"{number} {result}" for result, number in account.images.items())
    return html.tiles(
        ("Time saved", units.duration(account.seconds), "since the agent started, measured"),
        ("Not downloaded", units.size(account.bytes), "compressed bytes"),
        ("Hit ratio", ratio, counts),
        ("Pods", len(shown.pods), f"{prepared} had images prepared"),
        ("Layers mounted", len(shown.mounts.layers), "shared by all containers"),
        ("Survives an outage", *_survives(shown.local)),
        ("Store", "away" if shown.store.problem else answered, "to answer the last probe"),
    )


def _checks(node: status.Node) -> html.Html:
    rows = [
        (
            _CHECKS[check.name],
            html.badge("bad", "problem") if check.problem else html.badge("good", "well"),
            html.prose(check.problem) if check.problem else units.UNKNOWN,
            html.prose(check.advice) if check.advice else units.UNKNOWN,
        )
        for check in node.checks
    ]
    header = ("What", "State", "Found", "What to do")
    return html.section("Health", html.table("What serving needs", header, rows))


def _pods(shown: status.Status, now: datetime.datetime) -> html.Html:
    parts: list[html.Child] = []
    if shown.pods:
        visible = shown.pods[:_SHOWN_PODS]
        caption = f"The newest {len(visible)} of {len(shown.pods)}, newest first"
        parts.append(html.table(caption, _POD_HEADER, [_pod(pod, now) for pod in visible]))
    elif not shown.ended_pods:
        parts.append(html.tag("p", "No pods on this node yet."))
    if shown.ended_pods:
        caption = f"Gone since: the last {len(shown.ended_pods)}, the latest first"
        gone = [_pod(pod, now) for pod in shown.ended_pods]
        parts.append(html.table(caption, _POD_HEADER, gone))
    if shown.manifest_problems:
        rows = list(shown.manifest_problems.items())
        parts.append(html.table("Manifests that could not be read", ("Manifest", "Problem"), rows))
    return html.section("Pods", *parts)


def _pod(pod: status.Pod, now: datetime.datetime) -> tuple[html.Child, ...]:
    undecided = ("plain", "waiting" if pod.ended is None else "ended")
    kind, word = _OUTCOMES.get(pod.outcome or "", undecided)
    images = [
        html.tag("li", html.tag("code", image.image), f": {image.reason}") for image in pod.images
    ]
    why = html.join(
        pod.sentence,
        html.tag("div", "Cache ", html.tag("code", pod.cache)) if pod.cache else None,
        html.tag("details", html.tag("summary", _counted(len(images), "image")), _list(images))
        if images
        else None,
    )
    return (
        f"{pod.namespace}/{pod.name}",
        html.badge(kind, word),
        why,
        units.duration(pod.seconds if pod.registered or pod.laid_out else None),
        html.join(
            _span(pod.since, now),
            " ago",
            html.join(", ended ", _span(pod.ended, now), " ago") if pod.ended else None,
        ),
    )


_READINESS: Mapping[warm_images.Readiness, tuple[str, str]] = {
    "registered": ("good", "present"),
    "laid_out": ("good", "layers only"),
    "missing": ("warn", "missing"),
}


def _warm(state: warm_images.State) -> html.Html | None:
    if not state.images:
        return None
    rows = [
        (
            image.image,
            html.badge(*_READINESS[image.state]),
            image.cache or "the node's setting",
            image.reason or units.UNKNOWN,
        )
        for image in state.images
    ]
    header = ("Image", "State", "Wanted by", "Why not")
    table = html.table("Present before any pod asks for them", header, rows)
    return html.section("Warm images", html.tag("p", state.sentence), table)


def _savings(account: status.Savings, now: datetime.datetime) -> html.Html:
    rate, pulls = account.bytes_per_second, len(account.samples)
    if rate:
        basis = (
            f"Ordinary pulls on this node run at {units.size(rate)}/s, download and unpacking: the "
            f"median of the last {_counted(pulls, 'pull')}, each weighed by its bytes."
        )
    else:
        basis = (
            "This node has not measured an ordinary pull yet. Until then the time that the build "
            "of an image took stands for it."
        )
    saved = (
        "Saved is what such a pull would have taken longer than it took to have the image ready. "
        "Where nothing was measured, nothing is claimed."
    )
    if not account.last:
        return html.section(
            "Time saved", html.tag("p", basis, " ", saved), html.tag("p", "Nothing saved yet.")
        )
    header = ("Image", "Saved", "Not downloaded", "Took", "A pull", "Computed from", "When")
    rows = [_saving(entry, now) for entry in reversed(account.last)]
    caption = f"The last {_counted(len(rows), 'image')} that came from the store, newest first"
    return html.section(
        "Time saved", html.tag("p", basis, " ", saved), html.table(caption, header, rows)
    )


def _saving(entry: status.Saving, now: datetime.datetime) -> tuple[html.Child, ...]:
    return (
        entry.image,
        units.duration(entry.seconds),
        units.size(entry.bytes),
        units.duration(entry.actual_seconds),
        units.duration(entry.expected_seconds),
        _method(entry.method, entry.inputs),
        html.join(_span(entry.when, now), " ago"),
    )


def _method(method: str, inputs: Mapping[str, float]) -> str:
    """The arithmetic of one expectation, with its figures."""
    if method == arithmetic.Method.PULLS.value:
        return (
            f"{units.size(inputs['bytes'])} at {units.size(inputs['bytes_per_second'])}/s, "
            f"from {_counted(int(inputs['samples']), 'pull')} of this node"
        )
    if method == arithmetic.Method.BUILD.value:
        return (
            f"the build: {units.duration(inputs['build_seconds'])} for "
            f"{units.size(inputs['fetched_bytes'])}, of which {units.size(inputs['bytes'])} count"
        )
    return "nothing measured, so nothing claimed"


def _survives(state: copies.State) -> tuple[str, str]:
    """How much of what runs here needs no store, and what that is counted in."""
    running = state.containers_local + state.containers_store
    if not running:
        return units.UNKNOWN, "no container runs on the store's layers"
    share = state.containers_local / running
    return f"{share:.0%}", f"{state.containers_local} of {_counted(running, 'container')}, now"


def _local(state: copies.State) -> html.Html:
    used = state.used_local + state.used_store
    facts: dict[str, html.Child] = {
        "Last look": state.sentence,
        "Copies": f"{_counted(state.copies, 'layer')}, {units.size(state.size)}; at most"
        f" {units.size(state.budget)} now",
        "Layers in use": f"{units.size(state.used_local)} of {units.size(used)} are read from this"
        " node's disk",
        "Containers": f"{state.containers_local} need no store, {state.containers_store} read from"
        " it and would wait while it is away",
    }
    return html.section("Local copies", html.facts(facts))


def _store(shown: status.Status) -> html.Html:
    store, mounts = shown.store, shown.mounts
    mounted = f"{store.kind} from {store.source}" if store.kind else "not known"
    state = store.problem or f"answered in {units.duration(store.probe_seconds)}"
    facts: dict[str, html.Child] = {
        "Folder": html.tag("code", store.path),
        "Mount": mounted,
        "Last probe": state,
        "Layers": f"{len(mounts.layers)} mounted in {mounts.folder}"
        if mounts.folder
        else units.UNKNOWN,
    }
    return html.section("Store and mounts", html.facts(facts), *_layers(mounts))


def _layers(mounts: status.Mounts) -> Iterator[html.Child]:
    if not mounts.layers:
        return
    visible = list(mounts.layers.items())[:_SHOWN_LAYERS]
    caption = f"{len(visible)} of {len(mounts.layers)}"
    rows = [(html.tag("code", name), html.tag("code", file)) for name, file in visible]
    yield html.tag(
        "details",
        html.tag("summary", "Which layers"),
        html.table(caption, ("Folder", "Layer file"), rows),
    )


def _deletions(state: retirement.State) -> html.Html:
    held = [html.tag("li", entry) for entry in state.held]
    facts: dict[str, html.Child] = {
        "Newest generation": state.generation,
        "Let go of": f"generation {state.acknowledged} and all before",
        "Last look": state.sentence,
    }
    if held:
        facts["Held by"] = _list(held)
    return html.section(
        "Deletions",
        html.tag(
            "p",
            "Deleted layers stay on the store until no node uses them. Each round of deletions "
            "has a number.",
        ),
        html.facts(facts),
    )


def _containerd(shown: status.Status) -> html.Html:
    state = shown.containerd
    connected = html.badge("good", "connected") if state.connected else None
    facts: dict[str, html.Child] = {
        "State": connected or html.badge("bad", "not connected"),
        "Version": f"{state.version} (process {state.pid})" if state.version else "not known",
        "Looked after": state.sentence,
    }
    if state.problem:
        facts["Problem"] = state.problem
    return html.section("containerd", html.facts(facts))


def _list(items: list[html.Html]) -> html.Html:
    return html.tag("ul", items)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
