"""Digests and the identities built from them.

A *diff ID* is the digest of a layer's uncompressed tar, a *chain ID* names a
layer together with everything below it. Source: OCI image-spec v1.1 config.md,
"Layer DiffID" and "Layer ChainID".
"""

import hashlib
import re
from collections.abc import Iterable
from typing import NewType

from agent import errors

Digest = NewType("Digest", str)
"""`sha256:<64 hex>`: of a blob as a registry serves it."""

DiffID = NewType("DiffID", str)
"""`sha256:<64 hex>`: of a layer's uncompressed tar."""

ChainID = NewType("ChainID", str)
"""`sha256:<64 hex>`: of a layer and all below it."""

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


class DigestError(errors.PermanentError):
    """A string that should be a digest is none.

    `text` is the string as it came.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"not a sha256 digest: {text[:100]!r}")
        self.text = text


def parse(text: str) -> str:
    """Return `text` if it is `sha256:<64 lower-case hex>`, else raise DigestError.

    Paths are made of digests, so nothing that has not passed here may become one.
    """
    if not _SHA256.fullmatch(text):
        raise DigestError(text)
    return text


def is_digest(text: str) -> bool:
    """Whether a string has the form of a digest."""
    return _SHA256.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The 64 hex digits of a digest."""
    return parse(digest).removeprefix("sha256:")


def sha256(data: bytes) -> Digest:
    """The digest of some bytes in memory."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain_ids(diff_ids: Iterable[str]) -> list[ChainID]:
    """The chain ID of each layer, bottom first, for a list of diff IDs, bottom first."""
    chain: list[ChainID] = []
    for diff_id in diff_ids:
        parse(diff_id)
        if chain:
            joined = f"{chain[-1]} {diff_id}".encode()
            chain.append(ChainID("sha256:" + hashlib.sha256(joined).hexdigest()))
        else:
            chain.append(ChainID(diff_id))
    return chain


MAX_REPLACEMENTS = 16
"""Files of one layer, of which all but the last are damaged."""


def replacement_id(diff_id: str, number: int) -> Digest:
    """The name of the file that replaces a damaged layer for the first, second, ... time.

    It follows from the layer's own name, so no other layer can take its place.
    """
    return sha256(f"{diff_id} replaced {number}".encode())


def is_replacement(name: str, diff_id: str) -> bool:
    """Whether a name is that of a file that may replace a damaged layer."""
    return any(name == replacement_id(diff_id, at) for at in range(1, MAX_REPLACEMENTS))
