"""The operations of the snapshotter's worker processes."""

import contextlib
import os
import threading

from agent.mounts import mount_users, mountpoints
from agent.mounts.devices import layer_mounting
from agent.mounts.idmaps import mapped_folders
from agent.store.lookup import chain_index, file_reads

Answer = tuple[bytes, bytes, int, int | None, bool]


def serve_chain(
    store: str, chain_id: str, place: tuple[str, str, str], most: int, repository: str | None
) -> list[Answer] | None:
    """Look a chain ID (64 hex digits) up, mount its layer in `place`, and look again.

    What is not for `repository` (see layer_permissions.Requester) is not mounted.

    All in one call, because a pull waits for each layer in turn; so the layers below it
    are mounted as well, up to `most` in all. Where the place (see layer_mounting.Place) has no
    folder none is: then the caller verifies the records first. Returns for each, topmost first,
    what `chain_index.find_chain` does, the st_dev of the mount, and whether the same record was
    still there after the mount. st_dev is None where the layer was not mounted: where the
    caller serves it all the same, that mounts it in a call of its own, which raises the
    reason. Returns None where one of the chains is not in the store.
    """
    chains = _find(store, chain_id, most)
    if chains is None:
        return None
    devices = _mount_all(store, place, chains, repository)
    return [
        (chain, layer, size, device, device is not None and _is_unchanged(store, name, chain))
        for (name, chain, layer, size), device in zip(chains, devices, strict=True)
    ]


def _find(store: str, chain_id: str, most: int) -> list[tuple[str, bytes, bytes, int]] | None:
    """The chain ID, chain record, layer record and size of each; None if one is not there."""
    rows: list[tuple[str, bytes, bytes, int]] = []
    name: str | None = chain_id
    while name is not None and len(rows) < most:
        chain = chain_index.find_chain(store, name)
        if chain is None:
            return None
        rows.append((name, *chain))
        name = chain_index.parent_of(chain[0])
    return rows


def _mount_all(
    store: str,
    place: tuple[str, str, str],
    chains: list[tuple[str, bytes, bytes, int]],
    repository: str | None,
) -> list[int | None]:
    """Mount some layers side by side: each waits for the store, and for its loop device."""
    devices: list[int | None] = [None] * len(chains)

    def mount(at: int) -> None:
        _, chain, layer, size = chains[at]
        if repository is None or chain_index.may_be_of(layer, repository):
            devices[at] = _mount(store, place, chain, layer, size)

    threads = [threading.Thread(target=mount, args=(at,)) for at in range(1, len(chains))]
    for thread in threads:
        thread.start()
    mount(0)
    for thread in threads:
        thread.join()
    return devices


def _mount(
    store: str, place: tuple[str, str, str], chain: bytes, layer: bytes, size: int
) -> int | None:
    folder, way, label = place
    if not folder or chain_index.size_of(layer) != size or chain_index.is_damaged(layer):
        return None
    name = chain_index.layer_of(chain)
    target = mountpoints.mountpoint(folder, name)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(target, 0o700)
        file = chain_index.file_of(store, name)
        return layer_mounting.mount_layer(file, target, size, None, way, label)
    except OSError:
        return None


def _is_unchanged(store: str, chain_id: str, chain: bytes) -> bool:
    try:
        return chain_index.confirm_chain(store, chain_id) == chain
    except OSError:
        return False


OPERATIONS = {
    **file_reads.OPERATIONS,
    **chain_index.OPERATIONS,
    **mount_users.OPERATIONS,
    **layer_mounting.OPERATIONS,
    **mapped_folders.OPERATIONS,
    "serve_chain": serve_chain,
}
