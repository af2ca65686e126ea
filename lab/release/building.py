"""Make a release: every file of it, in one folder."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

from lab import install_files, places
from lab.chart import archive, chart_files
from lab.image import oci
from lab.release import bills, charts, documents, platforms, provenance, signing, sources
from lab.samples import pushing

FOLDER = places.LAB / "release"
SUMS = "SHA256SUMS"


class Progress:
    """Says each step when it begins, and how long all have taken so far."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, step: str) -> None:
        print(f"release: {time.monotonic() - self._started:4.0f} s  {step}", flush=True)


def make(registry: str, *, key: str = "", output: pathlib.Path | None = None) -> pathlib.Path:
    """Make the release of the checkout's commit; return its folder, `.lab/release/VERSION`.

    Raises LabError for a checkout that differs from its commit, or a tag from pyproject.toml.
    """
    say = Progress()
    version = sources.version()
    kind = "release" if version.released else "development version, as the commit has no tag"
    say(f"uimgacc {version.text} ({kind})")
    os.umask(0o022)
    folder = output or FOLDER / version.text
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    work = FOLDER / "work"
    with _alone():
        shutil.rmtree(work, ignore_errors=True)
        checkout = sources.export(places.CHECKOUT, work / "source-of-commit")
        images = platforms.make(checkout, work, version, say)
        say("archives, bills of materials, manifests")
        release = _write(draft, images, version, registry)
        shutil.rmtree(work)
    _write_sums(draft)
    if key:
        say("signing the checksums")
        signing.sign_checksums(draft, key)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    say(f"{folder}: {size:.0f} MB, index {release.index}")
    return folder


def _write(
    folder: pathlib.Path, images: list[platforms.Image], version: sources.Version, registry: str
) -> documents.Release:
    """Write all files of the release but its checksums."""
    index = platforms.index(images, version)
    repository = f"{registry}/{documents.REPOSITORY}"
    digest = pushing.sha256(index)
    # Of the checkout, which does not differ from its commit.
    package = archive.contents(
        chart_files.Image(repository, digest, version.text), epoch=version.seconds
    )
    chart, blobs = charts.artifact(package, version)
    release = documents.Release(
        version=version.text,
        commit=version.commit,
        released=version.released,
        registry=registry,
        index=digest,
        platforms={each.architecture: each.digest for each in images},
        chart=pushing.sha256(chart),
    )
    layout = platforms.layout(images, index, f"{repository}:{version.text}")
    oci.write(folder / release.images, layout, created=version.seconds)
    artifact = charts.layout(chart, blobs, version.text)
    oci.write(folder / release.chart_archive, artifact, created=version.seconds)
    (folder / f"uimgacc-{version.text}.tgz").write_bytes(package)
    for each in images:
        (folder / release.bill(each.architecture)).write_bytes(bills.make(each, version))
    (folder / documents.PROVENANCE).write_bytes(provenance.make(images, index, version))
    for name, text in install_files.texts(release.image(registry)).items():
        (folder / name).write_text(text)
    documents.write(folder, release)
    return release


def _write_sums(folder: pathlib.Path) -> None:
    """Write the file that `sha256sum --check` reads."""
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as data:
            lines.append(f"{hashlib.file_digest(data, 'sha256').hexdigest()}  {path.name}\n")
    (folder / SUMS).write_text("".join(lines))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Run nothing beside lab/setup and `make image`, which use the same folders of apt's."""
    with (places.LAB / "setup.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
