"""The note for the snapshotter that containerd says for which image a layer is asked for.

Layers that are not public are served only to pulls of the images that they belong to. Which
image is pulled, containerd says in a label (`disable_snapshot_annotations = false`); where it
does not, the author of an image can write that label. So the snapshotter believes it only
where this file is, which node set-up writes once it has verified the configuration.
"""

from agent.setup.config import settings_view
from agent.setup.node import host
from agent.store.lookup import layer_requests

_TEXT = (
    "uimgacc node-setup has verified that containerd says for which image it asks for a layer.\n"
)


def note(machine: host.Host, root: settings_view.Path, *, make: bool) -> None:
    """Write the file into the snapshotter's folder `root`, unless it is there.

    `make` the folder where there is none: before the snapshotter's first start.
    """
    place = machine.place(root)
    if make and not place.is_dir():
        # With the modes that containerd and the snapshotter give them.
        place.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        place.mkdir(mode=0o700)
    if place.is_dir() and not is_noted(machine, root):
        machine.write(root / layer_requests.IMAGE_REFS, _TEXT.encode())


def is_noted(machine: host.Host, root: settings_view.Path) -> bool:
    """Whether the file is there."""
    return machine.read(root / layer_requests.IMAGE_REFS) is not None


def forget(machine: host.Host, root: settings_view.Path) -> None:
    """Remove the file: that is not so, or no longer known."""
    if is_noted(machine, root):
        machine.remove(root / layer_requests.IMAGE_REFS)
