"""Having the kernel load the modules that mounting layers and the store needs.

Distributions build EROFS as a module. The kernel loads it at the first mount, but a
node that is kept free of pods until it is capable would never come to that mount, and
a container does not see which modules there are.
"""

import subprocess

from agent.setup.node import host

_MODULES = ("erofs", "overlay", "loop", "dm_verity", "nfs", "nfsv4")
_SECONDS = 30.0


def load(machine: host.Host) -> None:
    """Load what is not built in. Best effort: what is missing in the end is found by the probes."""
    for module in _MODULES:
        try:
            subprocess.run(
                [*machine.enter, "modprobe", "-q", module],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
