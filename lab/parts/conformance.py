"""containerd's own conformance suite for snapshotters, built from Debian's packages of its source.

Only who asks for it has it (UIMGACC_CONFORMANCE=1, tests/snapshotter/test_conformance.py): it needs
a Go compiler, and a minute or two.
"""

import contextlib
import fcntl
import hashlib
import pathlib
import re
import shutil
from collections.abc import Iterator

from lab import places
from lab.parts import debian

SUITE = "testing"
"""The suite of the lab's containerd 2."""
COMPILER = "golang-go"
# What the suite and containerd's proxy client import. Without their dependencies: these are 450
# packages, most of which nothing here imports.
SOURCES = (
    "golang-github-containerd-containerd-dev",
    "golang-github-containerd-containerd-api-dev",
    "golang-github-containerd-continuity-dev",
    "golang-github-containerd-errdefs-dev",
    "golang-github-containerd-log-dev",
    "golang-github-containerd-platforms-dev",
    "golang-github-containerd-ttrpc-dev",
    "golang-github-containerd-typeurl-dev",
    "golang-github-davecgh-go-spew-dev",
    "golang-github-gogo-protobuf-dev",
    "golang-github-golang-protobuf-1-5-dev",
    "golang-github-google-go-cmp-dev",
    "golang-github-moby-sys-dev",
    "golang-github-opencontainers-go-digest-dev",
    "golang-github-opencontainers-image-spec-dev",
    "golang-github-pmezard-go-difflib-dev",
    "golang-github-sirupsen-logrus-dev",
    "golang-github-stretchr-testify-dev",
    "golang-golang-x-net-dev",
    "golang-golang-x-sync-dev",
    "golang-golang-x-sys-dev",
    "golang-golang-x-text-dev",
    "golang-google-genproto-dev",
    "golang-google-grpc-dev",
    "golang-google-protobuf-dev",
    "golang-gopkg-yaml.v3-dev",
)
FOLDER = places.LAB / "conformance"
ROOT = FOLDER / "root"


def program(source: pathlib.Path) -> pathlib.Path:
    """Return a test program made of the Go files of a folder; what is there is not made again."""
    FOLDER.mkdir(exist_ok=True)
    inputs = [pathlib.Path(__file__), *sorted(source.glob("*.go"))]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    made = FOLDER / f"{key[:16]}.test"
    with locked(FOLDER / "lock"):
        if not made.exists():
            # Not beside lab/setup: both use the same folder of apt's.
            with locked(places.LAB / "setup.lock"):
                gather()
            build(source, made)
    return made


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Hold a lock."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def gather() -> None:
    """Download and unpack compiler and sources."""
    debs = FOLDER / "debs"
    for folder in (debs, ROOT):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    debian.prepare_apt(debian.mirror(), SUITE)
    plan = debian.run(
        [*debian.apt(SUITE), "install", "--simulate", "--no-install-recommends", COMPILER],
        f"the dependencies of {COMPILER}",
    )
    names = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
    debian.run([*debian.apt(SUITE), "download", *names, *SOURCES], "containerd's source", debs)
    for package in sorted(debs.glob("*.deb")):
        debian.run(["dpkg", "-x", str(package), str(ROOT)], f"unpacking {package.name}")
    shutil.rmtree(debs)


def build(source: pathlib.Path, target: pathlib.Path) -> None:
    """Compile, with nothing but what was unpacked."""
    compiler = next(ROOT.glob("usr/lib/go-*"))
    environment = {
        "GOROOT": str(compiler),
        "GOPATH": str(ROOT / "usr/share/gocode"),
        "GOCACHE": str(FOLDER / "cache"),
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "HOME": str(FOLDER),
    }
    settings = [f"{name}={value}" for name, value in environment.items()]
    command = ["env", *settings, str(compiler / "bin/go"), "test", "-c", "-o", str(target), "."]
    debian.run(command, "containerd's conformance suite", source)
