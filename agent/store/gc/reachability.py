"""What of a store is wanted, and what is not: read folder by folder, in bounded memory.

Wanted is what a cache names, what an image of a cache needs, and what a build claims.
A layer is not wanted when none of these names it, nor a chain that one of them names.
Its chains stand as long as it does: so all of them are known when it is retired.

Where one of the records that say what is wanted is damaged, it is not known what is not:
each of these functions then raises CollectionRefused.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator

from agent.kits import parallel
from agent.model import images, records
from agent.store import decoding, layout
from agent.store.gc import digest_spool, generations
from agent.store.lookup import file_reads

_HEX = frozenset("0123456789abcdef")


@dataclasses.dataclass(frozen=True, slots=True)
class Marks:
    """What is wanted (`wanted`: 32 bytes of a digest each), and of the rest which chains
    there are: 32 bytes of the layer file, 32 of the chain ID.

    `wanted_images` are the paths of image records. `deleted` says for layers which
    deleted caches had them: 32 bytes of the diff ID, 4 of the place in `deleted_caches`.
    """

    wanted: digest_spool.Spool
    chains: digest_spool.Spool
    wanted_images: frozenset[str]
    deleted: digest_spool.Spool
    deleted_caches: tuple[str, ...]

    def wanted_in(self, bucket: int) -> set[bytes]:
        """What is wanted of one bucket."""
        return set(self.wanted.bucket(bucket))

    def chains_in(self, bucket: int) -> dict[bytes, list[bytes]]:
        """The chains in the store that name layers of one bucket and are not wanted."""
        chains_of: dict[bytes, list[bytes]] = {}
        for pair in self.chains.bucket(bucket):
            chains_of.setdefault(pair[:32], []).append(pair[32:])
        return chains_of

    def deleted_in(self, bucket: int) -> dict[bytes, set[str]]:
        """The deleted caches that had layers of one bucket."""
        caches_of: dict[bytes, set[str]] = {}
        for entry in self.deleted.bucket(bucket):
            cache = self.deleted_caches[int.from_bytes(entry[32:], "big")]
            caches_of.setdefault(entry[:32], set()).add(cache)
        return caches_of


@dataclasses.dataclass(frozen=True, slots=True)
class _Need:
    """What one cache needs: digests (32 bytes each, joined), chain IDs among them, image paths."""

    cache: str
    wanted: bytes
    chains: bytes
    images: frozenset[str]


def mark(
    place: layout.Layout, claims: Iterable[records.ClaimRecord], scratch: pathlib.Path
) -> Marks:
    """Go through caches, images and chains, in this order. `scratch` is a local folder.

    `claims` were read before. A build publishes its cache before its claim ends: so who
    looks at claims first and at caches then sees one of them.
    """
    wanted = digest_spool.Spool(scratch, "wanted", width=32)
    needed = digest_spool.Spool(scratch, "needed", width=32)
    wanted_images: set[str] = set()
    for claim in claims:
        wanted.extend(raw(name) for name in claim.names)
        wanted_images |= {str(path) for ref in claim.images for path in image_places(place, ref)}
    caches = set()
    need_of = functools.partial(_need_of, place)
    with contextlib.closing(parallel.mapped(need_of, _cache_ids(place.cache_records))) as needs:
        for need in needs:
            if need is not None:
                caches.add(need.cache)
                wanted.extend(digest_spool.split(need.wanted, 32))
                needed.extend(digest_spool.split(need.chains, 32))
                wanted_images |= need.images
    chains = _mark_chains(place, wanted, needed, scratch)
    deleted, names = _deleted(place, caches, scratch)
    return Marks(wanted, chains, frozenset(wanted_images), deleted, names)


def marked(
    layers: Collection[records.RetiredLayer], marks: Marks
) -> Iterator[tuple[records.RetiredLayer, bool, list[str]]]:
    """Layers with whether they are wanted, and the unwanted chains in the store that name them."""
    by_name = {layer.diff_id: layer for layer in layers}
    for bucket, group in by_bucket(by_name).items():
        wanted = marks.wanted_in(bucket)
        chains = marks.chains_in(bucket)
        for diff_id in group:
            name = raw(diff_id)
            present = [f"sha256:{chain.hex()}" for chain in chains.get(name, ())]
            yield by_name[diff_id], name in wanted, present


def by_bucket(digests: Collection[str]) -> dict[int, list[str]]:
    """Digests in their order, by their first byte."""
    buckets: dict[int, list[str]] = {}
    for digest in sorted(digests):
        buckets.setdefault(raw(digest)[0], []).append(digest)
    return buckets


def raw(digest: str) -> bytes:
    """The 32 bytes of a digest, which has been checked: it is a field of a record."""
    return bytes.fromhex(digest[7:])


def stored(folder: str, suffix: str) -> bytes:
    """The digests that a folder has files of, by name: 32 bytes each, joined.

    Names of another form are left out.
    """
    try:
        there = os.listdir(folder)  # noqa: PTH208 - names are all that is wanted
    except FileNotFoundError:
        return b""
    stems = sorted(name.removesuffix(suffix) for name in there if name.endswith(suffix))
    return b"".join(bytes.fromhex(stem) for stem in stems if _is_digest(stem))


def image_paths(place: layout.Layout) -> Iterator[pathlib.Path]:
    """The places of all image records."""
    for folder, folders, names in os.walk(place.image_records):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".json") and not name.startswith("."):
                yield pathlib.Path(folder, name)


def image_at(path: pathlib.Path) -> records.ImageRecord | None:
    """The image record at a path; None where it went away meanwhile."""
    data = _read(path)
    if data is None:
        return None
    with _doubt(path):
        return decoding.any_image(data, str(path))


def image_places(place: layout.Layout, ref: str) -> tuple[pathlib.Path, ...]:
    """Where the record of an image may be. Raises CollectionRefused where the reference is none."""
    with _doubt(ref):
        return place.image_places(images.parse_reference(ref))


def _cache_ids(folder: pathlib.Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))


def _need_of(place: layout.Layout, cache_id: str) -> _Need | None:
    """What a cache needs; None where it went away meanwhile."""
    path = place.cache_records / f"{cache_id}.json"
    data = _read(path)
    if data is None:
        return None
    with _doubt(path):
        cache = decoding.cache(data, cache_id)
    wanted = {raw(diff_id) for image in cache.images for diff_id in image.layers}
    chains: set[bytes] = set()
    paths = set()
    for image in cache.images:
        places = image_places(place, image.ref)
        paths |= {str(path) for path in places}
        record = next(filter(None, map(image_at, places)), None)
        if record is None:
            raise generations.CollectionRefused(
                str(places[0]), f"cache {cache_id} needs it, it is missing"
            )
        wanted.add(raw(record.target))
        for one in record.platforms:
            wanted |= {raw(digest) for digest in one.blobs}
            wanted |= {raw(layer.diff_id) for layer in one.layers}
            chains |= {raw(layer.chain_id) for layer in one.layers}
    return _Need(cache_id, b"".join(wanted | chains), b"".join(chains), frozenset(paths))


def _mark_chains(
    place: layout.Layout,
    wanted: digest_spool.Spool,
    needed: digest_spool.Spool,
    scratch: pathlib.Path,
) -> digest_spool.Spool:
    """Add the layer files of wanted chains to what is wanted; the chains of the others."""
    unwanted = digest_spool.Spool(scratch, "chains", width=64)
    folders = [f"{place.chain_records}/{number:02x}" for number in range(digest_spool.BUCKETS)]
    with contextlib.closing(parallel.mapped(_chains_of, folders)) as by_folder:
        for number, pairs in enumerate(by_folder):
            here = set(wanted.bucket(number))
            missing = set(needed.bucket(number))
            for pair in digest_spool.split(pairs, 64):
                missing.discard(pair[32:])
                if pair[32:] in here:
                    wanted.add(pair[:32])
                else:
                    unwanted.add(pair)
            if missing:
                path = f"{folders[number]}/{min(missing).hex()}.json"
                raise generations.CollectionRefused(
                    path, "an image of a cache needs it, it is missing"
                )
    return unwanted


def _chains_of(folder: str) -> bytes:
    """The chains in a folder: 32 bytes of the layer file, 32 of the chain ID each, joined."""
    pairs = []
    for chain in digest_spool.split(stored(folder, ".json"), 32):
        name = chain.hex()
        path = f"{folder}/{name}.json"
        data = _read(path)
        if data is not None:
            with _doubt(path):
                record = decoding.chain(data, f"sha256:{name}")
            pairs += [raw(record.diff_id), chain]
    return b"".join(pairs)


def _deleted(
    place: layout.Layout, ready: set[str], scratch: pathlib.Path
) -> tuple[digest_spool.Spool, tuple[str, ...]]:
    """The deleted caches with their layers (see Marks); those that are back do not count."""
    layers = digest_spool.Spool(scratch, "deleted", width=36)
    names: list[str] = []
    there = _cache_ids(place.deleted_caches)
    for cache_id in ready.intersection(there):
        # Not one that was deleted again: its record says which cache its layers belonged to.
        if place.cache_record(cache_id).exists():
            generations.remove(place.deleted_caches / f"{cache_id}.json")
    read = functools.partial(_deleted_cache, place)
    gone = [cache_id for cache_id in there if cache_id not in ready]
    with contextlib.closing(parallel.mapped(read, gone)) as caches:
        for cache in caches:
            if cache is not None:
                number = len(names).to_bytes(4, "big")
                names.append(cache.id)
                had = {raw(layer) for image in cache.images for layer in image.layers}
                layers.extend(layer + number for layer in had)
    return layers, tuple(names)


def _deleted_cache(place: layout.Layout, cache_id: str) -> records.CacheRecord | None:
    """The record of a deleted cache. A damaged one goes: it is only for what people read."""
    path = place.deleted_caches / f"{cache_id}.json"
    data = _read(path)
    if data is not None:
        try:
            return decoding.cache(data, cache_id)
        except records.RecordError:
            generations.remove(path)
    return None


def _is_digest(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def _read(path: pathlib.Path | str) -> bytes | None:
    try:
        return file_reads.read(str(path), file_reads.RECORD_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def _doubt(what: pathlib.Path | str) -> Iterator[None]:
    try:
        yield
    except (records.RecordError, images.ImageReferenceError) as error:
        reason = error.reason if isinstance(error, records.RecordError) else str(error)
        raise generations.CollectionRefused(str(what), reason) from error
