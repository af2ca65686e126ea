"""Where the Kubernetes API server is, and the credentials for it.

Both are read by kubernetes_asyncio's loaders: in a pod, the service account's folder,
whose token the kubelet replaces long before it expires; outside, a kubeconfig with
all its kinds of credentials, plug-ins included. Files are read with aiofiles; the
loaders read again what they need themselves, all on local disks.
"""

import asyncio
import dataclasses
import os
import pathlib
import ssl
from collections.abc import Mapping
from typing import Protocol

import aiofiles
import aiohttp
import yaml

from agent import errors
from agent.clients.kube import library
from agent.kits.web import tls

# A kubeconfig is written by hand, and the library checks little before it uses the values.
_UNUSABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    yaml.YAMLError,
    aiohttp.ClientError,
    library.ConfigException,
)


class NoAccess(errors.TemporaryError):
    """The files that say how to reach the API server cannot be used (yet)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach the API server. `authorization` is the header's value, "" for none.

    `tls` is None for plain HTTP; `tls_name` is the name in the server's certificate
    where it differs from the name in its address.
    """

    server: str
    authorization: str
    tls: ssl.SSLContext | None
    tls_name: str | None = None
    proxy: str | None = None


class Credentials(Protocol):
    """The source of an Access. It is read again after `seconds`, and after a refusal."""

    @property
    def seconds(self) -> float:
        """How long an Access may be used."""

    async def read(self) -> Access:
        """Read it now; raise NoAccess."""


class ServiceAccount:
    """A pod's service account, by the environment and files that the kubelet provides."""

    # client-go reads it as often: a bound token is replaced after 80 % of its life.
    seconds = 60.0

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._token = folder / "token"
        self._certificates = folder / "ca.crt"
        self._environment = environment
        self._authority = ""
        self._tls: ssl.SSLContext | None = None

    async def read(self) -> Access:
        """See Credentials."""
        if not self._environment.get("KUBERNETES_SERVICE_HOST"):
            raise NoAccess(
                "this is no pod (no KUBERNETES_SERVICE_HOST): name a kubeconfig with --kubeconfig"
            )
        try:
            token = (await _text(self._token)).strip()
            authority = await _text(self._certificates)
            if self._tls is None or authority != self._authority:
                self._tls = tls.client_context(authority=authority)
                self._authority = authority
            server = self._server()
        except (OSError, ValueError, library.ConfigException) as error:
            raise NoAccess(f"the service account in {self._token.parent}: {error}") from error
        if not token:
            raise NoAccess(f"the service account in {self._token.parent}: the token is empty")
        return Access(server=server, authorization=f"Bearer {token}", tls=self._tls)

    def _server(self) -> str:
        """The server's address. The files are in memory (tmpfs), and were just read."""
        configuration = library.Configuration()
        loader = library.InClusterConfigLoader(
            token_filename=str(self._token),
            cert_filename=str(self._certificates),
            try_refresh_token=False,
            environ=dict(self._environment),
        )
        loader.load_and_set(configuration)
        return str(configuration.host)


class Kubeconfig:
    """A kubeconfig file: what kubectl uses, its plug-ins for credentials included."""

    seconds = 600.0

    def __init__(self, path: pathlib.Path, *, deadline: float = 30.0) -> None:
        self._path = path
        self._deadline = deadline

    async def read(self) -> Access:
        """See Credentials."""
        try:
            async with asyncio.timeout(self._deadline):
                configuration = await self._load()
                server = (configuration.host or "").rstrip("/")
                return Access(
                    server=server,
                    authorization=configuration.api_key.get("BearerToken", ""),
                    tls=await _context(configuration) if server.startswith("https:") else None,
                    tls_name=configuration.tls_server_name,
                    proxy=configuration.proxy,
                )
        except _UNUSABLE as error:
            raise NoAccess(f"the kubeconfig {self._path}: {error}") from error

    async def _load(self) -> library.Configuration:
        """As the library does it. New tokens are not written into the file."""
        loader = library.KubeConfigLoader(
            config_dict=yaml.safe_load(await _text(self._path)),
            config_base_path=str(self._path.parent.absolute()),
        )
        configuration = library.Configuration()
        await loader.load_and_set(configuration)
        return configuration


async def _text(path: pathlib.Path) -> str:
    async with aiofiles.open(path) as file:
        return await file.read()


async def _context(configuration: library.Configuration) -> ssl.SSLContext:
    """TLS as the kubeconfig says, insecure-skip-tls-verify included."""
    authority = configuration.ssl_ca_cert
    context = tls.client_context(
        authority=await _text(pathlib.Path(authority)) if authority else None
    )
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
