"""Whether this node's kernel can show layers with the owners of a user namespace.

Tried out, not concluded from its version: EROFS, overlayfs (both since 5.19) and the file system
of the snapshotter's folder must each be able to (mount_setattr(2), MOUNT_ATTR_IDMAP), and user
namespaces must be allowed.
"""

import asyncio
import functools
import os
import pathlib

from agent import errors
from agent.kits.processes import workers

_TRIES = "agent.setup.doctor.trial_mounts"
_SECONDS = 30.0


@functools.cache
def obstacle(folder: pathlib.Path) -> str:
    """Why it cannot below a folder, or below the nearest one that is there; "" where it can.

    Tried once for each process: neither the kernel nor the disk changes under it.
    """
    if os.geteuid() != 0:
        return "not root: not tried"
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    return asyncio.run(_tried(there))


async def _tried(folder: pathlib.Path) -> str:
    async with workers.Pool(_TRIES, name="the trial of user namespaces", size=1) as pool:
        return await tried(pool, folder, deadline=_SECONDS)


async def tried(pool: workers.Pool, folder: pathlib.Path, *, deadline: float) -> str:
    """The same with a pool that has the operations of agent.setup.doctor.trial_mounts."""
    try:
        await pool.call("try_idmap", str(folder), deadline=deadline)
    except (OSError, errors.AgentError) as error:
        return str(error)
    return ""
