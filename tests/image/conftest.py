"""Our container image on a real containerd."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from lab import containerds, cri, image, places, processes, services

NAME = image.name()


@pytest.fixture(scope="session")
def session() -> Iterator[pathlib.Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root for containerd and mounts")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="img"))
    try:
        yield folder
    finally:
        processes.unmount_below(folder)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def registry(session: pathlib.Path) -> Iterator[services.Registry]:
    with services.Registry(session / "registry") as running:
        yield running


@pytest.fixture(scope="session")
def archive() -> pathlib.Path:
    """The image, made anew if anything of it changed."""
    command = [sys.executable, "-m", "lab.image"]
    done = subprocess.run(command, cwd=places.CHECKOUT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return image.ARCHIVE


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
