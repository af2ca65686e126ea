"""The peer to compare with: SOCI's lazy pull, with its snapshotter as it comes.

A lazy pull mounts every layer by FUSE, after an index of what it has; what
containers read is fetched when they read it. `lab.samples.images` makes the index of
lab/large:1 once. SOCI 0.4 fetches indices by TLS alone, whatever it is told, and
our registry has none: so the index is put where SOCI keeps those that it has
fetched. This saves SOCI some milliseconds, in a comparison with us.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence

from lab import places, processes
from lab.runtime import containerds
from lab.web import registries

ARTIFACTS = places.LAB / "soci-artifacts"
MACHINE_FOLDER = pathlib.Path("/var/lib/soci-snapshotter-grpc")


class Soci:
    """A soci-snapshotter, private to a folder; a context manager.

    Registries are those to speak to by plain HTTP. Plug it into a containerd
    with `proxies={"soci": soci.proxy}`, then `pull(containerd, reference)`.
    """

    def __init__(
        self,
        *,
        registries: Sequence[str] = (),
        folder: pathlib.Path | None = None,
        artifacts: pathlib.Path = ARTIFACTS,
    ) -> None:
        self.artifacts = artifacts
        self.registries = list(registries)
        self.own_folder = folder is None
        self.folder = folder or pathlib.Path(tempfile.mkdtemp(prefix="lab-"))
        self.address = self.folder / "s.sock"
        self.root = self.folder / "soci"
        self.config = self.folder / "soci.toml"
        self.held = contextlib.ExitStack()
        self.process = processes.Process(
            [
                places.SOCI / "soci-snapshotter-grpc",
                f"--address={self.address}",
                f"--root={self.root}",
                f"--config={self.config}",
            ],
            self.folder / "soci.log",
        )

    @property
    def proxy(self) -> containerds.Proxy:
        """Return how containerd plugs it in."""
        return containerds.Proxy(self.address, self.root, annotations=True)

    @property
    def pid(self) -> int:
        """Return the id of the running snapshotter."""
        return self.process.pid

    def __enter__(self) -> "Soci":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Start; return when the socket answers."""
        self.held.enter_context(machine_folder())
        shutil.copytree(self.artifacts, MACHINE_FOLDER, dirs_exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self.configuration())
        self.process.start()
        self.process.wait_for_socket(str(self.address))

    def configuration(self) -> str:
        """Return its configuration: as it comes, but for registries by plain HTTP."""
        lines = ["no_prometheus = true"]
        for registry in self.registries:
            lines += [
                f'[[resolver.host."{registry}".mirrors]]',
                f'  host = "{registry}"',
                "  insecure = true",
            ]
        return "\n".join([*lines, ""])

    def close(self) -> None:
        """End it, after the containers that use it, and remove its data."""
        self.held.close()
        processes.unmount_below(self.folder)
        self.process.end()
        processes.unmount_below(self.folder)
        shutil.rmtree(self.root, ignore_errors=True)
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def pull(
        self, containerd: containerds.Containerd, reference: str, *, namespace: str = "default"
    ) -> float:
        """Pull the image of the index lazily, by SOCI's own command; return its seconds."""
        digest = (self.artifacts / "digest").read_text()
        options = ["--plain-http", f"--soci-index-digest={digest}"]
        started = time.monotonic()
        command(containerd, "image", "rpull", *options, reference, namespace=namespace)
        return time.monotonic() - started


def command(
    containerd: containerds.Containerd,
    *arguments: str,
    namespace: str = "default",
    folder: pathlib.Path | None = None,
) -> str:
    """Run `soci` against a containerd; return what it printed."""
    done = subprocess.run(
        [places.SOCI / "soci", "-a", containerd.address, "-n", namespace, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, **processes.environment_with_path(containerd.binaries)},
    )
    if done.returncode:
        raise processes.LabError(f"soci {' '.join(arguments)}: {done.stderr or done.stdout}")
    return done.stdout


def index(registry: registries.Registry, name: str, artifacts: pathlib.Path = ARTIFACTS) -> None:
    """Make the SOCI index of an image of the lab, and keep it in a folder for later pulls.

    Small layers are indexed as well, so that none needs an ordinary pull.
    """
    reference = f"{registry.address}/{name}"
    with machine_folder(), containerds.Containerd("2", registries=[registry.address]) as containerd:
        containerd.ctr("content", "fetch", "--plain-http", reference)
        command(containerd, "create", "--min-layer-size=0", reference)
        digest = command(containerd, "index", "list", "--quiet", f"--ref={reference}").strip()
        shutil.rmtree(artifacts, ignore_errors=True)
        shutil.copytree(MACHINE_FOLDER, artifacts)
        (artifacts / "digest").write_text(digest)


@contextlib.contextmanager
def machine_folder() -> Iterator[None]:
    """Hold the folder of artifacts that SOCI has only one of, and leave none behind.

    Its path is built into the programs, whatever `--root` says. So there is one
    SOCI of the lab at a time on a machine, and none where one is installed.
    """
    marker = MACHINE_FOLDER / "of-the-lab"
    with (places.LAB / "soci.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # What is marked was left by a lab that was killed.
        if MACHINE_FOLDER.exists() and not marker.exists():
            raise processes.LabError(f"SOCI is installed on this machine: {MACHINE_FOLDER} exists")
        shutil.rmtree(MACHINE_FOLDER, ignore_errors=True)
        MACHINE_FOLDER.mkdir(mode=0o711)
        marker.touch()
        try:
            yield
        finally:
            shutil.rmtree(MACHINE_FOLDER, ignore_errors=True)
