"""The commit that is released: its version, its time, and its files.

A tag vX.Y.Z of the commit makes it this version, which pyproject.toml must have as well. Without
one it is a development version, with the commit in its name.
"""

import dataclasses
import pathlib
import re
import shutil
import subprocess
import tomllib

from lab import places, processes
from lab.parts import debian

_SHOWN = 12
"""Digits of a commit in a version."""


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """The version of a commit. Its two spellings differ where it is a development version."""

    number: str
    """X.Y.Z, as pyproject.toml has it."""
    commit: str
    seconds: int
    """When the commit was made: the only time that anything of the release has."""
    released: bool
    """Whether the commit has the version's tag."""

    @property
    def python(self) -> str:
        """The version as Python spells it (PEP 440): what `uimgacc version` says."""
        suffix = "" if self.released else f".dev0+g{self.commit[:_SHOWN]}"
        return f"{self.number}{suffix}"

    @property
    def text(self) -> str:
        """The version as Semantic Versioning spells it: of the chart, and tag of the image."""
        return self.number if self.released else f"{self.number}-dev.g{self.commit[:_SHOWN]}"


def version(checkout: pathlib.Path = places.CHECKOUT) -> Version:
    """Return the version of the checkout; raise LabError where none can be released from it."""
    if changed := _git(checkout, "status", "--porcelain"):
        raise processes.LabError(
            "a release is made of a commit, and these files differ from it (commit them, or"
            f" remove them):\n{changed}"
        )
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    tags = _git(checkout, "tag", "--points-at", "HEAD").split()
    versions = [tag for tag in tags if re.fullmatch(r"v\d+\.\d+\.\d+", tag)]
    if wrong := [tag for tag in versions if tag != f"v{project['version']}"]:
        raise processes.LabError(
            f"the commit has the tag {wrong[0]}, and pyproject.toml the version"
            f" {project['version']}: one of them is wrong"
        )
    commit, seconds = _git(checkout, "log", "-1", "--format=%H %ct").split()
    return Version(project["version"], commit, int(seconds), bool(versions))


def export(checkout: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Write the commit's files, and no others, to a folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    archive = target.with_name(f"{target.name}.tar")
    _git(checkout, "archive", f"--output={archive}", "HEAD")
    debian.run(["tar", "-x", "-f", str(archive), "-C", str(target)], "the commit's files")
    archive.unlink()
    return target


def _git(checkout: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", checkout, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise processes.LabError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
