"""What benchmarks of whole images share: registry, store, snapshotters, containerd."""

import contextlib
import dataclasses
import pathlib
import subprocess
from collections.abc import Iterator

from agent.store.publish import writer
from benchmarks import processes
from benchmarks.node import snapshotters
from lab import services
from lab.runtime import soci

LARGE = "lab/large:1"
IMAGES = (LARGE, "lab/layers2:1", "lab/layers40:1")


@dataclasses.dataclass
class Stage:
    """Everything running: a containerd 2 with overlayfs, SOCI and uimgacc over one registry."""

    registry: services.Registry
    containerd: services.Containerd
    soci: soci.Soci
    snapshotter: snapshotters.Running
    store: pathlib.Path
    folder: pathlib.Path

    def reference(self, image: str) -> str:
        """The image's reference at the registry of this run."""
        return f"{self.registry.address}/{image}"


@contextlib.contextmanager
def built(folder: pathlib.Path) -> Iterator[Stage]:
    """Start it all, with a store that holds IMAGES."""
    with running(folder) as stage:
        for image in IMAGES:
            build(stage.store, stage.registry, image)
        yield stage


@contextlib.contextmanager
def running(folder: pathlib.Path, *, artifacts: pathlib.Path = soci.ARTIFACTS) -> Iterator[Stage]:
    """Start it all, with an empty store; `artifacts` has the index of SOCI's image."""
    store = folder / "store"
    writer.create(store)
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(services.Registry(folder / "registry"))
        address = registry.address
        peer = stack.enter_context(
            soci.Soci(registries=[address], folder=_made(folder / "soci"), artifacts=artifacts)
        )
        snapshotter = stack.enter_context(snapshotters.running(folder / "snapshotter", store))
        proxies = {
            "uimgacc": services.Proxy(snapshotter.socket, snapshotter.root),
            "soci": peer.proxy,
        }
        containerd = stack.enter_context(
            services.Containerd(
                "2", registries=[address], proxies=proxies, folder=_made(folder / "c")
            )
        )
        yield Stage(registry, containerd, peer, snapshotter, store, folder)


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    return folder


def build(store: pathlib.Path, registry: services.Registry, image: str) -> None:
    """Build a cache of one image with the real command."""
    command = build_command(store, registry, image)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def build_command(
    store: pathlib.Path, registry: services.Registry, image: str
) -> list[str | pathlib.Path]:
    """The command that builds a cache of one image."""
    name = image.rpartition("/")[2].partition(":")[0]
    return [
        *(processes.COMMAND, "create", name, "--image", f"{registry.address}/{image}"),
        *("--plain-http", registry.address, "--store", store, "--json"),
    ]


def drop_caches() -> None:
    """A cold page cache, dentries and inodes included."""
    subprocess.run(["sync"], check=True)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
