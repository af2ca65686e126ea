"""Whether pods in user namespaces (`hostUsers: false`) share the layers that others run on."""

import os
import pathlib

from agent.kits.processes import workers
from agent.setup.doctor import checks
from agent.setup.node import user_namespaces

_NAME = "user namespaces"


async def examine(pool: workers.Pool, folder: pathlib.Path, *, deadline: float) -> checks.Finding:
    """Show a layer and a folder of the node's disk with other owners."""
    if os.geteuid() != 0:
        return checks.warn(_NAME, "not root: no mount was tried", "run it with sudo")
    if problem := await user_namespaces.tried(pool, folder, deadline=deadline):
        what = f"for pods with hostUsers: false containerd copies images: {problem}"
        fix = (
            "kernel 5.19 or newer, the snapshotter's folder on ext4, xfs or btrfs, and the sysctl"
            " user.max_user_namespaces above 0; other pods need none of that"
        )
        return checks.warn(_NAME, what, fix)
    return checks.ok(_NAME, "layers can be shown with their owners")
