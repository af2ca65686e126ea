"""A node's turn to restart containerd, and the machine that needs to ask none.

Without the API: what needs it is agent.setup.slots.slot_turn, which costs memory.
"""

import dataclasses
from typing import Protocol

from agent import errors
from agent.model import keys
from agent.setup.config import settings_view

NOTE = settings_view.Path("/var/lib/uimgacc/setup-slot")
"""The slot that a node holds, or is about to take, as the node itself knows it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of which node, and by which rules.

    `slots` is as agent.setup.slots.slot_rules.count has it, of the nodes of `daemon_set`.
    `slot_seconds` is how long a node should need, `young_seconds` how long a node counts as new.
    `agent_address` is that of the agent's web server, "" where no agent will run.
    """

    node: str
    slots: str = "5%"
    slot_seconds: float = 300.0
    young_seconds: float = 600.0
    agent_address: str = ""
    namespace: str = keys.NAMESPACE
    daemon_set: str = keys.AGENTS


class NotYet(errors.TemporaryError):
    """containerd must not be restarted now; `delay` is when to ask again. `reason` is why."""

    def __init__(self, reason: str, *, delay: float) -> None:
        super().__init__(
            f"containerd's configuration is not changed yet, the node stays as it is: {reason}",
            delay=delay,
        )
        self.reason = reason


class Turn(Protocol):
    """What stands around a restart of containerd. It holds across processes and reboots."""

    def take(self) -> None:
        """Have the turn, also if this node has it already; raise NotYet, and have nothing."""

    def drop(self) -> None:
        """Leave the turn: containerd was not restarted. Where that fails, `settle` does it."""

    def fail(self, problem: str) -> None:
        """Keep the turn, and say why: containerd may not be running."""

    def settle(self, seconds: float) -> str:
        """Leave the turn once the node is back, within so many seconds.

        "" where this node has no turn (any more), else why it is not back.
        """


class Alone:
    """A machine that waits for no other."""

    def take(self) -> None:
        """See Turn."""

    def drop(self) -> None:
        """See Turn."""

    def fail(self, problem: str) -> None:
        """See Turn."""

    def settle(self, seconds: float) -> str:
        """See Turn."""
        return ""
