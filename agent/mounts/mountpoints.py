"""Where a layer is mounted, and where its local copy is; also for workers: few imports."""

import re

COPIES = "local"
"""The folder of local copies in the snapshotter's root: laid out like a store (agent.local)."""

_SHORT = 16

MAPPED = "m"
"""The folder below a snapshotter's root where its folders are shown with other owners: what
lies at `layers/<short>` and `s/<id>/fs` is there at `m/<snapshot>/layers/<short>` and so on."""


def mountpoint(folder: str, name: str) -> str:
    """The mountpoint below `folder` of a layer, by its diff ID (64 hex digits).

    It has 16 of them: 127 mountpoints must fit into the 4095 bytes of overlay's
    options. Two layers with the same 16 would be refused by the kernel mount
    (layer_mounting.mount_layer finds another source there), never mixed up.
    """
    return f"{folder}/{name[:_SHORT]}"


def mapped(root: str, id_: int, path: str) -> str:
    """Where a folder below a snapshotter's root is shown to a snapshot with other owners."""
    return f"{root}/{MAPPED}/{id_}{path.removeprefix(root)}"


def without_mapped(text: str, roots: set[str]) -> str:
    """A path, or the options of an overlay, with the folders themselves in place of those shown."""
    for root in roots:
        before = f"{root}/{MAPPED}/"
        if before in text:
            text = re.sub(rf"({re.escape(root)}/){MAPPED}/\d+/", r"\1", text)
    return text
