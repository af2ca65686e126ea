"""The image that nodes know in place of an artifact: a manifest and a config, made here; pure.

containerd mounts images, and refuses every other artifact as a volume (its issue 11381). So a
node gets an image of one layer, under the reference of the artifact. Registries never have it.
An image whose layers are EROFS images gets one whose layers have types that every containerd
knows: those before 2.3 know no other ones. Source: OCI image-spec v1.1 (config.md, manifest.md).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from agent.model import digests, images, keys, oci
from agent.model.artifacts import artifact_files


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """The two documents of the image."""

    manifest: bytes
    config: bytes


def made_of(
    layer: artifact_files.Layer, *, digest: str, kind: str, platform: images.Platform, size: int
) -> Made:
    """The image that has an artifact's files, for one platform.

    `digest` and `kind` are of the artifact's manifest, `size` the bytes of the tar of its files.
    The same artifact makes the same bytes.
    """
    variant = {"variant": platform.variant} if platform.variant else {}
    config = _encoded(
        {
            "architecture": platform.architecture,
            **variant,
            "os": platform.os,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }
    )
    described = _described(layer.blob.media_type, layer.blob.digest, size)
    return Made(_manifest(config, [described], digest=digest, kind=kind), config)


def made_of_native(
    layers: Sequence[oci.Layer], config: bytes, *, digest: str, sizes: Sequence[int]
) -> Made:
    """The image for one of native layers; `digest` is of its manifest, `sizes` are unpacked."""
    config = oci.config_of_plain(config, [layer.diff_id for layer in layers])
    described = [
        _described(oci.PLAIN_LAYER, layer.diff_id, size)
        if oci.is_native(layer.blob.media_type)
        else _described(layer.blob.media_type, layer.blob.digest, layer.blob.size)
        for layer, size in zip(layers, sizes, strict=True)
    ]
    return Made(_manifest(config, described, digest=digest, kind=oci.NATIVE_LAYER), config)


def _manifest(
    config: bytes, layers: Sequence[Mapping[str, object]], *, digest: str, kind: str
) -> bytes:
    return _encoded(
        {
            "schemaVersion": 2,
            "mediaType": oci.IMAGE_MANIFEST,
            "config": _described(oci.IMAGE_CONFIG, digests.sha256(config), len(config)),
            "layers": layers,
            "annotations": {keys.ARTIFACT: digest, keys.ARTIFACT_TYPE: kind},
        }
    )


def _described(media_type: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _encoded(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
