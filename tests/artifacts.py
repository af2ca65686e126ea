"""Artifacts as ModelPack's and ORAS's tools push them, in parts for a registry of a test."""

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence

import zstandard

from lab.samples import tars

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
MODEL = "application/vnd.cncf.model"
MODEL_TYPE = f"{MODEL}.manifest.v1+json"
TITLE = "org.opencontainers.image.title"
FILEPATH = "org.cncf.model.filepath"
METADATA = "org.cncf.model.file.metadata+json"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of an artifact: its blob, and what the manifest says of it."""

    data: bytes
    media_type: str
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    said: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """What the manifest says that is not so."""

    def descriptor(self) -> dict[str, object]:
        described: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": digest(self.data),
            "size": len(self.data),
        }
        notes = {"annotations": dict(self.annotations)} if self.annotations else {}
        return {**described, **notes, **self.said}


CONFIGS = [Layer(b'{"descriptor":{}}', f"{MODEL}.config.v1+json"), Layer(b"{}", EMPTY)]
"""The configs of the artifacts of this module."""


def weights(path: str, data: bytes, **metadata: object) -> Layer:
    """A file of a model, as it is."""
    notes = {FILEPATH: path}
    if metadata:
        notes[METADATA] = json.dumps({"name": path, "size": len(data), "typeflag": 48, **metadata})
    return Layer(data, f"{MODEL}.weight.v1.raw", notes)


def packed(path: str, entries: Sequence[tars.Entry], how: str = "") -> Layer:
    """Files of a model in a tar, compressed by `gzip` or `zstd` or not."""
    tar = tars.archive(entries)
    data = {
        "": lambda: tar,
        "gzip": lambda: gzip.compress(tar, mtime=0),
        "zstd": lambda: zstandard.compress(tar),
    }[how]()
    suffix = f"+{how}" if how else ""
    return Layer(data, f"{MODEL}.weight.config.v1.tar{suffix}", {FILEPATH: path})


def titled(name: str, data: bytes, media_type: str = "application/octet-stream") -> Layer:
    """A file as ORAS pushes it."""
    return Layer(data, media_type, {TITLE: name})


def folder(name: str, entries: Sequence[tars.Entry]) -> Layer:
    """A folder as ORAS pushes it."""
    tar = tars.archive(entries)
    notes = {
        TITLE: name,
        "io.deis.oras.content.unpack": "true",
        "io.deis.oras.content.digest": digest(tar),
    }
    data = gzip.compress(tar, mtime=0)
    return Layer(data, "application/vnd.oci.image.layer.v1.tar+gzip", notes)


def manifest(
    layers: Sequence[Layer],
    *,
    kind: str = MODEL_TYPE,
    config: tuple[str, bytes] = (f"{MODEL}.config.v1+json", b'{"descriptor":{}}'),
    **more: object,
) -> dict[str, object]:
    """The manifest of an artifact."""
    media_type, data = config
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        **({"artifactType": kind} if kind else {}),
        "config": {"mediaType": media_type, "digest": digest(data), "size": len(data)},
        "layers": [layer.descriptor() for layer in layers],
        **more,
    }
