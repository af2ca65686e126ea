"""`make image`: our container image as an OCI archive, made without any registry.

`ctr -n k8s.io images import`, `docker load` and `podman load` take the archive,
so it reaches a cluster that has no way to the internet. The same sources give the
same bytes, as long as Debian's packages are the same.
"""

import fcntl
import hashlib
import io
import json
import os
import pathlib
import tarfile
import time
import tomllib
from collections.abc import Mapping, Sequence

from lab import places
from lab.image import rootfs
from lab.runtime import containerds
from lab.samples import pushing

FOLDER = places.LAB / "image"
ARCHIVE = FOLDER / "uimgacc.oci.tar"
# A moment, so that nothing depends on when the image is made: 2026-01-01.
CREATED = 1767225600


def main() -> None:
    """Make the archive if anything that it is made of changed; one process at a time.

    Nor beside lab/setup, whose lock it is: both use the same folder of apt's.
    """
    os.umask(0o022)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (places.LAB / "setup.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make()


def make() -> None:
    """Make the archive if anything that it is made of changed."""
    started = time.monotonic()
    sources = ("pyproject.toml", "requirements.lock", "lab/image/rootfs.py", "lab/parts/debian.py")
    system = stamp([places.CHECKOUT / name for name in sources])
    # The package, and what links in it lead to.
    trees = [(places.CHECKOUT / name).rglob("*") for name in ("agent", "manifests", "dashboards")]
    files = [path for tree in trees for path in tree if path.suffix != ".pyc" and path.is_file()]
    everything = stamp([*sorted(files), pathlib.Path(__file__)])
    if is_made(ARCHIVE, key := f"{system} {everything}"):
        print(f"image: {ARCHIVE} is up to date")
        return
    root = FOLDER / "root"
    if not is_made(root / "system", system):
        print("image: unpacking Debian packages and wheels")
        rootfs.system(root / "system")
        mark(root / "system", system)
    rootfs.ours(root / "ours", root / "system")
    layers = [compressed(root / name, FOLDER / f"{name}.tar.gz") for name in ("system", "ours")]
    archive(layers)
    mark(ARCHIVE, key)
    size = ARCHIVE.stat().st_size / 1e6
    unpacked = sum(layer.tar_size for layer in layers) / 1e6
    seconds = time.monotonic() - started
    print(f"image: {ARCHIVE}, {size:.0f} MB, {unpacked:.0f} MB unpacked, made in {seconds:.0f} s")


def stamp(files: list[pathlib.Path]) -> str:
    """Return what changes when one of the files does."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def is_made(path: pathlib.Path, key: str) -> bool:
    """Whether something was made, wholly, of what the key stands for."""
    note = path.with_name(f"{path.name}.stamp")
    return path.exists() and note.exists() and note.read_text() == key


def mark(path: pathlib.Path, key: str) -> None:
    """Note of what something was made."""
    path.with_name(f"{path.name}.stamp").write_text(key)


def name() -> str:
    """Return the image's name, as the manifests have it."""
    project = tomllib.loads((places.CHECKOUT / "pyproject.toml").read_text())["project"]
    return f"docker.io/library/{project['name']}:{project['version']}"


def compressed(root: pathlib.Path, file: pathlib.Path) -> pushing.Layer:
    """Return a layer of the files below a folder, all of them root's."""
    output = pushing.LayerFile(file)
    # The module wants a file of its own kind, and uses of it only `write`.
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for path in sorted(root.rglob("*")):
            tar.add(path, str(path.relative_to(root)), recursive=False, filter=anonymous)
    return output.finish()


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an entry without what depends on who made it, and when."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = CREATED
    return entry


def configuration(
    layers: Sequence[pushing.Layer],
    architecture: str,
    *,
    created: int = CREATED,
    labels: Mapping[str, str] | None = None,
) -> bytes:
    """Return the image's configuration."""
    moment = moment_of(created)
    return encoded(
        {
            "architecture": architecture,
            "os": "linux",
            "created": moment,
            "config": {
                "User": f"{rootfs.USER}:{rootfs.USER}",
                "Env": [pushing.PATH, "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"],
                "Entrypoint": ["/usr/local/bin/uimgacc"],
                "WorkingDir": "/",
                "Labels": {"org.opencontainers.image.title": "uimgacc", **(labels or {})},
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": moment, "created_by": "lab.image.rootfs"} for _ in layers],
        }
    )


def moment_of(seconds: int) -> str:
    """Return a time as OCI's documents have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def manifest(config: bytes, layers: Sequence[pushing.Layer]) -> bytes:
    """Return the image's manifest."""
    return encoded(
        {
            "schemaVersion": 2,
            "mediaType": pushing.manifest_type(docker=False),
            "config": described(f"{pushing.OCI}.config.v1+json", config),
            "layers": [layer.descriptor() for layer in layers],
        }
    )


def archive(layers: list[pushing.Layer]) -> None:
    """Write an OCI layout, with the one file that older versions of Docker need beside it."""
    config = configuration(layers, containerds.architecture())
    top = manifest(config, layers)
    names = {
        "io.containerd.image.name": name(),
        "org.opencontainers.image.ref.name": name().rpartition(":")[2],
    }
    docker = {
        "Config": blob_path(pushing.sha256(config)),
        "RepoTags": [name().removeprefix("docker.io/library/")],
        "Layers": [blob_path(layer.digest) for layer in layers],
    }
    files: dict[str, bytes | pathlib.Path] = {
        **layout({**described(pushing.manifest_type(docker=False), top), "annotations": names}),
        "manifest.json": encoded([docker]),
        blob_path(pushing.sha256(top)): top,
        blob_path(pushing.sha256(config)): config,
        **{blob_path(layer.digest): layer.content for layer in layers},
    }
    write(ARCHIVE, files)


def layout(entry: Mapping[str, object]) -> dict[str, bytes | pathlib.Path]:
    """Return the files by which an OCI layout says what is in it: one image, or one index."""
    index = {
        "schemaVersion": 2,
        "mediaType": f"{pushing.OCI}.index.v1+json",
        "manifests": [entry],
    }
    return {
        "oci-layout": encoded({"imageLayoutVersion": "1.0.0"}),
        "index.json": encoded(index),
    }


def described(kind: str, data: bytes) -> dict[str, object]:
    """Return the OCI descriptor of a blob."""
    return pushing.descriptor(kind, pushing.sha256(data), len(data))


def encoded(value: object) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def blob_path(digest: str) -> str:
    """Return where a blob lies in an OCI layout."""
    return f"blobs/{digest.replace(':', '/')}"


def write(
    file: pathlib.Path, files: Mapping[str, bytes | pathlib.Path], *, created: int = CREATED
) -> None:
    """Write an archive, as a whole or not at all."""
    draft = file.with_name(f"{file.name}.draft")
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.mtime = created
            if isinstance(content, bytes):
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.size = content.stat().st_size
                with content.open("rb") as data:
                    tar.addfile(entry, data)
    draft.replace(file)
