"""Make the lab's test images, once, in the storage of its registry.

| image | what it is |
|---|---|
| lab/large:1 | a Debian root, Python and large libraries in 7 layers; commands `hello`, `readall` |
| lab/layers2:1, lab/layers40:1, lab/layers127:1 | busybox and small real files in so many layers |
| lab/odd:1 | every odd tar entry, see `lab.samples.odd` |
| lab/refused-sparse:1, -link:1, -contiguous:1 | what containerd does not unpack |
| lab/gzip:1, lab/zstd:1, lab/plain:1, lab/estargz:1 | one small image, compressed differently |
| lab/docker:1 | the same with Docker's media types |
| lab/multi:1 | an index of amd64, arm64 and an attestation |
| lab/pause:1 | for pod sandboxes |

Their digests, diff IDs and sizes are in `images.json` in the lab's folder
(`lab.web.registries.catalogue`). `lab.runtime.soci` has an index of lab/large:1.
"""

import concurrent.futures
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence

from lab import places
from lab.runtime import containerds, soci
from lab.samples import large, odd, pushing, tars
from lab.web import registries

SMALL = ("samples/images.py", "samples/odd.py", "samples/pushing.py", "samples/tars.py")
LARGE = ("samples/large.py",)
CUDA = ("cuda.py", "samples/large.py")
INDEX = ("samples/large.py", "runtime/soci.py")
ALL = ("small", "large", "index")
"""What is to be done."""
DEMO = ("pause", "large")
"""What is to be done of it for the demo: the large image, and that of sandboxes alone."""
WAIT = ("/bin/sh", "-c", "echo ready; exec sleep 1000000")
OTHER_ARCHITECTURE = {"amd64": "arm64", "arm64": "amd64"}


def main() -> None:
    """Make what is missing: the small images, the large one, its SOCI index."""
    started = time.monotonic()
    records = registries.catalogue()
    small, big = stamp(SMALL), stamp(LARGE)
    wanted = missing(records, DEMO if sys.argv[1:] == ["demo"] else ALL)
    if not wanted:
        print(f"lab: {len(records)} images are there")
        return
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        tempfile.TemporaryDirectory(prefix="lab-") as name,
        registries.Registry(pathlib.Path(name), storage=places.STORAGE) as registry,
    ):
        layers = pool.submit(large.layers) if "large" in wanted else None
        pusher = pushing.Pusher(registry.address)
        if "pause" in wanted:
            pushed = pause(pusher, pushing.layer(busybox()))
            records["lab/pause:1"] = pushed.record(alone(small))
            save(records)
        if "small" in wanted:
            print("lab: making the small images")
            made = {name: image.record(small) for name, image in small_images(pusher).items()}
            # What is made no longer is dropped.
            kept = {big, stamp(CUDA)}
            records = {name: row for name, row in records.items() if row["stamp"] in kept} | made
            save(records)
        if layers is not None:
            print("lab: making lab/large:1 of a Debian root and PyPI wheels (a minute or two)")
            pushed = pusher.image("lab/large", "1", layers.result(), command=("hello",))
            records["lab/large:1"] = pushed.record(big)
            save(records)
            shutil.rmtree(large.FOLDER)
        pusher.close()
        if "index" in wanted:
            print("lab: indexing lab/large:1 for SOCI")
            soci.index(registry, "lab/large:1")
            soci_stamp().touch()
    print(table(records))
    print(f"lab: images made in {time.monotonic() - started:.0f} s")


def missing(records: dict[str, registries.Record], steps: Sequence[str]) -> set[str]:
    """Return which of these steps are still to be done."""
    stamps = {record["stamp"] for record in records.values()}
    small = stamp(SMALL)
    done = {
        "small": small in stamps,
        "pause": bool(stamps & {small, alone(small)}),
        "large": stamp(LARGE) in stamps,
        "index": soci_stamp().exists(),
    }
    return {step for step in steps if not done[step]}


def alone(stamp: str) -> str:
    """Return the stamp of a small image that was made without the others."""
    return f"{stamp} alone"


def stamp(sources: tuple[str, ...]) -> str:
    """Return what changes when the modules that make images do.

    Imports from the lab are left out: a module that has only moved makes the same images.
    """
    texts = [(places.CHECKOUT / "lab" / name).read_bytes() for name in sources]
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    made_by = b"".join(line for line in lines if not line.startswith(b"from lab"))
    return hashlib.sha256(made_by).hexdigest()


def soci_stamp() -> pathlib.Path:
    """Return the file that says that the large image has its SOCI index."""
    return places.LAB / f"soci-{stamp(INDEX)[:12]}.stamp"


def save(records: dict[str, registries.Record]) -> None:
    """Write the catalogue at once, so that readers see all of it or what was before."""
    new = places.LAB / "images.json.new"
    new.write_text(json.dumps(records, indent=1))
    new.rename(places.LAB / "images.json")


def add(name: str, record: registries.Record) -> None:
    """Add an image to the catalogue."""
    save(registries.catalogue() | {name: record})


def table(records: dict[str, registries.Record]) -> str:
    """Return the catalogue for people."""
    return "\n".join(
        f"  {name:<16} {len(record['layers']):>4} layers {record['compressed'] / 1e6:>9.1f} MB"
        f" {record['unpacked'] / 1e6:>9.1f} MB unpacked"
        for name, record in sorted(records.items())
    )


