"""What must hold for a node that serves images by containerd's own snapshotter; pure."""

from agent.clients.containerd import objects
from agent.matching import runtimes
from agent.model import keys, records

_READABLE = "none"

_SET_UP = "run `uimgacc node-setup --native --restart`"


def problem_of_store(record: records.StoreRecord, *, compressed: bool) -> str:
    """Why containerd could not run images of a store; "" where it can.

    The kernel mounts compressed layers. But containerd looks users up by a reader of its own before
    it creates a container, and falls back on the kernel only with the change of its pull request
    14077 (https://github.com/containerd/containerd/issues/14076): `compressed` says that it has it.
    """
    if compressed or record.compression == _READABLE:
        return ""
    return (
        f"the store's layers are compressed ({record.compression}), and containerd itself cannot"
        " start containers on such before its pull request 14077: make a store with `uimgacc store"
        " init --compression none`, or set UIMGACC_NATIVE_COMPRESSED where containerd has it"
    )


def problem_of_plugins(snapshotter: objects.Plugin | None, differ: objects.Plugin | None) -> str:
    """What containerd's own snapshotter lacks; "" for nothing.

    Without the differ it could not unpack what the store does not have.
    """
    if snapshotter is not None and keys.REBASE not in snapshotter.capabilities:
        return "this containerd has no cache of EROFS layers: 2.4 or newer is needed"
    if differ is None or differ.error:
        reason = "" if differ is None else f": {differ.error}"
        return (
            "containerd cannot unpack images into EROFS layers; install erofs-utils 1.8 or newer on"
            f" the node{reason}"
        )
    return ""


def problem_of_handler(snapshotter: str) -> str:
    """Whether the runtime handlers of uimgacc are on containerd's own snapshotter; "" if so."""
    if snapshotter in ("", keys.NATIVE_SNAPSHOTTER):
        return ""
    return (
        f"the runtime handler {runtimes.DEFAULT_TWIN} is on the snapshotter {snapshotter}, not on"
        f" {keys.NATIVE_SNAPSHOTTER}: {_SET_UP}"
    )
