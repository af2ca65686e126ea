"""`uimgacc doctor`: the problems of this machine, and the fix of each."""

import asyncio

import rich.text

from agent import errors
from agent.cli import cluster_access, output
from agent.cli.install import support
from agent.clients.kube import rest_client
from agent.setup.doctor import checks, examination

_API_SECONDS = 5.0
_STYLES = {checks.Level.OK: "green", checks.Level.WARN: "yellow", checks.Level.FAIL: "bold red"}


def diagnose(patient: examination.Patient, *, as_json: bool) -> None:
    """Check a machine; ends with status 1 where a check fails."""
    findings = asyncio.run(_examine(patient))
    failed = [finding for finding in findings if finding.level is checks.Level.FAIL]
    if as_json:
        shown = [
            {
                "check": finding.check,
                "level": finding.level.value,
                "what": finding.what,
                "fix": finding.fix,
            }
            for finding in findings
        ]
        output.show_json({"ok": not failed, "findings": shown})
    else:
        _show(findings)
    if failed:
        names = ", ".join(dict.fromkeys(finding.check for finding in failed))
        output.fail(f"problems found: {names}", output.Status.FAILED)


async def _examine(patient: examination.Patient) -> list[checks.Finding]:
    findings = [finding async for finding in examination.examine(patient)]
    return [*findings, *await _cluster()]


async def _cluster() -> list[checks.Finding]:
    """Whether the cluster's release is new enough, where this machine has a kubeconfig."""
    name = "kubernetes"
    try:
        credentials = cluster_access.Target().credentials()
    except output.UsageError:
        return []
    try:
        async with rest_client.Client(credentials, deadline=_API_SECONDS) as client:
            await support.require(client)
            major, minor = await client.release()
    except support.TooOld as error:
        return [checks.bad(name, str(error), "upgrade the cluster")]
    except errors.AgentError as error:
        return [checks.warn(name, str(error), "look at the kubeconfig, and at the API server")]
    return [checks.ok(name, f"API server {major}.{minor}")]


def _show(findings: list[checks.Finding]) -> None:
    made = output.table("CHECK", "", "FOUND")
    for finding in findings:
        level = rich.text.Text(finding.level.value, style=_STYLES[finding.level])
        what = rich.text.Text(finding.what)
        if finding.fix:
            what.append(f"\nfix: {finding.fix}", style="bold")
        made.add_row(finding.check, level, what)
    output.console().print(made)
