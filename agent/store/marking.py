"""What of a store is wanted, and what is not: read folder by folder, in bounded memory.

Wanted is what a cache names, what an image of a cache needs, and what a build claims.
A layer is not wanted when none of these names it, nor a chain that one of them names.
Its chains stand as long as it does: so whoever retires it knows all of them.

One damaged record among those that say what is wanted, and nothing can be told: each
of these functions then raises CollectionRefused.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator

from agent.model import images, records
from agent.store import blocking, claiming, decoding, generations, layout, spooling

_HEX = frozenset("0123456789abcdef")


@dataclasses.dataclass(frozen=True, slots=True)
class Marks:
    """What is wanted (`wanted`: 32 bytes of a digest each), and of the rest which chains
    there are: 32 bytes of the layer file, 32 of the chain ID.

    `wanted_images` are the paths of image records, `deleted` says for layers (diff IDs)
    which deleted cache had them.
    """

    wanted: spooling.Spool
    chains: spooling.Spool
    wanted_images: frozenset[str]
    deleted: dict[str, str]

    def wanted_in(self, bucket: int) -> set[bytes]:
        """What is wanted of one bucket."""
        return set(self.wanted.bucket(bucket))

    def chains_in(self, bucket: int) -> dict[bytes, list[bytes]]:
        """The chains in the store that name layers of one bucket and are not wanted."""
        found: dict[bytes, list[bytes]] = {}
        for pair in self.chains.bucket(bucket):
            found.setdefault(pair[:32], []).append(pair[32:])
        return found


def mark(place: layout.Layout, scratch: pathlib.Path) -> Marks:
    """Go through claims, caches, images and chains, in this order.

    A build publishes its cache before its claim ends. So whoever looks at claims
    first and at caches then sees one of them. `scratch` is a local folder.
    """
    wanted = spooling.Spool(scratch, "wanted", width=32)
    wanted_images: set[str] = set()
    for claim in claiming.standing(place):
        for name in claim.names:
            wanted.add(raw(name))
        wanted_images |= {str(image_path(place, ref)) for ref in claim.images}
    needed = spooling.Spool(scratch, "needed", width=32)
    caches = set()
    for cache in _caches(place):
        caches.add(cache.id)
        for image in cache.images:
            for diff_id in image.layers:
                wanted.add(raw(diff_id))
            path = image_path(place, image.ref)
            wanted_images.add(str(path))
            _mark_image(path, wanted, needed, cache=cache.id)
    chains = spooling.Spool(scratch, "chains", width=64)
    for number in range(spooling.BUCKETS):
        _mark_chains(place, number, wanted, needed, chains)
    return Marks(wanted, chains, frozenset(wanted_images), _deleted(place, caches))


def raw(digest: str) -> bytes:
    """The 32 bytes of a digest, which has been checked: it is a field of a record."""
    return bytes.fromhex(digest[7:])


def names(folder: str, suffix: str) -> Iterator[str]:
    """The digests (64 hex digits) that a folder has files of, by name; others are left out."""
    try:
        with os.scandir(folder) as found:
            there = [entry.name for entry in found if entry.name.endswith(suffix)]
    except FileNotFoundError:
        return
    for name in sorted(there):
        stem = name.removesuffix(suffix)
        if _is_digest(stem):
            yield stem


def image_paths(place: layout.Layout) -> Iterator[pathlib.Path]:
    """The places of all image records."""
    for folder, folders, found in os.walk(place.image_records):
        folders.sort()
        for name in sorted(found):
            if name.endswith(".json") and not name.startswith("."):
                yield pathlib.Path(folder, name)


def image_at(path: pathlib.Path) -> records.ImageRecord | None:
    """The image record at a path; None where it went away meanwhile."""
    data = _read(path)
    if data is None:
        return None
    with _doubt(path):
        return decoding.any_image(data, str(path))


def age(path: pathlib.Path) -> float:
    """Seconds since a file was last written; 0 when it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def image_path(place: layout.Layout, ref: str) -> pathlib.Path:
    """Where the record of an image is. Raises CollectionRefused where the reference is none."""
    with _doubt(ref):
        return place.image_record(images.parse_reference(ref))


def _caches(place: layout.Layout) -> Iterator[records.CacheRecord]:
    for path in sorted(place.cache_records.glob("*.json")):
        if path.name.startswith("."):
            continue
        data = _read(path)
        if data is not None:
            with _doubt(path):
                yield decoding.cache(data, path.stem)


def _mark_image(
    path: pathlib.Path, wanted: spooling.Spool, needed: spooling.Spool, *, cache: str
) -> None:
    record = image_at(path)
    if record is None:
        raise generations.CollectionRefused(str(path), f"cache {cache} needs it, it is missing")
    wanted.add(raw(record.target))
    for one in record.platforms:
        wanted.add(raw(one.manifest))
        wanted.add(raw(one.config))
        for layer in one.layers:
            wanted.add(raw(layer.diff_id))
            wanted.add(raw(layer.chain_id))
            needed.add(raw(layer.chain_id))


def _mark_chains(
    place: layout.Layout,
    number: int,
    wanted: spooling.Spool,
    needed: spooling.Spool,
    chains: spooling.Spool,
) -> None:
    """Add the layer files of wanted chains to what is wanted; note those of the others."""
    here = set(wanted.bucket(number))
    missing = set(needed.bucket(number))
    folder = f"{place.chain_records}/{number:02x}"
    for name in names(folder, ".json"):
        path = f"{folder}/{name}.json"
        data = _read(path)
        if data is None:
            continue
        with _doubt(path):
            record = decoding.chain(data, f"sha256:{name}")
        chain = bytes.fromhex(name)
        missing.discard(chain)
        if chain in here:
            wanted.add(raw(record.diff_id))
        else:
            chains.add(raw(record.diff_id) + chain)
    if missing:
        path = f"{folder}/{min(missing).hex()}.json"
        raise generations.CollectionRefused(path, "an image of a cache needs it, it is missing")


def _deleted(place: layout.Layout, ready: set[str]) -> dict[str, str]:
    """The deleted caches by the layers that they had; those that are back do not count."""
    found: dict[str, str] = {}
    for path in sorted(place.deleted_caches.glob("*.json")):
        if path.stem in ready:
            path.unlink(missing_ok=True)
            continue
        try:
            cache = decoding.cache(path.read_bytes(), path.stem)
        except FileNotFoundError:
            continue
        except records.RecordError:
            # Only for what people read: nothing that is deleted depends on it.
            path.unlink(missing_ok=True)
            continue
        found |= {layer: cache.id for image in cache.images for layer in image.layers}
    return found


def _is_digest(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def _read(path: pathlib.Path | str) -> bytes | None:
    try:
        return blocking.read(str(path), decoding.RECORD_LIMIT)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _doubt(what: pathlib.Path | str) -> Iterator[None]:
    try:
        yield
    except (records.RecordError, images.ImageReferenceError) as error:
        reason = error.reason if isinstance(error, records.RecordError) else str(error)
        raise generations.CollectionRefused(str(what), reason) from error
