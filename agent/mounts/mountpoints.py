"""Where a layer is mounted; also for workers, so with few imports."""

_SHORT = 16


def mountpoint(folder: str, name: str) -> str:
    """The mountpoint below `folder` of a layer, by its diff ID (64 hex digits).

    It has 16 of them: 127 mountpoints must fit into the 4095 bytes of overlay's
    options. Two layers with the same 16 would be refused by the kernel mount
    (layer_mounting.mount_layer finds another source there), never mixed up.
    """
    return f"{folder}/{name[:_SHORT]}"
