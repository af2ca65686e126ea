"""Make images of layers, and push them into a registry of the lab.

Media types of OCI and of Docker, gzip, zstd, no compression, and gzip in
eStargz's shape; whatever a test needs, it can push to a registry of its own.
"""

import dataclasses
import gzip
import hashlib
import http.client
import io
import json
import pathlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

import zstandard

from lab import processes
from lab.runtime import containerds
from lab.samples import tars
from lab.web import registries

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
LAYER_TYPES = {
    "gzip": f"{OCI}.layer.v1.tar+gzip",
    "zstd": f"{OCI}.layer.v1.tar+zstd",
    "plain": f"{OCI}.layer.v1.tar",
    "docker": f"{DOCKER}.image.rootfs.diff.tar.gzip",
    "estargz": f"{OCI}.layer.v1.tar+gzip",
}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One layer, compressed, as it is pushed."""

    content: bytes | pathlib.Path
    digest: str
    size: int
    diff_id: str
    tar_size: int
    media_type: str = LAYER_TYPES["gzip"]
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def descriptor(self) -> dict[str, object]:
        """Return what a manifest says of it."""
        return descriptor(self.media_type, self.digest, self.size, self.annotations)


def descriptor(
    media_type: str, digest: str, size: int, annotations: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Return an OCI descriptor."""
    found: dict[str, object] = {"mediaType": media_type, "digest": digest, "size": size}
    return {**found, "annotations": dict(annotations)} if annotations else found


def layer(entries: Sequence[tars.Entry], how: str = "gzip") -> Layer:
    """Return a layer of these entries, compressed as told."""
    tar = tars.archive(entries)
    annotations = {}
    if how == "zstd":
        data = zstandard.ZstdCompressor(level=3).compress(tar)
    elif how == "plain":
        data = tar
    elif how == "estargz":
        data, toc = estargz(entries)
        tar = gzip.decompress(data)
        annotations = {"containerd.io/snapshot/stargz/toc.digest": sha256(toc)}
    else:
        data = gzip.compress(tar, 6, mtime=0)
    return Layer(
        data, sha256(data), len(data), sha256(tar), len(tar), LAYER_TYPES[how], annotations
    )


def estargz(entries: Sequence[tars.Entry]) -> tuple[bytes, bytes]:
    """Return a gzip in eStargz's shape, and its table of contents.

    Every entry is a gzip member of its own; the table of contents is the last
    entry of the tar; a footer of 51 bytes, an empty member, says where it is.
    """
    stream = io.BytesIO()
    contents = []
    for entry in entries:
        name = entry.name.decode()
        kind = {tars.FILE: "reg", tars.FOLDER: "dir", tars.SYMLINK: "symlink"}[entry.kind]
        row = {"name": name, "type": kind, "size": len(entry.data), "mode": entry.mode}
        contents.append({**row, "offset": stream.tell(), "linkName": entry.target.decode()})
        stream.write(gzip.compress(tars.member(entry), 9, mtime=0))
    toc = json.dumps({"version": 1, "entries": contents}).encode()
    offset = stream.tell()
    last = tars.member(tars.file("stargz.index.json", toc)) + bytes(2 * tars.BLOCK)
    stream.write(gzip.compress(last, 9, mtime=0))
    subfield = b"SG\x16\x00%016xSTARGZ" % offset
    footer = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff" + len(subfield).to_bytes(2, "little")
    stream.write(footer + subfield + b"\x01\x00\x00\xff\xff" + bytes(8))
    return stream.getvalue(), toc


class LayerFile:
    """A file-like that compresses a large tar with pigz while it is written."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.hash = hashlib.sha256()
        self.size = 0
        with path.open("wb") as output:
            # As docker does: ordinary level, no name and no time; the same on any machine.
            command = ["pigz", "-6", "-n", "-p", "2"]
            self.pigz = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)

    def write(self, data: bytes) -> int:
        """Take a piece of the tar."""
        self.hash.update(data)
        self.size += len(data)
        return self.pipe.write(data)

    @property
    def pipe(self) -> IO[bytes]:
        """Return pigz's standard input."""
        assert self.pigz.stdin is not None
        return self.pigz.stdin

    def finish(self) -> Layer:
        """Return the layer when all is written."""
        self.pipe.close()
        if self.pigz.wait() != 0:
            raise processes.LabError(f"pigz failed on {self.path}")
        with self.path.open("rb") as data:
            digest = f"sha256:{hashlib.file_digest(data, 'sha256').hexdigest()}"
        diff_id = f"sha256:{self.hash.hexdigest()}"
        return Layer(self.path, digest, self.path.stat().st_size, diff_id, self.size)


