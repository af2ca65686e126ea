"""What the controller does in the store with its key, as operations for killable workers."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.model import records
from agent.store import layout, signatures, signing_keys, trusted_keys
from agent.store.gc import generations
from agent.store.lookup import direct_reader, file_reads
from agent.store.publish import record_signing, writer

SIGNED = "signed"
REFUSED = "refused"
BUSY = "busy"


def sign_build(
    root: str, wanted: Mapping[str, Any], digest: str, layers: Sequence[str], key: Mapping[str, Any]
) -> tuple[str, Any]:
    """Sign the records of a build: ("signed", how many were written) or ("refused", text).

    `wanted` are the fields of record_signing.Wanted.
    """
    cache, attested = record_signing.Wanted(**wanted), record_signing.Attested(digest, layers)
    try:
        signed = record_signing.sign_build(_layout(root), cache, attested, _signer(key))
    except (record_signing.SigningRefused, writer.StoreFull) as error:
        return REFUSED, str(error)
    return SIGNED, signed


def sign_again(
    root: str, key: Mapping[str, Any], keys: bytes, retired: Sequence[str]
) -> tuple[str, Any]:
    """Sign by a new key what counts by the document `keys`, and remove signatures of `retired`.

    ("signed", how many records by their result), ("busy", text) or ("refused", text).
    """
    trust = signatures.Trust(trusted_keys.keys_of(trusted_keys.decode(keys, trusted_keys.NAME)))
    signer = _signer(key, trust=trust, retired=frozenset(retired))
    try:
        results = record_signing.sign_all(_layout(root), signer)
    except generations.CollectorBusy as error:
        return BUSY, str(error)
    except writer.StoreFull as error:
        return REFUSED, str(error)
    return SIGNED, {result.name: count for result, count in results.items()}


def unsigned_caches(root: str, keys: bytes) -> list[str]:
    """The caches whose record has no signature that counts by the document `keys`."""
    trust = signatures.Trust(trusted_keys.keys_of(trusted_keys.decode(keys, trusted_keys.NAME)))
    return [each.id for each in _caches(root) if not _is_signed(each, trust)]


def has_caches(root: str) -> bool:
    """Whether the store has any cache."""
    return any(True for _ in _caches(root))


def caches_time(root: str) -> int:
    """When a cache was added, changed or removed last; only equality means something."""
    return file_reads.time_of(str(_layout(root).cache_records))


def _caches(root: str) -> Iterator[records.CacheRecord]:
    return direct_reader.Reader(_layout(root)).caches()


def _is_signed(record: records.CacheRecord, trust: signatures.Trust) -> bool:
    return trust.has_signed(signatures.of_cache(record), record.signatures)


def _layout(root: str) -> layout.Layout:
    return layout.Layout(pathlib.Path(root))


def _signer(
    key: Mapping[str, Any],
    *,
    trust: signatures.Trust | None = None,
    retired: frozenset[str] = frozenset(),
) -> record_signing.Signer:
    return record_signing.Signer(
        key=signing_keys.from_pem(key["pem"], "the key"),
        store=key["store"],
        trust=trust,
        retired=retired,
    )


OPERATIONS = {
    "sign_build": sign_build,
    "sign_again": sign_again,
    "unsigned_caches": unsigned_caches,
    "has_caches": has_caches,
    "caches_time": caches_time,
}
