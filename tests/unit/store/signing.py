"""Keys, and stores that are signed by them, for tests."""

import datetime
import pathlib

from agent.store import layout, signatures, signing_keys, trusted_keys
from agent.store.lookup import direct_reader
from agent.store.publish import record_signing

NOW = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC)
STORE = "a6ae0b8d-3b1c-4c0e-9f0e-8a7f7d1f2a11"


def public(key: signing_keys.SigningKey, store: str = STORE, **times) -> signatures.PublicKey:
    return signatures.PublicKey(key.value, store, **{"not_before": NOW, **times})


def trust(*keys: signatures.PublicKey, now: datetime.datetime = NOW) -> signatures.Trust:
    return signatures.Trust(keys, lambda: now)


def sign(place: layout.Layout, key: signing_keys.SigningKey) -> None:
    """Sign all of a store."""
    identity = direct_reader.open_store(place.root).id
    record_signing.sign_all(place, record_signing.Signer(key=key, store=identity))


def document(place: layout.Layout, key: signing_keys.SigningKey) -> trusted_keys.Document:
    """What nodes have to know of a key of a store."""
    identity = direct_reader.open_store(place.root).id
    return trusted_keys.Document(
        store=identity, keys=[trusted_keys.entry_of(public(key, identity))]
    )


def keys(place: layout.Layout, key: signing_keys.SigningKey, folder: pathlib.Path):
    """A node that has a key of a store."""
    folder.mkdir(exist_ok=True)
    (folder / trusted_keys.NAME).write_bytes(trusted_keys.encode(document(place, key)))
    return trusted_keys.Keys(folder)
