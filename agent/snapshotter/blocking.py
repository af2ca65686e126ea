"""The operations of the snapshotter's worker processes."""

from agent.mounts import syscalls
from agent.store import blocking, chains

OPERATIONS = {**blocking.OPERATIONS, **chains.OPERATIONS, **syscalls.OPERATIONS}