@dataclasses.dataclass(frozen=True, slots=True)
class Pushed:
    """An image, or an index, as it is in the registry."""

    digest: str
    size: int
    media_type: str
    config: str
    layers: tuple[Layer, ...]

    def record(self, stamp: str) -> registries.Record:
        """Return what the lab's catalogue says of it."""
        return {
            "stamp": stamp,
            "manifest": self.digest,
            "config": self.config,
            "layers": [layer.digest for layer in self.layers],
            "diff_ids": [layer.diff_id for layer in self.layers],
            "compressed": sum(layer.size for layer in self.layers),
            "unpacked": sum(layer.tar_size for layer in self.layers),
        }


class Pusher:
    """A client that writes to one registry, which is on this machine and asks no password."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=120)
        self.known: set[tuple[str, str]] = set()

    def image(
        self,
        repository: str,
        tag: str | None,
        layers: Sequence[Layer],
        *,
        command: Sequence[str] = ("/bin/sh",),
        docker: bool = False,
        architecture: str | None = None,
        more: Mapping[str, object] | None = None,
    ) -> Pushed:
        """Push an image; without a tag it is known by its digest alone."""
        for part in layers:
            self.blob(repository, part.digest, part.content)
        config = {
            "architecture": architecture or containerds.architecture(),
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": {"Env": [PATH], "Cmd": list(command), "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [part.diff_id for part in layers]},
            "history": [{"created_by": f"layer {at}"} for at in range(len(layers))],
        }
        body = json.dumps(config).encode()
        self.blob(repository, sha256(body), body)
        kind = f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": manifest_type(docker),
            "config": descriptor(kind, sha256(body), len(body)),
            "layers": [part.descriptor() for part in layers],
            **(more or {}),
        }
        digest, size = self.manifest(repository, tag, manifest)
        return Pushed(digest, size, manifest_type(docker), sha256(body), tuple(layers))

    def blob(self, repository: str, digest: str, content: bytes | pathlib.Path) -> None:
        """Push a blob, once."""
        if (repository, digest) in self.known:
            return
        self.request("POST", f"/v2/{repository}/blobs/uploads/", b"", {}, 202)
        place = self.location
        place += ("&" if "?" in place else "?") + f"digest={digest}"
        kind = {"Content-Type": "application/octet-stream"}
        if isinstance(content, bytes):
            self.request("PUT", place, content, kind, 201)
        else:
            length = {"Content-Length": str(content.stat().st_size)}
            with content.open("rb") as data:
                self.request("PUT", place, data, {**kind, **length}, 201)
        self.known.add((repository, digest))

    def manifest(
        self, repository: str, tag: str | None, manifest: Mapping[str, object]
    ) -> tuple[str, int]:
        """Push a manifest or an index; return its digest and size."""
        body = json.dumps(manifest).encode()
        kind = {"Content-Type": str(manifest["mediaType"])}
        path = f"/v2/{repository}/manifests/{tag or sha256(body)}"
        self.request("PUT", path, body, kind, 201)
        return sha256(body), len(body)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes],
        headers: Mapping[str, str],
        expected: int,
    ) -> None:
        """Send one request on the one connection; keep where the answer points to."""
        self.connection.request(method, path, body, dict(headers))
        response = self.connection.getresponse()
        said = response.read()
        if response.status != expected:
            raise processes.LabError(f"{method} {path}: {response.status} {said[:300]!r}")
        place = response.getheader("Location") or ""
        self.location = "/" + place.split("/", 3)[3] if "://" in place else place

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def manifest_type(docker: bool) -> str:
    """Return the media type of an image manifest."""
    return f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json"


def sha256(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
