"""Whether the kernel says what of a file is in memory, which the observation of starts asks."""

import pathlib

from agent import errors
from agent.kits.processes import workers
from agent.setup.doctor import checks


async def examine(pool: workers.Pool, folder: pathlib.Path, *, deadline: float) -> checks.Finding:
    """Try it on a file in a folder of the node's disk."""
    try:
        answer = str(await pool.call("try_memory", str(folder), deadline=deadline))
    except (OSError, errors.AgentError) as error:
        answer = str(error)
    if answer == "ok":
        return checks.ok("start profiles", "the kernel says what starts read")
    if answer.startswith("roughly"):
        what = f"what the kernel reads ahead counts as read ({answer.partition(': ')[2]})"
        fix = "run the agent as root, on a kernel with /proc/kpageflags"
        return checks.warn("start profiles", what, fix)
    fix = "run the agent as root; the profiles of other nodes are used all the same"
    return checks.warn("start profiles", f"starts cannot be observed here: {answer}", fix)