def small_images(pusher: pushing.Pusher) -> dict[str, pushing.Pushed]:
    """Push every image but the large one."""
    base = busybox()
    root = pushing.layer(base)
    made = {
        f"lab/layers{count}:1": pusher.image(
            f"lab/layers{count}", "1", [root, *numbered(count - 1)], command=WAIT
        )
        for count in (2, 40, 127)
    }
    entries = [root, *(pushing.layer(layer) for layer in odd.layers())]
    made["lab/odd:1"] = pusher.image("lab/odd", "1", entries, command=WAIT)
    for why, refused in odd.refused().items():
        layers = [root, pushing.layer(refused)]
        made[f"lab/refused-{why}:1"] = pusher.image(f"lab/refused-{why}", "1", layers, command=WAIT)
    for how in ("gzip", "zstd", "plain", "estargz", "docker"):
        layers = [pushing.layer(entries, how) for entries in (base, library())]
        docker = how == "docker"
        made[f"lab/{how}:1"] = pusher.image(f"lab/{how}", "1", layers, command=WAIT, docker=docker)
    made["lab/multi:1"] = multi(pusher, root)
    made["lab/pause:1"] = pause(pusher, root)
    return made


def pause(pusher: pushing.Pusher, root: pushing.Layer) -> pushing.Pushed:
    """Push the image of pod sandboxes."""
    command = ("/bin/busybox", "sleep", "1000000000")
    return pusher.image("lab/pause", "1", [root], command=command)


def busybox() -> list[tars.Entry]:
    """Return a root with this machine's static busybox and all its names."""
    program = next(
        path for path in map(pathlib.Path, ("/bin/busybox", "/usr/bin/busybox")) if path.exists()
    )
    applets = subprocess.run(
        [program, "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    folders = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var")
    return [
        *(tars.folder(f"{name}/", mode=0o1777 if name == "tmp" else 0o755) for name in folders),
        tars.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        tars.file("etc/group", b"root:x:0:\n"),
        tars.file("bin/busybox", program.read_bytes(), mode=0o755),
        *(tars.symlink(f"bin/{name}", "busybox") for name in sorted(applets) if name != "busybox"),
    ]


def library() -> list[tars.Entry]:
    """Return some hundred real files: the modules of Python's own library."""
    sources = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [
        tars.folder("usr/lib/"),
        tars.folder("usr/lib/python/"),
        *(tars.file(f"usr/lib/python/{path.name}", path.read_bytes()) for path in sources),
    ]


def numbered(count: int) -> list[pushing.Layer]:
    """Return layers that each add real files, and change or remove what is below them."""
    files = [entry for entry in library() if entry.kind == tars.FILE]
    layers = []
    for at in range(count):
        folder = f"layers/{at:03}"
        entries = [tars.folder("layers/"), tars.folder(f"{folder}/")]
        # Of two layers, the second has all; of 127, each has a few.
        share = files[at::count] if count < len(files) else []
        entries += [
            tars.file(f"{folder}/{entry.name.decode().split('/')[-1]}", entry.data)
            for entry in share
        ]
        entries.append(tars.file("layers/top", b"%d\n" % at))
        entries.append(tars.file(f"layers/passing-{at}", b"until the next layer\n"))
        if at:
            entries.append(tars.file(f"layers/.wh.passing-{at - 1}"))
        layers.append(pushing.layer(entries))
    return layers


def multi(pusher: pushing.Pusher, root: pushing.Layer) -> pushing.Pushed:
    """Push an index as buildx makes it: two platforms, and an attestation of the first."""
    repository, own = "lab/multi", containerds.architecture()
    other = OTHER_ARCHITECTURE[own]
    rows, images = [], {}
    for architecture in (own, other):
        layer = pushing.layer([tars.file("etc/architecture", architecture.encode() + b"\n")])
        image = pusher.image(
            repository, None, [root, layer], command=WAIT, architecture=architecture
        )
        images[architecture] = image
        platform: dict[str, object] = {"architecture": architecture, "os": "linux"}
        if architecture == "arm64":
            platform["variant"] = "v8"
        rows.append({**described(image), "platform": platform})
    rows.append(attestation(pusher, repository, images[own]))
    kind = f"{pushing.OCI}.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": rows}
    digest, size = pusher.manifest(repository, "1", index)
    image = images[own]
    return pushing.Pushed(digest, size, kind, image.config, image.layers)


def attestation(
    pusher: pushing.Pusher, repository: str, image: pushing.Pushed
) -> dict[str, object]:
    """Push what buildx adds: a manifest of no platform, whose layer is no tar."""
    statement = json.dumps({"_type": "https://in-toto.io/Statement/v0.1"}).encode()
    digest = pushing.sha256(statement)
    layer = pushing.Layer(
        statement, digest, len(statement), digest, len(statement), "application/vnd.in-toto+json"
    )
    pushed = pusher.image(repository, None, [layer], architecture="unknown")
    annotations = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image.digest,
    }
    nowhere = {"architecture": "unknown", "os": "unknown"}
    return {**described(pushed), "platform": nowhere, "annotations": annotations}


def described(image: pushing.Pushed) -> dict[str, object]:
    """Return the descriptor of an image's manifest."""
    return pushing.descriptor(image.media_type, image.digest, image.size)


if __name__ == "__main__":
    main()
