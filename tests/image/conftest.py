"""Our container image on a real containerd."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab import places, services
from lab.image import oci
from lab.runtime import containerds, cri
from tests.containerd.conftest import registry, session

__all__ = ["registry", "session"]

NAME = oci.name()


@pytest.fixture(scope="session")
def archive() -> pathlib.Path:
    """The image, made anew if anything of it changed."""
    command = [sys.executable, "-m", "lab.image"]
    done = subprocess.run(command, cwd=places.CHECKOUT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return oci.ARCHIVE


@pytest.fixture(scope="session")
def containerd(
    session: pathlib.Path, registry: services.Registry, archive: pathlib.Path
) -> Iterator[containerds.Containerd]:
    """A containerd that has our image, as a node without a registry gets it."""
    folder = session / "c"
    folder.mkdir()
    with containerds.Containerd(registries=[registry.address], folder=folder) as running:
        running.ctr("images", "import", archive, namespace="k8s.io")
        yield running


@pytest.fixture
def client(containerd: containerds.Containerd) -> Iterator[cri.Client]:
    with containerd.cri() as made:
        yield made
