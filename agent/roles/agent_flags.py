"""The settings of `uimgacc agent`, from its flags and environment variables."""

from collections.abc import Iterator, Sequence

from agent.kits import flags
from agent.node.health import node_patch
from agent.settings import agent_settings


def parse(arguments: Sequence[str]) -> agent_settings.Agent:
    """Read them; the process ends where they are wrong."""
    return flags.read(
        agent_settings.Agent,
        arguments,
        program="uimgacc agent",
        description="The node agent: has the images of this node's pods present before they start.",
        check=_problems,
    )


def _problems(wanted: agent_settings.Agent) -> Iterator[str]:
    if bool(wanted.pods) is bool(wanted.kubernetes):
        yield "either --pods or --kubernetes is needed: it says where pods come from"
    try:
        if wanted.startup_taint:
            node_patch.parse_taint(wanted.startup_taint)
    except node_patch.TaintError as error:
        yield f"--startup-taint: {error}"
