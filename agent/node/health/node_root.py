"""The snapshotter's folder, as most parts of a node's agent need it."""

from typing import Protocol


class Rooted(Protocol):
    """This node, as the agent knows it."""

    @property
    def root(self) -> str:
        """The snapshotter's root folder, "" before that is known."""
