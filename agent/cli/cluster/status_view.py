"""Shows a cluster on one screen: does it work, does it pay, what is wrong."""

import datetime
from collections.abc import Iterator, Sequence

import rich.console
import rich.table
import rich.text

from agent.cli.cluster import cache_tally, node_tally, policy_tally, problems, survey
from agent.control.caches import cache_state
from agent.kits import units

_IMAGES = 10
_PROBLEMS = 7
_GROUPS = 4
_POLICIES = 2
_INDENT = "  "


def show(
    console: rich.console.Console, read: survey.Survey, found: Sequence[problems.Problem]
) -> None:
    """Print it; not more than forty lines of a hundred columns."""
    console.print(_title(read, found))
    console.print(_heading("DOES IT WORK"))
    for line in _works(read):
        console.print(line, soft_wrap=False, overflow="ellipsis", no_wrap=True)
    console.print(_heading("DOES IT PAY"))
    _show_savings(console, read)
    console.print(_heading("WHAT IS WRONG"))
    for line in _wrong(read, found):
        console.print(line, soft_wrap=False, overflow="ellipsis", no_wrap=True)


def _title(read: survey.Survey, found: Sequence[problems.Problem]) -> rich.text.Text:
    faults = sum(each.is_fault for each in found)
    title = rich.text.Text(f"uimgacc in {read.namespace}: ", style="bold")
    if read.agents is not None and not read.agents.image:
        title.append("not installed", style="bold red")
    elif read.off:
        title.append("switched off", style="bold yellow")
    elif faults:
        title.append(f"{faults} {_plural('problem', faults)}", style="bold red")
    elif read.unread:
        title.append("not all of it could be read", style="bold yellow")
    else:
        title.append("works", style="bold green")
        if found:
            title.append(f", {len(found)} {_plural('notice', len(found))}", style="yellow")
    title.append(f"   ({read.now:%Y-%m-%d %H:%M} UTC, {read.requests:,} requests)", style="dim")
    return title


def _heading(text: str) -> rich.text.Text:
    return rich.text.Text(text, style="bold")


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _line(name: str, text: str) -> rich.text.Text:
    return rich.text.Text(f"{_INDENT}{name:<12}{text}")


def _works(read: survey.Survey) -> Iterator[rich.text.Text]:
    yield _line("nodes", _nodes(read))
    if read.nodes is not None and (others := read.nodes.count - read.nodes.capable):
        yield _line("", f"{others:,} not: {', '.join(_reasons(read.nodes))}")
    if read.nodes is not None and (without := read.nodes.without_volumes):
        yield _line("", f"{without:,} without image volumes: pods that have one go to others")
    yield _line("agents", _workload(read, read.agents, "agents"))
    yield _line("controller", _controller(read))
    yield _line("caches", _caches(read))
    for number, text in enumerate(_policies(read)):
        yield _line("" if number else "policies", text)


def _reasons(nodes: node_tally.Nodes) -> Iterator[str]:
    """How many nodes do not serve for each reason; which ones, the problems say."""
    for group in nodes.groups[:_GROUPS]:
        yield f"{group.count:,} {group.reason or 'without an agent that reported'}"
    if left := sum(group.count for group in nodes.groups[_GROUPS:]):
        yield f"{left:,} for other reasons"
    if nodes.unread:
        yield f"{nodes.unread:,} too many to be read"


def _nodes(read: survey.Survey) -> str:
    nodes = read.nodes
    if nodes is None:
        return f"not read: {read.unread.get('nodes', '')}"
    local = f", {nodes.local:,} more from their own copies only" if nodes.local else ""
    held = ""
    if nodes.holding:
        held = (
            f"; {nodes.holding:,} still {'holds' if nodes.holding == 1 else 'hold'} deleted layers"
        )
    return f"{nodes.capable:,} of {nodes.count:,} serve images from the store{local}{held}"


def _workload(read: survey.Survey, workload: survey.Workload | None, subject: str) -> str:
    if workload is None:
        return f"not read: {read.unread.get(subject, '')}"
    if not workload.image:
        return "not installed"
    old = ""
    if workload.updated < workload.wanted:
        old = f", {workload.wanted - workload.updated:,} of an earlier version"
    return f"{workload.ready:,} of {workload.wanted:,} pods ready{old}"


def _controller(read: survey.Survey) -> str:
    text = _workload(read, read.controller, "controller")
    leader = read.leader
    if leader is None or not (read.controller and read.controller.image):
        return text
    if not leader.leads:
        return f"{text}; none leads"
    return f"{text}; {leader.holder} leads"


def _caches(read: survey.Survey) -> str:
    caches = read.caches
    if caches is None:
        return f"not read: {read.unread.get('caches', '')}"
    if not caches.count:
        return "none: uimgacc create NAME --image IMAGE"
    # All phases in which something is to be seen, in the order of a cache's life.
    order = [phase.value for phase in cache_state.Phase] + [cache_tally.DELETING]
    counts = [f"{caches.phases[phase]:,} {phase}" for phase in order if caches.phases[phase]]
    return (
        f"{', '.join(counts)}; {units.size(caches.size)} in the store, shared layers counted each"
    )


def _policies(read: survey.Survey) -> Iterator[str]:
    """A line for each of a few policies, those first that want to be seen."""
    if read.policies is None:
        yield f"not read: {read.unread.get('policies', '')}"
        return
    shown = _POLICIES if len(read.policies) <= _POLICIES else _POLICIES - 1
    for each in read.policies[:shown]:
        yield _policy(each)
    left = len(read.policies) - shown
    if left > 0:
        yield f"and {left:,} more: kubectl get imcp"


