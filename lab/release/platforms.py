"""The images of a release: one for each platform, and the index of both.

The layer of Debian's packages and of wheels is each platform's own; the layer of the project's
own code is the same file in all.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

from lab.image import oci, rootfs
from lab.parts import debian
from lab.release import documents, sources
from lab.samples import pushing

INDEX_TYPE = f"{pushing.OCI}.index.v1+json"


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """The image of one platform. `root` is the folder with its larger layer's files."""

    architecture: str
    config: bytes
    manifest: bytes
    layers: Sequence[pushing.Layer]
    root: pathlib.Path

    @property
    def digest(self) -> str:
        """The digest of its manifest."""
        return pushing.sha256(self.manifest)


def make(
    checkout: pathlib.Path,
    work: pathlib.Path,
    version: sources.Version,
    say: Callable[[str], None],
) -> list[Image]:
    """Make the images of all platforms of the files of a checkout."""
    own = debian.architecture()
    roots = {name: work / name / "system" for name in documents.PLATFORMS}
    # This machine's first: its Python compiles the modules of the others.
    for name in sorted(roots, key=lambda name: name != own):
        say(f"Debian packages and wheels for {name}")
        roots[name].parent.mkdir(parents=True, exist_ok=True)
        rootfs.system(roots[name], name, checkout=checkout, python=roots[own])
    say("the project's own code")
    rootfs.ours(work / "ours", roots[own], checkout=checkout, version=version.python)
    code = oci.compressed(work / "ours", work / "ours.tar.gz")
    found = []
    for name, root in roots.items():
        say(f"the image for {name}")
        layers = [oci.compressed(root, root.with_suffix(".tar.gz")), code]
        config = oci.configuration(
            layers, name, created=version.seconds, labels=annotations(version)
        )
        found.append(Image(name, config, oci.manifest(config, layers), layers, root))
    return found


def annotations(version: sources.Version) -> dict[str, str]:
    """Return what images, index and chart say of the version, in OCI's words."""
    return {
        "org.opencontainers.image.version": version.text,
        "org.opencontainers.image.revision": version.commit,
    }


def index(images: Sequence[Image], version: sources.Version) -> bytes:
    """Return the index of all platforms."""
    entries = [
        {
            **oci.described(pushing.manifest_type(docker=False), each.manifest),
            "platform": {"architecture": each.architecture, "os": "linux"},
        }
        for each in images
    ]
    return oci.encoded(
        {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": entries,
            "annotations": annotations(version),
        }
    )


def layout(images: Sequence[Image], top: bytes, name: str) -> dict[str, bytes | pathlib.Path]:
    """Return the files of an OCI layout with all of it, under the image's full name."""
    names = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    entry: Mapping[str, object] = {**oci.described(INDEX_TYPE, top), "annotations": names}
    files = {**oci.layout(entry), oci.blob_path(pushing.sha256(top)): top}
    for each in images:
        files |= {oci.blob_path(layer.digest): layer.content for layer in each.layers}
        for document in (each.manifest, each.config):
            files[oci.blob_path(pushing.sha256(document))] = document
    return files
