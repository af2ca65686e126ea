"""The settings of `uimgacc snapshotter`."""

import dataclasses
import pathlib
from typing import Annotated, Literal

from agent.settings import setting_types


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshotter:
    """`uimgacc snapshotter`."""

    root: Annotated[
        pathlib.Path,
        "Local folder for records, layer mounts and what containers write, on the file system of"
        " containerd's own folder; containerd's `exports.root`.",
    ]
    address: Annotated[
        pathlib.Path,
        "Unix socket on which containerd asks: `address` of its `proxy_plugins` entry.",
        setting_types.Socket,
    ]
    store: Annotated[
        pathlib.Path | None,
        "Root folder of the shared store; empty: a plain overlayfs snapshotter.",
    ] = None
    local: setting_types.Local = "after-start"
    local_mounts: Annotated[
        Literal["loop", "file"],
        "How layers are mounted where copies are made: through loop devices, so that a copy goes"
        " behind the running containers (loop), or from their files, so that it is used from the"
        " next mount on (file).",
    ] = "loop"
    trusted_keys: setting_types.TrustedKeys = None
    unsigned: setting_types.Unsigned = "auto"
    announced_only: Annotated[
        bool,
        "Serve from the store only after the agent of this node has announced it to the cluster:"
        " deletions do not wait for a node that is not known there.",
    ] = False
    metrics_address: Annotated[
        str, "HOST:PORT of /metrics; empty: none.", setting_types.Address
    ] = ""
    lookup_seconds: Annotated[
        float,
        "How long the store may take to answer for one layer before the pull goes on without it.",
    ] = 2.0
    mount_seconds: Annotated[float, "How long one mount may take."] = 10.0
    verify: Annotated[
        Literal["off", "copy", "always"],
        "Which bytes of layers are verified: none (off); all of a layer when its local copy is"
        " made (copy; see UIMGACC_LOCAL); or each block as well when it is read (always), which"
        " needs dm-verity in the node's kernel. Layers without a hash tree are then not served;"
        " `uimgacc store verity` makes the trees.",
    ] = "copy"
    verify_seconds: Annotated[
        float, "Pause between two looks at which layers have failed verification."
    ] = 10.0
    selinux_context: setting_types.SELinuxContext = "auto"
    hang_seconds: Annotated[
        float,
        "After which a snapshotter whose event loop stands still is killed, to be started again;"
        " 0: never.",
    ] = 60.0
    damage_seconds: Annotated[
        float,
        "How often the record of each layer that is served is read again: one that `store check`"
        " has found damaged is not given to new containers; 0: only before each mount.",
    ] = 600.0
    lock_seconds: float = 20.0
    """How long to wait for a predecessor to end (an upgrade) before giving up."""
    tidy_seconds: float = 10.0
    """Pause between two looks at layers that had to stay mounted, but that no snapshot needs."""
    grace_seconds: float = 5.0
    """How long calls may go on after SIGTERM."""
