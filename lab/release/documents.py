"""What a release is made of, as `release.json` says it: the push, and people, read that."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from lab import processes

FILE = "release.json"
PLATFORMS = ("amd64", "arm64")


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """A release that is made. Digests are of manifests."""

    version: str
    commit: str
    released: bool
    registry: str
    """Where the manifests and the chart expect the image: a host, and a path where it has one."""
    index: str
    platforms: Mapping[str, str]
    """The digest of each architecture's image."""
    chart: str

    @property
    def images(self) -> str:
        """The archive with the images, an OCI layout."""
        return f"uimgacc-{self.version}.oci.tar"

    @property
    def chart_archive(self) -> str:
        """The archive with the chart as an artifact, an OCI layout."""
        return f"uimgacc-chart-{self.version}.oci.tar"

    def bill(self, architecture: str) -> str:
        """The bill of materials of one image."""
        return f"uimgacc-{self.version}-linux-{architecture}.cdx.json"

    def image(self, registry: str) -> str:
        """The image's index by its digest, in a registry."""
        return f"{registry}/{REPOSITORY}@{self.index}"

    def chart_name(self, registry: str) -> str:
        """The chart by its digest, in a registry."""
        return f"{registry}/{CHART_REPOSITORY}@{self.chart}"


REPOSITORY = "uimgacc"
CHART_REPOSITORY = "charts/uimgacc"
"""Helm wants the chart's name as the last part."""
PROVENANCE = "provenance.intoto.json"


def write(folder: pathlib.Path, release: Release) -> None:
    """Write what the release is made of."""
    (folder / FILE).write_bytes(pretty(dataclasses.asdict(release)))


def read(folder: pathlib.Path) -> Release:
    """Read what a release is made of; raise LabError where there is none."""
    try:
        return Release(**json.loads((folder / FILE).read_text()))
    except FileNotFoundError as error:
        raise processes.LabError(f"{folder} has no {FILE}: run `make release` first") from error


def pretty(value: Any) -> bytes:
    """Return a value as JSON that people can read."""
    return json.dumps(value, indent=2).encode() + b"\n"
