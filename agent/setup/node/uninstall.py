"""Removes uimgacc's mounts and files from a node, or says what still uses them.

The work is done by agent.mounts.teardown in a child that can be killed: the store's
server may be gone, which is a reason to uninstall.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

from agent import errors
from agent.kits.processes import workers
from agent.setup.config import settings_view
from agent.setup.node import host, shared_mounts

NOTE = settings_view.Path("/run/uimgacc/cleared-root")

_OPERATIONS = "agent.mounts.teardown"
_UNMOUNT_SECONDS = 60.0
_REMOVE_SECONDS = 900.0
_NAMED = 10


class HeldError(errors.TemporaryError):
    """A mount or folder of uimgacc is in use and stays; `held` says which, why and by what."""

    def __init__(self, held: Sequence[str]) -> None:
        more = f"; and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
        super().__init__(
            f"these mounts stay: {'; '.join(held[:_NAMED])}{more}. End what uses them, then do"
            " this again"
        )
        self.held = held


class UnreachableError(errors.PermanentError):
    """This is a container that cannot reach the mounts of its node."""

    def __init__(self) -> None:
        super().__init__("no process of the node can be looked into: the pod needs hostPID")


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """Where uimgacc is on a node: the snapshotter's root, the store's place, the agent's state.

    `links` is the folder of links to layers (agent.node.native).
    """

    root: settings_view.Path
    store: settings_view.Path
    state: settings_view.Path
    links: settings_view.Path


def noted_root(machine: host.Host, root: settings_view.Path) -> settings_view.Path:
    """The snapshotter's folder as an earlier try noted it; else it is `root`, which is noted.

    containerd's configuration names the folder only until it is undone. A try that ends after
    that, because something is in use, leaves the note for the next one.
    """
    data = machine.read(NOTE)
    if data is not None:
        return settings_view.Path(data.decode())
    machine.write(NOTE, str(root).encode())
    return root


def forget_root(machine: host.Host) -> None:
    """Remove the note: the folder is gone, or the node is set up anew, perhaps with another."""
    machine.remove(NOTE)


def clear(machine: host.Host, own: Places, pods: Mapping[str, str]) -> None:
    """Unmount and remove all of it; raise HeldError, UnreachableError, OSError.

    `pods` are the names of the node's pods by their UID, to name those that use something.
    """
    process = ""
    if machine.enter:
        process = shared_mounts.process_of_node() or ""
        if not process:
            raise UnreachableError
    asyncio.run(_clear(process, own, pods))


async def _clear(process: str, own: Places, pods: Mapping[str, str]) -> None:
    root = str(own.root)
    async with workers.Pool(_OPERATIONS, name="the removal", size=1) as pool:
        left = await pool.call("unmount", process, root, deadline=_UNMOUNT_SECONDS)
        if left:
            raise HeldError([held_sentence(*each, pods=pods) for each in left])
        arguments = (process, root, str(own.store), str(own.state), str(own.links))
        await pool.call("remove", *arguments, deadline=_REMOVE_SECONDS)


def held_sentence(
    target: str, reason: str, users: Sequence[tuple[int, str, str]], *, pods: Mapping[str, str]
) -> str:
    """A mount that stays, and who uses it, in one phrase."""
    named = []
    for process, program, uid in users:
        pod = f" of pod {pods.get(uid, uid)}" if uid else ""
        named.append(f"{program} (process {process}{pod})")
    return f"{target} ({reason}{', used by ' if named else ''}{', '.join(named)})"
