"""Whether SELinux lets containers read the layers that are mounted."""

import pathlib

from agent import errors
from agent.kits.processes import workers
from agent.mounts.devices import layer_files, layer_labels
from agent.setup.doctor import checks

_NAME = "selinux"
_LAYERS = "labels"
_WORKER = "agent.mounts.devices.layer_labels"


async def examine(root: pathlib.Path, wanted: str, *, deadline: float) -> list[checks.Finding]:
    """What is found; nothing where the kernel has no SELinux. `wanted` is the setting.

    What an enforcing SELinux refuses is a failure, what a permissive one would is a warning.
    """
    if not layer_labels.is_active():
        return []
    try:
        async with workers.Pool(_WORKER, name="the doctor", size=1) as pool:
            state = layer_labels.State(*await pool.call("state", wanted, deadline=deadline))
    except (OSError, errors.AgentError) as error:
        return [checks.warn(_NAME, f"not looked at: {error}", "run it as root")]
    return _findings(state, root)


def _findings(state: layer_labels.State, root: pathlib.Path) -> list[checks.Finding]:
    wrong = checks.bad if state.mode == "enforcing" else checks.warn
    if state.problem:
        fix = (
            "install the policy for containers (container-selinux), or name a label that they may"
            " read: UIMGACC_SELINUX_CONTEXT"
        )
        return [wrong(_NAME, f"{state.mode}; {state.problem}", fix)]
    if not state.label:
        return [checks.ok(_NAME, f"{state.mode}; layers are mounted without a label (off)")]
    findings = [checks.ok(_NAME, f"{state.mode}; layers are mounted as {state.label}")]
    last = {entry.target: entry for entry in layer_files.mounted_below(str(root / "layers"))}
    others = [entry for entry in last.values() if layer_labels.of(entry) != state.label]
    if others:
        found = layer_labels.of(others[0]) or "none"
        findings.append(
            wrong(
                _LAYERS,
                f"{len(others)} layers are mounted with another label ({found}):"
                " containers may not be allowed to read them",
                "restart the snapshotter: for new containers they are mounted anew",
            )
        )
    if type_ := layer_labels.unknown_type(str(root)):
        fix = f"semanage fcontext -a -e /var/lib/containerd {root}; restorecon -R {root}"
        findings.append(wrong(_LAYERS, f"{root} is {type_}: containerd may not write there", fix))
    return findings
