"""From a chain ID to its layer: the one question that the snapshotter asks.

Standard library only and few imports: it runs in children without site-packages.
The caller decodes what comes back (agent.model.records).
"""

import errno
import os
import re

from agent.store.lookup import file_reads

_DIFF_ID = re.compile(rb'"diff_id"\s*:\s*"sha256:([0-9a-f]{64})"')
_VARIANT_OF = re.compile(rb'"variant_of"\s*:\s*"sha256:([0-9a-f]{64})"')
_PARENT = re.compile(rb'"parent"\s*:\s*(?:null|"sha256:([0-9a-f]{64})")')
_DAMAGED = re.compile(rb'"damaged"\s*:\s*"[^"]')
_SIZE = re.compile(rb'"size"\s*:\s*(\d+)')
_PUBLIC = re.compile(rb'"public"\s*:\s*true')


def find_chain(store: str, chain_id: str) -> tuple[bytes, bytes, int] | None:
    """Look a chain ID (64 hex digits) up in the store whose root folder is `store`.

    Returns its chain record, the record of its layer, and the size of the layer's
    file; None when the chain is not in the store. A chain whose layer is missing
    or whose record is damaged raises OSError EUCLEAN.
    """
    try:
        chain = _read(f"{store}/meta/chains/{chain_id[:2]}/{chain_id}.json")
    except FileNotFoundError:
        return None
    name = layer_of(chain)
    try:
        record = _read(f"{store}/meta/layers/{name[:2]}/{name}.json")
        size = file_reads.size_of(file_of(store, name))
    except FileNotFoundError as error:
        raise OSError(errno.EUCLEAN, "the layer of a chain is missing", error.filename) from error
    return chain, record, size


def find_chains(store: str, chain_id: str, most: int) -> list[tuple[str, bytes, bytes, int]] | None:
    """A chain ID and what `find_chain` says of it, then those below, up to `most` in all.

    None where something of one of them is missing, or where with more than one there are too many.
    """
    rows: list[tuple[str, bytes, bytes, int]] = []
    name: str | None = chain_id
    while name is not None and len(rows) < most:
        try:
            chain = find_chain(store, name)
        except OSError as error:
            if error.errno == errno.EUCLEAN:
                return None
            raise
        if chain is None:
            return None
        rows.append((name, *chain))
        name = parent_of(chain[0])
    return None if name is not None and most > 1 else rows


def _read(path: str) -> bytes:
    return file_reads.read(path, file_reads.LOOKUP_LIMIT)


def layer_of(chain: bytes) -> str:
    """The diff ID (64 hex digits) that a chain record names; raises OSError EUCLEAN."""
    named = _DIFF_ID.search(chain)
    if named is None:
        raise OSError(errno.EUCLEAN, "damaged chain record")
    return named[1].decode()


def real_layer_of(chain: bytes) -> str:
    """The same as images name it, where `layer_of` is a variant; raises OSError EUCLEAN."""
    real = _VARIANT_OF.search(chain)
    return real[1].decode() if real else layer_of(chain)


def parent_of(chain: bytes) -> str | None:
    """The chain ID (64 hex digits) below; None for a bottom layer. Raises OSError EUCLEAN."""
    named = _PARENT.search(chain)
    if named is None:
        raise OSError(errno.EUCLEAN, "damaged chain record")
    return named[1].decode() if named[1] else None


def size_of(layer: bytes) -> int | None:
    """The size of the file that a layer record names; None where it names none."""
    named = _SIZE.search(layer)
    return int(named[1]) if named else None


def is_damaged(layer: bytes) -> bool:
    """Whether a layer record says that the file is damaged."""
    return _DAMAGED.search(layer) is not None


def may_be_of(layer: bytes, repository: str) -> bool:
    """Whether a layer record may say that a repository's images have the layer, or that all may.

    False is certain but for records of earlier versions; True may be wrong.
    """
    return _PUBLIC.search(layer) is not None or (
        repository != "" and f'"{repository}"'.encode() in layer
    )


def file_of(store: str, name: str) -> str:
    """The file of a layer by its diff ID (64 hex digits)."""
    return f"{store}/sha256/{name[:2]}/{name}.erofs"


def confirm_chain(store: str, chain_id: str) -> bytes | None:
    """The chain record of a chain ID (64 hex digits) if it is there at this moment, else None.

    A client of NFS may open a file that was deleted, while another one has it open, by
    the handle that it remembers; but what it then hears of the file has no links.
    """
    path = f"{store}/meta/chains/{chain_id[:2]}/{chain_id}.json"
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_nlink:
                return None
            return file.read(file_reads.LOOKUP_LIMIT)
    except FileNotFoundError:
        return None


def confirm_chains(store: str, chain_ids: list[str]) -> list[tuple[bytes, bytes | None] | None]:
    """The same for several, each with the record of its layer (None where that is missing)."""
    chains = (confirm_chain(store, chain_id) for chain_id in chain_ids)
    return [
        None if chain is None else (chain, layer_record(store, layer_of(chain))) for chain in chains
    ]


def layer_record(store: str, name: str) -> bytes | None:
    """The record of a layer by its diff ID (64 hex digits); None where there is none."""
    try:
        return _read(f"{store}/meta/layers/{name[:2]}/{name}.json")
    except FileNotFoundError:
        return None


def layer_records(store: str, names: list[str]) -> list[bytes | None]:
    """The same for several."""
    return [layer_record(store, name) for name in names]


OPERATIONS = {
    "confirm_chains": confirm_chains,
    "find_chains": find_chains,
    "layer_records": layer_records,
}
