"""Whether a local copy can be put behind a layer's mount that containers run on."""

import os
import pathlib

from agent import errors
from agent.kits.processes import workers
from agent.setup.doctor import checks

_NAME = "local copies"


async def examine(pool: workers.Pool, folder: pathlib.Path, *, deadline: float) -> checks.Finding:
    """Mount a layer in a folder of the node's disk, and switch it to a copy that lies there."""
    if os.geteuid() != 0:
        return checks.warn(_NAME, "not root: no mount was switched", "run it with sudo")
    try:
        await pool.call("try_switch", str(folder), deadline=deadline)
    except (OSError, errors.AgentError) as error:
        what = f"copies cannot be put behind running mounts: {error}"
        fix = (
            "load the module (modprobe loop), and give the container /dev; without, a copy is used"
            " from the next mount of its layer on (UIMGACC_LOCAL_MOUNTS=file)"
        )
        return checks.warn(_NAME, what, fix)
    return checks.ok(_NAME, "can be put behind running mounts")
