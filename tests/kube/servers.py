"""The API server of a test run: kmock, a real one of its own, or a cluster's.

KUBEBUILDER_ASSETS (envtest's convention) names a folder with `etcd` and
`kube-apiserver`: they are started on free ports, with roles enforced. With
UIMGACC_TEST_CLUSTER=1 the cluster of KUBECONFIG is used. Tests do not know which, but
for those of what no emulation does: admission, schemas, roles.
"""

import asyncio
import contextlib
import csv
import os
import pathlib
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest
from aiohttp import web

from agent.clients.kube import connection
from lab import processes, testing
from tests.kube import emulating, threads

ADMIN = "admin-of-the-tests"


def is_cluster() -> bool:
    """Whether the server is that of a cluster, with nodes that are in use."""
    return os.environ.get("UIMGACC_TEST_CLUSTER") == "1"


def is_real() -> bool:
    """Whether the server is a kube-apiserver: the test run's own, or a cluster's."""
    return is_cluster() or is_own()


def is_own() -> bool:
    """Whether the server is a kube-apiserver that the test run starts for itself."""
    return not is_cluster() and bool(os.environ.get("KUBEBUILDER_ASSETS"))


needs_real = pytest.mark.skipif(not is_real(), reason=testing.NEEDS_API_SERVER)
needs_own = pytest.mark.skipif(not is_own(), reason=testing.NEEDS_API_SERVER)


@contextlib.contextmanager
def running(folder: pathlib.Path, loop: threads.Loop) -> Iterator[connection.Access]:
    """The server that the environment asks for, and how its administrator reaches it."""
    if is_cluster():
        path = pathlib.Path(os.environ["KUBECONFIG"])
        yield asyncio.run(connection.Kubeconfig(path).read())
    elif assets := os.environ.get("KUBEBUILDER_ASSETS"):
        with real(pathlib.Path(assets), folder) as access:
            yield access
    else:
        with emulated(loop) as access:
            yield access


@contextlib.contextmanager
def emulated(
    loop: threads.Loop, *, release: tuple[str, str] = ("1", "36")
) -> Iterator[connection.Access]:
    """kmock's, in a thread of this process; before 1.36 it has no policies that change pods."""
    handler = emulating.Emulator(release=release)

    async def opened() -> tuple[contextlib.AsyncExitStack, int]:
        stack = contextlib.AsyncExitStack()
        await stack.enter_async_context(handler)
        return stack, await stack.enter_async_context(threads.listening(web.Server(handler)))

    stack, port = loop.run(opened())
    try:
        yield connection.Access(
            server=f"http://127.0.0.1:{port}", authorization=f"Bearer {ADMIN}", tls=None
        )
    finally:
        loop.run(stack.aclose())


@contextlib.contextmanager
def real(assets: pathlib.Path, folder: pathlib.Path) -> Iterator[connection.Access]:
    """A kube-apiserver over an etcd of its own; its certificate is made by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    storage, peer, port = (processes.free_port() for _ in range(3))
    etcd = processes.Process(_etcd(assets, folder, storage, peer), folder / "etcd.log")
    server = processes.Process(_server(assets, folder, storage, port), folder / "api.log")
    with contextlib.ExitStack() as stack:
        stack.callback(etcd.end)
        etcd.start()
        etcd.wait_for_socket(("127.0.0.1", storage))
        stack.callback(server.end)
        server.start()
        server.wait_for_socket(("127.0.0.1", port), seconds=90)
        tls = ssl.create_default_context(cafile=folder / "certificates" / "apiserver.crt")
        access = connection.Access(
            server=f"https://127.0.0.1:{port}", authorization=f"Bearer {ADMIN}", tls=tls
        )
        _wait_until_ready(access, server)
        yield access


def _etcd(assets: pathlib.Path, folder: pathlib.Path, port: int, peer: int) -> list[str]:
    own, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        str(assets / "etcd"),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={own}",
        f"--advertise-client-urls={own}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync=true",
        "--log-level=error",
    ]


def _server(assets: pathlib.Path, folder: pathlib.Path, storage: int, port: int) -> list[str]:
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    tokens = folder / "tokens.csv"
    with tokens.open("w") as file:
        csv.writer(file).writerow([ADMIN, "admin", "admin", "system:masters"])
    return [
        str(assets / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{storage}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        "--authorization-mode=Node,RBAC",
        f"--token-auth-file={tokens}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.96.0.0/24",
        # For our component of older clusters; from 1.36 on it is off unless asked for.
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        # Its controller makes the account default of each namespace; nobody runs it here.
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged=true",
    ]


def _wait_until_ready(access: connection.Access, server: processes.Process) -> None:
    deadline = time.monotonic() + 90
    headers = {"Authorization": access.authorization}
    request = urllib.request.Request(f"{access.server}/readyz", headers=headers)
    while True:
        with (
            contextlib.suppress(OSError),  # an HTTP status of failure is one, too
            urllib.request.urlopen(request, timeout=5, context=access.tls),
        ):
            return
        if time.monotonic() > deadline:
            raise processes.LabError(f"the API server is not ready:\n{server.said()}")
        time.sleep(0.1)
