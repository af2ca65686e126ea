"""A release that is made twice, from two clones: `make release-test`, and not `make test`.

It takes as long as four images do, and downloads all of their packages twice.
"""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from lab import places, processes, services
from lab.release import documents

WANTED = os.environ.get("UIMGACC_RELEASE", "")
"""Not empty: these tests run. A folder: both releases are kept there, and made if they are not."""
OWN = ("apt", "image", "release", "setup.lock")
"""What a clone has of its own; the lab's programs are those of this checkout."""


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A clone with a release: of a commit that has the version's tag."""

    clone: pathlib.Path
    folder: pathlib.Path

    @property
    def release(self) -> documents.Release:
        return documents.read(self.folder)

    @property
    def public_key(self) -> pathlib.Path:
        return self.clone.parent / "release.pub"

    def run(self, *arguments: str, **environment: str) -> str:
        """Run the release's commands, as `make release` does."""
        return _run(self.clone, *arguments, **environment)


def _run(clone: pathlib.Path, *arguments: str, umask: int = 0o022, **environment: str) -> str:
    own = {"UIMGACC_LAB": str(clone / ".lab"), "PYTHONPATH": str(clone), **environment}
    done = subprocess.run(
        [sys.executable, "-m", "lab.release", *arguments],
        cwd=clone,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,
        umask=umask,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _made(folder: pathlib.Path, *, umask: int, **environment: str) -> Made:
    clone = folder / "checkout"
    for there in clone.glob(f".lab/release/*/{documents.FILE}"):
        return Made(clone, there.parent)
    _git(folder, "clone", "-q", places.CHECKOUT, clone)
    for tag in _git(clone, "tag", "--points-at", "HEAD").split():
        _git(clone, "tag", "-d", tag)
    version = subprocess.run(
        [sys.executable, "-c", "from lab.image import oci; print(oci.name().rpartition(':')[2])"],
        cwd=clone,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    _git(clone, "tag", "-f", f"v{version}")
    (clone / ".lab").mkdir()
    for path in places.LAB.iterdir():
        if path.name not in OWN:
            (clone / ".lab" / path.name).symlink_to(path)
    _run(clone, "build", umask=umask, **environment)
    return Made(clone, clone / ".lab" / "release" / version)


def _git(folder: pathlib.Path, *arguments: str | pathlib.Path) -> str:
    command = ["git", "-c", "safe.directory=*", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def twice() -> Iterator[tuple[Made, Made]]:
    """Two releases of one commit: in folders of other names, by people with other habits."""
    if not WANTED:
        pytest.skip("two releases take minutes: make release-test")
    if os.geteuid() != 0 or not places.CONTAINERDS["2"].is_dir():
        pytest.skip("needs root, and what lab/setup gathers")
    kept = WANTED.startswith("/")
    folder = pathlib.Path(WANTED if kept else tempfile.mkdtemp(prefix="uimgacc-release-"))
    try:
        for name in ("a", "another-one"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        first = _made(folder / "a", umask=0o022, UIMGACC_COSIGN_KEY=str(_key(folder / "a")))
        habits = {"TZ": "Asia/Shanghai", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
        habits["PYTHONDONTWRITEBYTECODE"] = ""
        yield first, _made(folder / "another-one", umask=0o077, **habits)
    finally:
        if not kept:
            shutil.rmtree(folder)


def _key(folder: pathlib.Path) -> pathlib.Path:
    if (folder / "release.key").exists():
        return folder / "release.key"
    command = ["cosign", "generate-key-pair", f"--output-key-prefix={folder}/release"]
    environment = {
        **os.environ,
        **processes.environment_with_path(places.BIN),
        "COSIGN_PASSWORD": "",
    }
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)
    return folder / "release.key"


@pytest.fixture(scope="session")
def made(twice: tuple[Made, Made]) -> Made:
    return twice[0]


@pytest.fixture(scope="session")
def registry(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Registry]:
    """A registry to which the release was pushed, signed."""
    folder = tmp_path_factory.mktemp("registry")
    with services.Registry(folder / "server", storage=folder / "storage") as server:
        key = str(made.public_key.with_suffix(".key"))
        made.run("push", server.address, "--plain-http", "--key", key)
        yield server
