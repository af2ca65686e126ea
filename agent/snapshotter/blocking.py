"""The operations of the snapshotter's worker processes."""

import contextlib
import os

from agent.mounts import naming, syscalls
from agent.store import blocking, chains


def serve_chain(
    store: str, chain_id: str, folder: str
) -> tuple[bytes, bytes, int, int | None, bool] | None:
    """Look a chain ID (64 hex digits) up, mount its layer below `folder`, and look again.

    All in one, because a pull waits for each layer in turn. Returns what
    `chains.find_chain` does, the st_dev of the mount, and whether the same record was
    there afterwards. st_dev is None where that layer cannot be mounted just so: then
    the caller tries by itself, and hears why. None: the chain is not in the store.
    """
    found = chains.find_chain(store, chain_id)
    if found is None:
        return None
    chain, layer, size = found
    name = chains.layer_of(chain)
    if chains.size_of(layer) != size:
        return chain, layer, size, None, False
    target = naming.mountpoint(folder, name)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(target, 0o700)
        device = syscalls.mount_layer(chains.file_of(store, name), target, size)
    except OSError:
        return chain, layer, size, None, False
    try:
        confirmed = chains.confirm_chain(store, chain_id) == chain
    except OSError:
        confirmed = False
    return chain, layer, size, device, confirmed


OPERATIONS = {
    **blocking.OPERATIONS,
    **chains.OPERATIONS,
    **syscalls.OPERATIONS,
    "serve_chain": serve_chain,
}
