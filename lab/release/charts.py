"""The chart of a release as the OCI artifact that `helm` pulls.

Media types: https://helm.sh/docs/topics/registries/.
"""

import io
import json
import pathlib
import tarfile
from collections.abc import Mapping

import yaml

from lab import image, pushing
from lab.release import platforms, sources

CONFIG_TYPE = "application/vnd.cncf.helm.config.v1+json"
CONTENT_TYPE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


def artifact(package: bytes, version: sources.Version) -> tuple[bytes, dict[str, bytes]]:
    """Return the manifest of the artifact, and the blobs that it names."""
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        (name,) = (each for each in tar.getnames() if each.endswith("/Chart.yaml"))
        file = tar.extractfile(name)
        assert file is not None
        about: Mapping[str, object] = yaml.safe_load(file)
    config = json.dumps(about, sort_keys=True).encode()
    annotations = {"org.opencontainers.image.title": str(about["name"])}
    manifest = image.encoded(
        {
            "schemaVersion": 2,
            "mediaType": pushing.manifest_type(docker=False),
            "config": image.described(CONFIG_TYPE, config),
            "layers": [image.described(CONTENT_TYPE, package)],
            "annotations": {
                **annotations,
                **platforms.annotations(version),
                "org.opencontainers.image.created": image.moment_of(version.seconds),
            },
        }
    )
    return manifest, {pushing.sha256(blob): blob for blob in (config, package)}


def layout(
    manifest: bytes, blobs: Mapping[str, bytes], tag: str
) -> dict[str, bytes | pathlib.Path]:
    """Return the files of an OCI layout with the artifact."""
    kind = pushing.manifest_type(docker=False)
    annotations = {"org.opencontainers.image.ref.name": tag}
    return {
        **image.layout({**image.described(kind, manifest), "annotations": annotations}),
        image.blob_path(pushing.sha256(manifest)): manifest,
        **{image.blob_path(digest): blob for digest, blob in blobs.items()},
    }
