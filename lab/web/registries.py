"""A real registry server on the loopback interface, and what was asked of it."""

import base64
import ctypes
import ctypes.util
import dataclasses
import http.client
import json
import pathlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import TypedDict

from lab import places, processes

_SANDBOX = "lab/pause"

LINE = re.compile(
    r'"(?P<method>[A-Z]+) /v2/(?P<repository>\S+)/(?P<kind>blobs|manifests)/(?P<reference>[^\s/?]+)'
    r'\S* HTTP/[\d.]+" (?P<status>\d+) (?P<size>\d+) "[^"]*" "(?P<agent>[^"]*)"'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request for a blob or a manifest, from the registry's own access log."""

    method: str
    repository: str
    kind: str
    """`blobs` or `manifests`."""
    reference: str
    """A digest, or a tag."""
    status: int
    size: int
    """Bytes of the response's body."""
    agent: str
    """The client's User-Agent."""


class Record(TypedDict):
    """What an image of the lab is made of."""

    stamp: str
    manifest: str
    """Digest of the manifest, or of the index where it is one."""
    config: str
    layers: list[str]
    """Digests of the blobs, from the bottom."""
    diff_ids: list[str]
    compressed: int
    unpacked: int
    """Bytes of the layers' tar streams."""


class Registry:
    """A docker-registry process over a folder of storage; a context manager.

    Without `storage` it serves the lab's own images, and refuses to be written
    to; with a storage of the test's own, it accepts pushes unless told not to.
    `users` (name to password) makes it ask for basic authentication. `tls` are the files of its
    certificate and key, `clients` is the authority of the certificates that clients must show.
    With `upstream`, the URL of another registry, it is a pull-through cache of that one.
    `notified` are the endpoints of its notifications, as its configuration has them.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        storage: pathlib.Path | None = None,
        users: Mapping[str, str] | None = None,
        readonly: bool | None = None,
        tls: tuple[pathlib.Path, pathlib.Path] | None = None,
        clients: pathlib.Path | None = None,
        upstream: str = "",
        notified: Sequence[Mapping[str, object]] = (),
    ) -> None:
        self.folder = folder
        self.storage = storage or places.STORAGE
        self.users = dict(users or {})
        self.readonly = storage is None if readonly is None else readonly
        self.tls = tls
        self.clients = clients
        self.upstream = upstream
        self.notified = list(notified)
        self.port = processes.free_port()
        self.log = folder / "access.log"
        self.process = processes.Process(
            [places.BIN / "docker-registry", "serve", folder / "config.yml"],
            self.log,
            OTEL_TRACES_EXPORTER="none",
        )

    @property
    def address(self) -> str:
        """Return `127.0.0.1:PORT`, as it stands in image references."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "Registry":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start serving, always on the same port; return when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.storage.mkdir(parents=True, exist_ok=True)
        if self.users:
            lines = [f"{user}:{bcrypt(word)}\n" for user, word in self.users.items()]
            (self.folder / "htpasswd").write_text("".join(lines))
        # JSON is YAML as well.
        (self.folder / "config.yml").write_text(json.dumps(self.configuration()))
        self.process.start()
        self.process.wait_for_socket(("127.0.0.1", self.port))

    def stop(self) -> None:
        """Stop serving; the storage and the log stay."""
        self.process.end()

    def configuration(self) -> dict[str, object]:
        """Return the configuration of docker-registry."""
        maintenance = {"uploadpurging": {"enabled": False}, "readonly": {"enabled": self.readonly}}
        http: dict[str, object] = {"addr": self.address, "secret": secrets.token_hex(8)}
        if self.tls:
            certificate, key = self.tls
            authorities = {"clientcas": [str(self.clients)]} if self.clients else {}
            http["tls"] = {"certificate": str(certificate), "key": str(key), **authorities}
        configuration: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage), "maxthreads": 100},
                "cache": {"blobdescriptor": "inmemory"},
                "delete": {"enabled": not self.readonly},
                "maintenance": maintenance,
            },
            "http": http,
        }
        if self.notified:
            configuration["notifications"] = {"endpoints": self.notified}
        if self.upstream:
            configuration["proxy"] = {"remoteurl": self.upstream}
        if self.users:
            htpasswd = {"realm": "lab", "path": str(self.folder / "htpasswd")}
            configuration["auth"] = {"htpasswd": htpasswd}
        return configuration

    @property
    def url(self) -> str:
        """Return the URL of its root."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def mark(self) -> int:
        """Return a position in the log: requests before it can be left out later."""
        return self.log.stat().st_size if self.log.exists() else 0

    def requests(self, since: int = 0) -> list[Request]:
        """Return the requests for blobs and manifests since a mark."""
        with self.log.open("rb") as log:
            log.seek(since)
            lines = log.read().decode(errors="replace").splitlines()
        return [
            Request(
                method=match["method"],
                repository=match["repository"],
                kind=match["kind"],
                reference=match["reference"],
                status=int(match["status"]),
                size=int(match["size"]),
                agent=match["agent"],
            )
            for match in filter(None, map(LINE.search, lines))
        ]

    def blob_gets(self, since: int = 0) -> list[Request]:
        """Return the GETs of blobs since a mark: layers and configurations."""
        return [
            request
            for request in self.requests(since)
            if request.kind == "blobs" and request.method == "GET"
        ]

    def layer_gets(self, since: int = 0) -> list[Request]:
        """Return the GETs of layers of the lab's images since a mark.

        Not of the sandbox's image: the agent has that pulled for the other runtimes, too, at a time
        of its own.
        """
        configs = {image["config"] for image in catalogue().values()}
        return [
            request
            for request in self.blob_gets(since)
            if request.reference not in configs and request.repository != _SANDBOX
        ]

    def get(self, path: str, *, accept: str = "*/*") -> bytes:
        """Return what the registry answers to a GET below /v2/."""
        headers = {"Accept": accept}
        if self.users:
            user, word = next(iter(self.users.items()))
            headers["Authorization"] = (
                f"Basic {base64.b64encode(f'{user}:{word}'.encode()).decode()}"
            )
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/v2/{path}", headers=headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise processes.LabError(f"GET {path}: {response.status} {body[:200]!r}")
        return body


def catalogue() -> dict[str, Record]:
    """Return what the lab's images are made of, by name, as `lab.samples.images` wrote it."""
    path = places.LAB / "images.json"
    content: dict[str, Record] = json.loads(path.read_text()) if path.exists() else {}
    return content


def stored(digest: str) -> pathlib.Path:
    """Return the file of a blob in the storage of the lab's registry."""
    kind, _, name = digest.partition(":")
    return places.STORAGE / "docker/registry/v2/blobs" / kind / name[:2] / name / "data"


def bcrypt(password: str) -> str:
    """Return the bcrypt hash of a password: docker-registry takes no other.

    The C library's companion libcrypt has it; Python's own `crypt` is gone in 3.13.
    """
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    salt = "".join(secrets.choice(alphabet) for _ in range(21)) + "O"
    found: bytes | None = library.crypt(password.encode(), f"$2b$05${salt}".encode())
    if found is None or not found.startswith(b"$2b$"):
        raise processes.LabError("this machine's libcrypt has no bcrypt")
    return found.decode()
