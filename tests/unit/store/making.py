"""Records and stores for the tests of the store."""

import os
import pathlib
from typing import Any

import msgspec

from agent.model import digests, records
from agent.store import hash_tree, layout
from agent.store.publish import layer_writer, writer

MKFS = records.Toolchain(version="1.8", options=[])
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A folder for stores in which very much happens: there, to be durable costs nothing."""
SOURCE = "registry.io/team/app"
REF = f"{SOURCE}:1"


def digest(text: str) -> str:
    return digests.sha256(text.encode())


def erofs(content: bytes) -> bytes:
    """A file with an EROFS superblock (and nothing else of EROFS)."""
    block = bytearray(4096)
    block[1024:1028] = (0xE0F5E1E2).to_bytes(4, "little")
    block[1024 + 12] = 12
    block[1024 + 36] = 1
    return bytes(block) + content


def store(root: pathlib.Path) -> layout.Layout:
    writer.create(root)
    return layout.Layout(root)


def layer_record(name: str, content: bytes = b"") -> records.LayerRecord:
    """The record of a layer whose file is `erofs` of its content, else of its name."""
    file = erofs(content or name.encode())
    return records.LayerRecord(
        diff_id=digest(name),
        size=len(file),
        tar_size=10,
        sha256=digests.sha256(file),
        blobs=[digest(f"blob of {name}")],
        mkfs=MKFS,
        sources=[SOURCE],
    )


def layer(
    place: layout.Layout, name: str, *, content: bytes = b"", has_tree: bool = False
) -> records.LayerRecord:
    """Publish a layer, as builders do (`has_tree`), or as earlier versions did."""
    record = layer_record(name, content)
    draft = layer_writer.draft_of(place, record.diff_id)
    draft.write_bytes(erofs(content or name.encode()))
    if has_tree:
        chosen = hash_tree.Parameters.of(record.diff_id)
        sealed = hash_tree.seal(draft, draft, chosen, scratch=place.tmp)
        record = msgspec.structs.replace(
            record,
            size=draft.stat().st_size,
            sha256=sealed.digest,
            verity=sealed.verity,
        )
    return layer_writer.publish_layer(place, draft, record)


def layer_with_tree_beside(
    place: layout.Layout, name: str, *, content: bytes = b""
) -> records.LayerRecord:
    """Publish a layer as earlier versions did, whose tree was made afterwards."""
    record = layer(place, name, content=content)
    path = place.layer(record.diff_id)
    chosen = hash_tree.Parameters.of(record.diff_id)
    sealed = hash_tree.beside(path, place.layer_tree(record.diff_id), chosen)
    record = msgspec.structs.replace(record, verity=sealed.verity)
    writer.write_record(place, place.layer_record(record.diff_id), record)
    return record


def verity(tree: records.VerityTree, **changes: Any) -> records.VerityTree:
    """The record of another hash tree."""
    return msgspec.structs.replace(tree, **changes)


def image(place: layout.Layout, *names: str, ref: str = REF) -> records.ImageRecord:
    """Publish an image of layers of these names, with all that belongs to it."""
    layers = [layer(place, name) for name in names]
    diff_ids = [digest(name) for name in names]
    chain = digests.chain_ids(diff_ids)
    parent = None
    for one, diff_id, chain_id in zip(layers, diff_ids, chain, strict=True):
        variant_of = None if one.diff_id == diff_id else diff_id
        made = records.ChainRecord(diff_id=one.diff_id, parent=parent, variant_of=variant_of)
        writer.publish_chain(place, chain_id, made)
        parent = chain_id
    for data in blobs(ref):
        writer.publish_blob(place, data)
    named = zip(layers, diff_ids, strict=True)
    record = image_record(
        ref, [msgspec.structs.replace(one, diff_id=diff_id) for one, diff_id in named]
    )
    writer.publish_image(place, record)
    return record


def blobs(ref: str) -> list[bytes]:
    """What stands for the index, manifest and config of an image."""
    return [f"{kind} of {ref}".encode() for kind in ("index", "manifest", "config")]


def image_record(ref: str, layers: list[records.LayerRecord]) -> records.ImageRecord:
    """The record of an image of some layers, bottom first."""
    chain = digests.chain_ids(one.diff_id for one in layers)
    target, manifest, config = (digests.sha256(data) for data in blobs(ref))
    return records.ImageRecord(
        ref=ref,
        target=target,
        target_media_type="index",
        target_size=5,
        created="2026-01-01T00:00:00Z",
        platforms=[
            records.PlatformImage(
                platform="linux/amd64",
                manifest=manifest,
                manifest_media_type="manifest",
                manifest_size=5,
                config=config,
                layers=[
                    records.ImageLayer(
                        diff_id=one.diff_id,
                        chain_id=chain_id,
                        digest=one.diff_id,  # as of a blob that is not compressed
                        media_type="layer",
                        size=1,
                        tar_size=one.tar_size,
                        erofs_size=one.size,
                    )
                    for one, chain_id in zip(layers, chain, strict=True)
                ],
            )
        ],
    )


def cache(place: layout.Layout, cache_id: str, *found: records.ImageRecord) -> records.CacheRecord:
    """Publish a cache of images that are there."""
    record = records.CacheRecord(
        id=cache_id,
        name=cache_id,
        images=[
            records.CachedImage(
                ref=one.ref,
                target=one.target,
                size=1,
                layers=[item.diff_id for item in one.platforms[0].layers],
            )
            for one in found
        ],
        size=1,
        capacity=100,
        created="2026-01-01T00:00:00Z",
    )
    writer.publish_cache(place, record)
    return record
