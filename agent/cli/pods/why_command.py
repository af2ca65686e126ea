"""`uimgacc why POD`: a sentence about what became of a pod's images, then the evidence."""

import rich.console
import rich.table
import rich.text

from agent.cli import cluster_access, output
from agent.cli.pods import pod_evidence, pod_reading, pod_verdict

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


def why(target: cluster_access.Target, namespace: str, pod: str, *, as_json: bool) -> None:
    """Explain a pod of a cluster."""
    evidence = cluster_access.run(
        target,
        lambda client: pod_reading.read(
            client, namespace=namespace, name=pod, system=target.namespace
        ),
    )
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
    table = rich.table.Table(box=None, pad_edge=False, show_header=False)
    for ratio in (0, 0, 1):
        table.add_column(overflow="fold", no_wrap=not ratio)
    for link in verdict.links:
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
        "chain": [
            {
                "link": link.name,
                "state": link.mark.value,
                "text": link.text,
                "remedy": link.remedy or None,
            }
            for link in verdict.links
        ],
        "unread": dict(evidence.unread),
    }
