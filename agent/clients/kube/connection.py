"""Where the Kubernetes API server is and how we prove who we are.

In a pod: the service account's folder, whose token the kubelet replaces long before
it ends. Outside: a kubeconfig, in all its variety, read by kubernetes_asyncio.

That library is imported for a kubeconfig only. Its import makes a class of every
type of the API: 39 MB and 0.4 s, on each node, for two files that any pod can read.
"""

import asyncio
import dataclasses
import os
import pathlib
import ssl
from collections.abc import Mapping
from typing import Protocol

import aiohttp
import yaml

from agent import errors
from agent.kits.web import tls

# A kubeconfig is written by hand; the library checks little before it uses what it finds.
_UNUSABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    yaml.YAMLError,
    aiohttp.ClientError,
)


class NoAccess(errors.TemporaryError):
    """The files that say how to reach the API server cannot be used (yet)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach the API server. `authorization` is the header's value, "" for none.

    `tls` is None for plain HTTP; `tls_name` is the name in the server's certificate
    where it is not that in its address.
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
        """How long what was read may be used."""

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
        self._folder = folder
        self._environment = environment
        self._authority = ""
        self._tls: ssl.SSLContext | None = None

    async def read(self) -> Access:
        """See Credentials. The files are small and in memory (tmpfs)."""
        host = self._environment.get("KUBERNETES_SERVICE_HOST", "")
        port = self._environment.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port:
            raise NoAccess(
                "this is no pod (no KUBERNETES_SERVICE_HOST): name a kubeconfig with --kubeconfig"
            )
        try:
            token = (self._folder / "token").read_text().strip()
            authority = (self._folder / "ca.crt").read_text()
            if self._tls is None or authority != self._authority:
                self._tls = tls.client_context(authority=authority)
                self._authority = authority
        except (OSError, ValueError, ssl.SSLError) as error:
            raise NoAccess(f"the service account in {self._folder}: {error}") from error
        if not token:
            raise NoAccess(f"the service account in {self._folder}: the token is empty")
        host = f"[{host}]" if ":" in host else host
        return Access(
            server=f"https://{host}:{port}", authorization=f"Bearer {token}", tls=self._tls
        )


class Kubeconfig:
    """A kubeconfig file: what kubectl uses, its plug-ins for credentials included."""

    seconds = 600.0

    def __init__(self, path: pathlib.Path, *, deadline: float = 30.0) -> None:
        self._path = path
        self._deadline = deadline

    async def read(self) -> Access:
        """See Credentials."""
        from kubernetes_asyncio import client, config  # noqa: PLC0415 - see the module

        found = client.Configuration()
        try:
            async with asyncio.timeout(self._deadline):
                await config.load_kube_config(
                    config_file=str(self._path), client_configuration=found, persist_config=False
                )
            server = (found.host or "").rstrip("/")
            context = None
            if server.startswith("https:"):
                context = _context(
                    found.ssl_ca_cert, found.cert_file, found.key_file, verify=found.verify_ssl
                )
        except (*_UNUSABLE, config.ConfigException) as error:
            raise NoAccess(f"the kubeconfig {self._path}: {error}") from error
        return Access(
            server=server,
            authorization=found.api_key.get("BearerToken", ""),
            tls=context,
            tls_name=found.tls_server_name,
            proxy=found.proxy,
        )


def _context(
    authority: str | None, certificate: str | None, key: str | None, *, verify: bool
) -> ssl.SSLContext:
    context = tls.client_context(
        authority=pathlib.Path(authority).read_text() if authority else None
    )
    if certificate:
        context.load_cert_chain(certificate, keyfile=key)
    if not verify:
        # The kubeconfig says insecure-skip-tls-verify, in so many words.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
