"""Signatures of a release, by cosign with a key: of the checksums, and of what is pushed.

Nothing is written to a public transparency log: a key needs none, and a private registry's
names would be in it. COSIGN_PASSWORD is the password of the key's file, as for cosign itself.
"""

import json
import os
import pathlib
import subprocess
import tempfile

from lab import places, processes
from lab.release import documents

BUNDLE = "SHA256SUMS.sigstore.json"
_ALONE = ("--tlog-upload=false", "--use-signing-config=false", "--yes")
# The tag `sha256-....sig`, which all versions of cosign and all admission controllers read.
_BY_TAG = "--new-bundle-format=false"
_SECONDS = 300


def sign_checksums(folder: pathlib.Path, key: str) -> None:
    """Sign the checksums of all files."""
    bundle = f"--bundle={folder / BUNDLE}"
    _cosign("sign-blob", f"--key={key}", bundle, *_ALONE, str(folder / "SHA256SUMS"))


def sign_pushed(
    folder: pathlib.Path,
    release: documents.Release,
    registry: str,
    *,
    key: str,
    plain_http: bool,
) -> None:
    """Sign index, images and chart in a registry; attest to bills of materials and provenance."""
    options = [f"--key={key}", _BY_TAG, *_ALONE]
    if plain_http:
        options.append("--allow-http-registry")
    print(f"release: signing {release.image(registry)}", flush=True)
    _cosign("sign", "--recursive", *options, release.image(registry))
    _cosign("sign", *options, release.chart_name(registry))
    statement = json.loads((folder / documents.PROVENANCE).read_text())
    with tempfile.TemporaryDirectory() as scratch:
        predicate = pathlib.Path(scratch) / "provenance.json"
        predicate.write_text(json.dumps(statement["predicate"]))
        for architecture, digest in release.platforms.items():
            name = f"{registry}/{documents.REPOSITORY}@{digest}"
            print(f"release: attesting to {name}", flush=True)
            bill = folder / release.bill(architecture)
            for kind, file in (("cyclonedx", bill), ("slsaprovenance1", predicate)):
                _cosign("attest", f"--type={kind}", f"--predicate={file}", *options, name)


def _cosign(*arguments: str) -> None:
    own = {"PATH": f"{places.BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["cosign", *arguments],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"COSIGN_PASSWORD": "", **os.environ, **own},
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise processes.LabError(f"cosign {arguments[0]}: {' '.join(said)}")
