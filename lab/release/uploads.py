"""Push a release to a registry, by oras: with the passwords of `docker login`, and its progress.

Everything is pushed as it was made, so digests stay. A tag that names something else is left
alone: a version is never pushed twice with different bytes.
"""

import pathlib
import subprocess

from lab import processes
from lab.release import documents, tools

_SECONDS = 3600


def push(folder: pathlib.Path, registry: str, *, plain_http: bool) -> documents.Release:
    """Push images and chart under the release's version; raise LabError where that is refused."""
    release = documents.read(folder)
    uploads = (
        (release.images, documents.REPOSITORY, release.index),
        (release.chart_archive, documents.CHART_REPOSITORY, release.chart),
    )
    for _, repository, digest in uploads:
        name = f"{registry}/{repository}:{release.version}"
        there = _resolved(name, plain_http=plain_http)
        if there not in ("", digest):
            raise processes.LabError(
                f"{name} is {there} there and {digest} here: nothing is pushed"
            )
    for archive, repository, digest in uploads:
        name = f"{registry}/{repository}:{release.version}"
        print(f"release: pushing {name}", flush=True)
        _copy(folder / archive, release.version, name, plain_http=plain_http)
        if (there := _resolved(name, plain_http=plain_http)) != digest:
            raise processes.LabError(f"{name} is {there or 'not there'} after the push of {digest}")
    if registry != release.registry:
        _write_manifests(folder, release, registry)
    return release


def _copy(archive: pathlib.Path, tag: str, name: str, *, plain_http: bool) -> None:
    command = [str(tools.oras()), "cp", "--from-oci-layout", f"{archive}:{tag}", name]
    if plain_http:
        command.append("--to-plain-http")
    # What it says goes to the terminal: a bar for each blob there, lines elsewhere.
    if subprocess.run(command, timeout=_SECONDS, check=False).returncode:
        raise processes.LabError(f"{archive.name} was not pushed to {name}: oras says why above")


def _resolved(name: str, *, plain_http: bool) -> str:
    """Return the digest of a tag in a registry; "" where there is none."""
    command = [str(tools.oras()), "resolve", name, *(["--plain-http"] if plain_http else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode and "not found" not in done.stderr:
        raise processes.LabError(f"{name}: {done.stderr.strip()}")
    return done.stdout.strip()


def _write_manifests(folder: pathlib.Path, release: documents.Release, registry: str) -> None:
    """Write the manifests with the image in this registry beside those for the release's own."""
    target = folder / "for" / registry.replace(":", "_")
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.yaml"):
        text = path.read_text().replace(release.image(release.registry), release.image(registry))
        (target / path.name).write_text(text)
    print(f"release: manifests with the image in {registry}: {target}", flush=True)
