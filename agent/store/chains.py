"""From a chain ID to its layer: the one question that the snapshotter asks.

Standard library only and few imports: it runs in children without site-packages.
The caller decodes what comes back (agent.model.records).
"""

import errno
import os
import re

from agent.store import blocking

RECORD_LIMIT = 1 << 20
"""Bytes; no record of a layer or chain comes near."""

_DIFF_ID = re.compile(rb'"diff_id"\s*:\s*"sha256:([0-9a-f]{64})"')


def find_chain(store: str, chain_id: str) -> tuple[bytes, bytes, int] | None:
    """Look a chain ID (64 hex digits) up in the store whose root folder is `store`.

    Returns its chain record, the record of its layer, and the size of the layer's
    file; None when the chain is not in the store. A chain whose layer is missing
    or whose record is damaged raises OSError EUCLEAN.
    """
    try:
        chain = blocking.read(f"{store}/meta/chains/{chain_id[:2]}/{chain_id}.json", RECORD_LIMIT)
    except FileNotFoundError:
        return None
    named = _DIFF_ID.search(chain)
    if named is None:
        raise OSError(errno.EUCLEAN, "damaged chain record", chain_id)
    name = named[1].decode()
    try:
        record = blocking.read(f"{store}/meta/layers/{name[:2]}/{name}.json", RECORD_LIMIT)
        size = blocking.size_of(f"{store}/sha256/{name[:2]}/{name}.erofs")
    except FileNotFoundError as error:
        raise OSError(errno.EUCLEAN, "the layer of a chain is missing", error.filename) from error
    return chain, record, size


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
            return file.read(RECORD_LIMIT)
    except FileNotFoundError:
        return None


OPERATIONS = {"find_chain": find_chain, "confirm_chain": confirm_chain}
