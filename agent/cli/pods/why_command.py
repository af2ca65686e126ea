"""`uimgacc why`: a sentence about what became of a pod's images, or of one, then the evidence."""

from collections.abc import Sequence

import rich.console
import rich.table
import rich.text

from agent.cli import cluster_access, output
from agent.cli.pods import image_verdict, pod_evidence, pod_reading, pod_verdict, why_subject
from agent.clients.kube import rest_client

_STYLES = {
    pod_verdict.Kind.ACCELERATED: "bold green",
    pod_verdict.Kind.PARTLY: "bold yellow",
    pod_verdict.Kind.PULLED: "bold red",
    pod_verdict.Kind.WAITING: "bold yellow",
    pod_verdict.Kind.UNKNOWN: "bold",
}
_SIGNS = {
    pod_verdict.Mark.HOLDS: ("ok", "green"),
    pod_verdict.Mark.BROKEN: ("no", "red"),
    pod_verdict.Mark.UNKNOWN: ("?", "yellow"),
    pod_verdict.Mark.NOTED: ("", ""),
}


_IMAGE_STYLES = {
    image_verdict.Kind.CACHED: "bold green",
    image_verdict.Kind.BUILDING: "bold yellow",
    image_verdict.Kind.FAILED: "bold red",
    image_verdict.Kind.NOT_CACHED: "bold red",
}


def why(target: cluster_access.Target, subject: why_subject.Subject, *, as_json: bool) -> None:
    """Explain a pod, an image or an image cache of a cluster."""
    if subject.kind in (why_subject.Kind.IMAGE, why_subject.Kind.CACHE):
        _why_image(target, subject, as_json=as_json)
        return

    async def read(client: rest_client.Client) -> pod_evidence.Evidence:
        name = await why_subject.pod_of(client, subject)
        return await pod_reading.read(
            client, namespace=subject.namespace, name=name, system=target.namespace
        )

    evidence = cluster_access.run(target, read)
    verdict = pod_verdict.judge(evidence)
    if as_json:
        output.show_json(to_json(evidence, verdict))
    else:
        explain(output.console(), evidence, verdict)


def explain(
    console: rich.console.Console, evidence: pod_evidence.Evidence, verdict: pod_verdict.Verdict
) -> None:
    """Print the sentence and the chain."""
    sentence = rich.text.Text(f"{evidence.pod.namespace}/{evidence.pod.name}: ", style="bold")
    sentence.append(verdict.kind.value, style=_STYLES[verdict.kind])
    sentence.append(f": {verdict.because}.")
    console.print(sentence)
    console.print()
    _print_chain(console, verdict.links)


def _why_image(
    target: cluster_access.Target, subject: why_subject.Subject, *, as_json: bool
) -> None:
    evidence = cluster_access.run(
        target, lambda client: image_verdict.read(client, subject, system=target.namespace)
    )
    verdict = image_verdict.judge(evidence)
    if as_json:
        said = {
            "image": evidence.image or None,
            "cache": evidence.cache or None,
            "verdict": verdict.kind.name.lower(),
            "because": verdict.because,
            "chain": _chain_json(verdict.links),
            "unread": dict(evidence.unread),
        }
        output.show_json(said)
        return
    console = output.console()
    sentence = rich.text.Text(f"{evidence.image or evidence.cache}: ", style="bold")
    sentence.append(verdict.kind.value, style=_IMAGE_STYLES[verdict.kind])
    sentence.append(f": {verdict.because}.")
    console.print(sentence)
    console.print()
    _print_chain(console, verdict.links)


def _print_chain(console: rich.console.Console, links: Sequence[pod_verdict.Link]) -> None:
    table = rich.table.Table(box=None, pad_edge=False, show_header=False)
    for ratio in (0, 0, 1):
        table.add_column(overflow="fold", no_wrap=not ratio)
    for link in links:
        sign, style = _SIGNS[link.mark]
        table.add_row(rich.text.Text(sign, style=style), link.name, rich.text.Text(link.text))
        if link.remedy and link.mark is not pod_verdict.Mark.HOLDS:
            table.add_row("", "", rich.text.Text(f"-> {link.remedy}", style="bold"))
    console.print(table)


def to_json(evidence: pod_evidence.Evidence, verdict: pod_verdict.Verdict) -> dict[str, object]:
    """The same for programs; the keys are part of the interface."""
    return {
        "pod": {
            "namespace": evidence.pod.namespace,
            "name": evidence.pod.name,
            "node": evidence.pod.node or None,
            "phase": evidence.pod.phase or None,
        },
        "verdict": verdict.kind.name.lower(),
        "because": verdict.because,
        "chain": _chain_json(verdict.links),
        "unread": dict(evidence.unread),
    }


def _chain_json(links: Sequence[pod_verdict.Link]) -> list[dict[str, object]]:
    return [
        {
            "link": link.name,
            "state": link.mark.value,
            "text": link.text,
            "remedy": link.remedy or None,
        }
        for link in links
    ]
