"""Reading a folder on the node's own disk by the operations that read the store.

The same calls as of a pool of workers, in a thread each: a local disk does not hang as a server
does, and a process for it would take memory.
"""

from collections.abc import Mapping
from typing import Any

from agent.kits.aio import threads


class LocalPool:
    """Runs some operations; a pool of workers (agent.kits.processes.workers.Pool) to its callers.

    `operations` are those of agent.store.lookup.file_reads, and others by name.
    """

    def __init__(self, *operations: Mapping[str, Any]) -> None:
        self._operations = {name: each for group in operations for name, each in group.items()}

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        """Run an operation; OSError as it did. There is no deadline."""
        return await threads.run(operation, self._operations[operation], *arguments)
