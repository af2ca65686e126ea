"""Where a layer is mounted, and where its local copy is; also for workers: few imports."""

COPIES = "local"
"""The folder of local copies in the snapshotter's root: laid out like a store (agent.local)."""

_SHORT = 16


def mountpoint(folder: str, name: str) -> str:
    """The mountpoint below `folder` of a layer, by its diff ID (64 hex digits).

    It has 16 of them: 127 mountpoints must fit into the 4095 bytes of overlay's
    options. Two layers with the same 16 would be refused by the kernel mount
    (layer_mounting.mount_layer finds another source there), never mixed up.
    """
    return f"{folder}/{name[:_SHORT]}"