def _policy(policy: policy_tally.Policy) -> str:
    if policy.reason:
        return f"{policy.name}: not carried out: {policy.reason}"
    left = ", ".join(f"{count:,} {reason}" for reason, count in policy.left_out.items())
    return (
        f"{policy.name}: {policy.serving:,} of {policy.caches:,} caches serve,"
        f" {units.size(policy.size)} of {units.size(policy.budget)}"
        f"{f'; left out: {left}' if left else ''}"
    )


def _show_savings(console: rich.console.Console, read: survey.Survey) -> None:
    savings = read.savings
    if savings is None:
        console.print(_line("", f"not read: {read.unread.get('savings', '')}"))
        return
    ever = savings.ever
    today = savings.today
    console.print(
        _line(
            "today",
            f"{_saved(today)}, by {today.count:,} {_plural('pull', today.count)}"
            " since 00:00 UTC, as its agents know",
        )
    )
    console.print(
        _line(
            "in all",
            f"{_saved(ever)} since the agents of {savings.nodes:,} {_plural('node', savings.nodes)}"
            " started",
        )
    )
    images = savings.most(_IMAGES)
    if not images:
        return
    table = rich.table.Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("  IMAGE (TODAY)", no_wrap=True, overflow="ellipsis")
    for column in ("SAVED", "BYTES", "PULLS"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in images:
        table.add_row(
            rich.text.Text(f"{_INDENT}{each.image}"),
            units.duration(each.seconds),
            units.size(each.size),
            f"{each.count:,}",
        )
    console.print(table)


def _saved(entry: node_tally.ImageSum) -> str:
    return f"{units.duration(entry.seconds)} and {units.size(entry.size)} not pulled"


def _wrong(read: survey.Survey, found: Sequence[problems.Problem]) -> Iterator[rich.text.Text]:
    for subject, why in read.unread.items():
        yield rich.text.Text(f"{_INDENT}? {subject} could not be read: {why}", style="yellow")
    for problem in found[:_PROBLEMS]:
        style = "red" if problem.is_fault else "yellow"
        sign = "!" if problem.is_fault else "-"
        names = f" ({', '.join(problem.examples)})" if problem.examples else ""
        detail = f": {problem.detail}" if problem.detail else ""
        yield rich.text.Text(f"{_INDENT}{sign} {problem.text}{names}{detail}", style=style)
        yield rich.text.Text(f"{_INDENT}  -> {problem.command}")
    if (left := len(found) - _PROBLEMS) > 0:
        yield rich.text.Text(f"{_INDENT}and {left} more: uimgacc status --json")
    if not found and not read.unread:
        yield rich.text.Text(f"{_INDENT}nothing", style="green")


def to_json(read: survey.Survey, found: Sequence[problems.Problem]) -> dict[str, object]:
    """The same for programs; the keys are part of the interface."""
    return {
        "namespace": read.namespace,
        "version": read.version,
        "time": read.now.astimezone(datetime.UTC).isoformat(timespec="seconds"),
        "works": not read.off and is_well(read, found),
        "switchedOff": read.off,
        "nodes": _nodes_json(read),
        "agents": _workload_json(read.agents),
        "controller": _workload_json(read.controller),
        "leader": read.leader.holder if read.leader is not None and read.leader.leads else None,
        "caches": None
        if read.caches is None
        else {"count": read.caches.count, "bytes": read.caches.size, "phases": read.caches.phases},
        "policies": None
        if read.policies is None
        else [
            {
                "name": each.name,
                "notCarriedOut": each.reason or None,
                "caches": each.caches,
                "serving": each.serving,
                "bytes": each.size,
                "budgetBytes": each.budget,
                "withinBudget": each.fits,
                "leftOut": dict(each.left_out),
            }
            for each in read.policies
        ],
        "savings": _savings_json(read),
        "problems": [
            {
                "key": each.remedy.key,
                "level": each.remedy.level.value,
                "text": each.text,
                "count": each.count,
                "examples": list(each.examples),
                "detail": each.detail or None,
                "command": each.command,
            }
            for each in found
        ],
        "unread": dict(read.unread),
        "requests": read.requests,
    }


def is_well(read: survey.Survey, found: Sequence[problems.Problem]) -> bool:
    """Whether nothing is wrong, as far as all of it could be read."""
    return not read.unread and not any(each.is_fault for each in found)


def _nodes_json(read: survey.Survey) -> dict[str, object] | None:
    nodes = read.nodes
    if nodes is None:
        return None
    return {
        "count": nodes.count,
        "capable": nodes.capable,
        "local": nodes.local,
        "holdingDeletedLayers": nodes.holding,
        "withoutImageVolumes": nodes.without_volumes,
        "notCapable": [
            {
                "reason": group.reason or None,
                "count": group.count,
                "examples": list(group.examples),
                "message": group.message or None,
            }
            for group in nodes.groups
        ],
        "reasonsUnread": nodes.unread,
    }


def _workload_json(workload: survey.Workload | None) -> dict[str, object] | None:
    if workload is None or not workload.image:
        return None
    return {
        "wanted": workload.wanted,
        "ready": workload.ready,
        "updated": workload.updated,
        "image": workload.image,
    }


def _savings_json(read: survey.Survey) -> dict[str, object] | None:
    savings = read.savings
    if savings is None:
        return None
    return {
        "day": savings.day,
        "today": _sum_json(savings.today),
        "sinceAgentsStarted": _sum_json(savings.ever),
        "nodes": savings.nodes,
        "images": [{"image": each.image, **_sum_json(each)} for each in savings.most(10 * _IMAGES)],
    }


def _sum_json(entry: node_tally.ImageSum) -> dict[str, object]:
    return {"seconds": round(entry.seconds, 1), "bytes": entry.size, "pulls": entry.count}
