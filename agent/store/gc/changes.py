"""Whether a store is as a collector saw it last: a few looks instead of one at each file.

A round that goes through 100,000 layers each minute to find nothing would keep a server
busy for nothing. What is overlooked here is only deleted later: nothing goes because of
what this module says, and the controller has all gone through once an hour anyway.
"""

import hashlib
import os
from collections.abc import Collection, Iterable

from agent.model import records
from agent.store import layout
from agent.store.gc import generations


def wishes(
    place: layout.Layout, claims: Iterable[records.ClaimRecord], held: Collection[str]
) -> str:
    """Stands for what builds, caches and nodes want; ask before anything else is read.

    A record that is written anew is another file. What a claim names only grows.
    """
    counted = [(claim.id, claim.finished, len(claim.names), len(claim.images)) for claim in claims]
    with os.scandir(place.cache_records) as entries:
        caches = sorted(
            (entry.name, entry.inode()) for entry in entries if not entry.name.startswith(".")
        )
    return _digest((counted, caches, sorted(held)))


def seen(wanted: str, deletions: generations.Outstanding) -> str:
    """Stands for these wishes together with the deletions under way."""
    return _digest((wanted, deletions))


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()
