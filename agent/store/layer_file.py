"""A layer file by itself: its superblock and its bytes.

Apart from the store's rules, for the builder (before it publishes one) and the verifier.
"""

import hashlib
import pathlib
import struct

from agent.model.erofs import superblock

_CHUNK = 4 << 20


def superblock_fault(path: pathlib.Path) -> str | None:
    """What is wrong with the EROFS superblock of a layer file; None when nothing is."""
    with path.open("rb") as file:
        file.seek(superblock.OFFSET)
        block = file.read(128)
    if len(block) < 128 or not block.startswith(superblock.MAGIC):
        return "it has no EROFS superblock"
    block_bits = block[12]
    blocks = struct.unpack_from("<I", block, 36)[0]
    if not 9 <= block_bits <= 16:
        return f"its superblock is damaged: blocks of 2^{block_bits} bytes"
    if blocks << block_bits > path.stat().st_size:
        return f"it is cut off: the superblock says {blocks << block_bits} bytes"
    return None


def sha256_of(path: pathlib.Path) -> str:
    """The digest of a file's bytes."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return f"sha256:{digest.hexdigest()}"
