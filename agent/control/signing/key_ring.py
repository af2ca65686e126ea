"""Which key signs, which ones nodes know, and when one follows another. Pure functions.

A new key is published before it signs, so that every node has read it by then. When everything is
signed by it, the one before it gets an end, and after that it is removed. So at each moment what
is signed is signed by a key that nodes know.
"""

import dataclasses
import datetime
from collections.abc import Mapping

import msgspec

from agent.store import signatures, signing_keys, trusted_keys

ANNOUNCED = datetime.timedelta(minutes=10)
"""From the publication of a key to its use. The kubelet updates ConfigMaps within two minutes."""

OVERLAP = datetime.timedelta(minutes=10)
"""For which the signatures of a key count after everything is signed by the next one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ring:
    """The private keys by their ID, and the document that nodes have.

    `version` is that of the Secret that they were read from; "" where there is none yet.
    """

    private: Mapping[str, signing_keys.SigningKey]
    document: trusted_keys.Document
    version: str = ""

    @property
    def store(self) -> str:
        """The ID of the store that it is for."""
        return self.document.store

    @property
    def public(self) -> tuple[signatures.PublicKey, ...]:
        """The keys as nodes have them."""
        return trusted_keys.keys_of(self.document)

    def current(self, now: datetime.datetime) -> signing_keys.SigningKey | None:
        """The key that signs: the newest that is in use."""
        usable = [
            key
            for key in self.public
            if key.id in self.private and key.not_before <= now and key.counts(now)
        ]
        newest = max(usable, key=lambda key: key.not_before, default=None)
        return None if newest is None else self.private[newest.id]

    def replaced(self, now: datetime.datetime) -> tuple[signatures.PublicKey, ...]:
        """The keys before the current one that have no end yet."""
        current = self.current(now)
        if current is None:
            return ()
        since = next(key.not_before for key in self.public if key.id == current.id)
        return tuple(key for key in self.public if key.not_before < since and not key.not_after)

    def is_rotating(self, now: datetime.datetime) -> bool:
        """Whether a key waits for its use, or one before the current one for its end."""
        return bool(self.replaced(now)) or any(key.not_before > now for key in self.public)


def created(
    store: str,
    now: datetime.datetime,
    key: signing_keys.SigningKey,
    *,
    unsigned: trusted_keys.Unsigned,
) -> Ring:
    """The first key of a store: it signs at once, because there is none before it."""
    entry = trusted_keys.entry_of(signatures.PublicKey(key.value, store, now))
    document = trusted_keys.Document(store=store, unsigned=unsigned, keys=[entry])
    return Ring({key.id: key}, document)


def rotated(ring: Ring, now: datetime.datetime, key: signing_keys.SigningKey) -> Ring:
    """The ring with a key that will be the next one; while one waits already, the same ring."""
    if ring.is_rotating(now):
        return ring
    new = signatures.PublicKey(key.value, ring.store, now + ANNOUNCED)
    return _with(ring, (*ring.public, new), {**ring.private, key.id: key})


def retired(ring: Ring, now: datetime.datetime) -> Ring:
    """The ring after everything is signed by the current key: those before it get an end."""
    ending = {key.id for key in ring.replaced(now)}
    keys = tuple(
        dataclasses.replace(key, not_after=now + OVERLAP) if key.id in ending else key
        for key in ring.public
    )
    return _with(ring, keys, ring.private)


def swept(ring: Ring, now: datetime.datetime) -> Ring:
    """The ring without keys whose end is over."""
    keys = tuple(key for key in ring.public if key.not_after is None or now < key.not_after)
    if keys == ring.public:
        return ring
    names = {key.id for key in keys}
    return _with(ring, keys, {name: key for name, key in ring.private.items() if name in names})


def refusing(ring: Ring) -> Ring:
    """The ring after all caches are signed: from now on nodes refuse what is not."""
    document = msgspec.structs.replace(ring.document, unsigned="refuse")
    return dataclasses.replace(ring, document=document)


def _with(
    ring: Ring,
    keys: tuple[signatures.PublicKey, ...],
    private: Mapping[str, signing_keys.SigningKey],
) -> Ring:
    entries = [trusted_keys.entry_of(key) for key in keys]
    document = msgspec.structs.replace(ring.document, keys=entries)
    return Ring(private, document, ring.version)
