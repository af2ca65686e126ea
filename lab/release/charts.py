"""The chart of a release as the OCI artifact that `helm` pulls.

Media types: https://helm.sh/docs/topics/registries/.
"""

import io
import json
import pathlib
import tarfile
from collections.abc import Mapping

import yaml

from lab.image import oci
from lab.release import platforms, sources
from lab.samples import pushing

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
    manifest = oci.encoded(
        {
            "schemaVersion": 2,
            "mediaType": pushing.manifest_type(docker=False),
            "config": oci.described(CONFIG_TYPE, config),
            "layers": [oci.described(CONTENT_TYPE, package)],
            "annotations": {
                **annotations,
                **platforms.annotations(version),
                "org.opencontainers.image.created": oci.moment_of(version.seconds),
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
        **oci.layout({**oci.described(kind, manifest), "annotations": annotations}),
        oci.blob_path(pushing.sha256(manifest)): manifest,
        **{oci.blob_path(digest): blob for digest, blob in blobs.items()},
    }
