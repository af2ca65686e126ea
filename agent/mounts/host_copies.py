"""Letting go of copies of the host's mounts that a container's volumes brought along.

A volume of a folder is a copy of all that is mounted below it when the container
starts. What has been unmounted on the host since then lives on in the copy: the root
of a container that is long gone, and with it the layers that it stood on.
"""

import logging
import pathlib
from collections.abc import Sequence

from agent.mounts import mountinfo, syscalls

logger = logging.getLogger(__name__)

_MNT_DETACH = 2


def is_container(table: list[mountinfo.Entry]) -> bool:
    """Whether a mount table is a container's: on a host these mounts are no copies."""
    roots = [entry for entry in table if entry.target == "/"]
    return bool(roots) and roots[-1].kind == "overlay"


def detach_below(folder: str, *, but: Sequence[str] = ()) -> int:
    """Detach what is mounted below a container's volume, not the volume; return how many.

    At "/host", say, that is all but the host's own root. The folders `but` stay as they
    are seen, without what is mounted below them.

    Nothing where this is no container. The volume must be private (no propagation), or
    the host would lose its mounts.
    """
    table = mountinfo.read()
    if not is_container(table):
        return 0
    stays = {str(above) for path in map(pathlib.PurePath, but) for above in (path, *path.parents)}
    below = [
        each.target
        for each in table
        if each.target.startswith(f"{folder.rstrip('/')}/") and each.target not in stays
    ]
    for target in reversed(below):
        try:
            syscalls.unmount(target, _MNT_DETACH)
        except OSError as error:
            logger.warning(
                "a copy of a mount stays", extra={"target": target, "reason": str(error)}
            )
    return len(below)
