"""A node on a real NFS export, with the agent and the snapshotter as in their pods.

Everything here runs in a guest; one server, registry and store for all tests of a file.
"""

import pathlib
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from lab.guest import member, nfsd
from lab.runtime import cri, nodes
from lab.web import registries
from tests import waiting

EXPORT = member.EXPORT
STORED, OTHER = "lab/estargz:1", "lab/gzip:1"
"""An image that is in the store, and one that is not. The first shares no layer with the sandbox's
image, as is usual: else no sandbox of our handlers could start while the store is away."""

READ_ALL = "find / -xdev -type f | sort | xargs md5sum | md5sum"


wait_until = waiting.wait_until


def note(text: str) -> None:
    """Say what was measured."""
    sys.stdout.write(f"{text}\n")


def drop_caches() -> None:
    """Have everything read from the server again, which must be there.

    The kernel gives back a delegation of each file that it forgets; while the server is away, it
    would wait for it, for minutes.
    """
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def drop_contents() -> None:
    """Have the contents of files read again, whether the server is there or not."""
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.fixture(scope="session")
def server() -> nfsd.Server:
    return nfsd.Server(pathlib.Path("/tmp/exports"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    with registries.Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def store(server: nfsd.Server, registry: registries.Registry) -> pathlib.Path:
    """The store, where the server has it; filled by the real builder."""
    path = server.add("store")
    reference = f"{registry.address}/{STORED}"
    command = [nodes.COMMAND, "create", "tests", "--image", reference, "--store", path]
    subprocess.run([*command, "--plain-http", registry.address], check=True, timeout=100)
    return path


class Node(member.Node):
    """The node of the tests."""

    def mounts(self) -> list[str]:
        """Where the host's namespace, which is this process's, has NFS mounted, in order."""
        lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        below = [line.split() for line in lines if " - nfs4 " in line]
        return [fields[4] for fields in below if fields[4].startswith(f"{self.folder}/")]

    def warm(self) -> None:
        """Run an ordinary pod, as every node has some before the first of ours."""
        pod = self.pod("warm", "lab/pause:1", "true", handler="")
        with cri.Client(self.containerd.address, self.folder / "warm") as client:
            client.remove_pod(client.run_pod(pod))

    def is_registered(self, client: cri.Client, name: str) -> bool:
        return client.image_status(self.reference(name)) is not None

    def reference(self, name: str) -> str:
        return f"{self.containerd.registries[0]}/{name}"

    def pod(self, name: str, image: str, script: str, *, handler: str = "uimgacc") -> dict:
        return cri.manifest(
            name,
            self.reference(image),
            command=["sh", "-c", script],
            annotations={"uimgacc.io/image-cache": "auto"} if handler else {},
            handler=handler,
        )


@pytest.fixture(scope="module")
def node(store, registry, tmp_path_factory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("n"), registry) as running:
        running.warm()
        yield running


@pytest.fixture(scope="module")
def client(node) -> Iterator[cri.Client]:
    with cri.Client(node.containerd.address, node.folder / "logs") as running:
        yield running


class Reader:
    """A pod that reads all files of the stored image again and again, each time from the server.

    A read error, or another content than at first, ends it.
    """

    SCRIPT = f"""
        first=$({READ_ALL}) || exit 1
        while true; do
            now=$({READ_ALL}) || exit 2
            [ "$now" = "$first" ] || exit 3
            echo read
            sleep 0.5
        done
    """

    def __init__(self, node: Node, client: cri.Client, name: str) -> None:
        self._client = client
        self._pod = client.run_pod(node.pod(name, STORED, f"set -o pipefail; {self.SCRIPT}"))

    def __enter__(self) -> "Reader":
        self.wait_for_more()
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.remove_pod(self._pod)

    @property
    def count(self) -> int:
        """How often it has read everything."""
        return self._pod.output.count("read")

    @property
    def ended(self) -> bool:
        return self._client.exit_code(self._pod.containers[0]) is not None

    def wait_for_more(self, times: int = 2) -> float:
        """Wait until it has read everything so many times more, from the server."""
        before = self.count
        drop_contents()
        seconds = wait_until(lambda: self.ended or self.count >= before + times)
        assert not self.ended, self._pod.output
        return seconds


class Watch:
    """Asks the agent's /healthz all the time; `failures` and the `slowest` answer in seconds."""

    def __init__(self, node: Node) -> None:
        self._url = f"http://127.0.0.1:{node.port}/healthz"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failures: list[str] = []
        self.slowest = 0.0
        self.answers = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.25):
            started = time.monotonic()
            try:
                with urllib.request.urlopen(self._url, timeout=20):
                    self.answers += 1
            except OSError as error:
                self.failures.append(str(error))
            self.slowest = max(self.slowest, time.monotonic() - started)
