"""A host that is asked for the images of a registry: the registry itself, or a mirror of it.

The meaning of each field, what is the default, and what a request to a host looks like is
containerd's (core/remotes/docker/config/hosts.go, core/remotes/docker/resolver.go), so that a
build and a node ask the same hosts in the same way.
"""

import dataclasses
import enum
import ipaddress
import posixpath
from collections.abc import Sequence
from urllib import parse as urls

from agent.clients.registry import credentials
from agent.clients.registry.mirrors import rewrite_rules
from agent.model import images

HUB = "registry-1.docker.io"
"""The host of docker.io."""


class Capability(enum.Flag):
    """What a host may be asked for."""

    PULL = enum.auto()
    """Manifests and blobs by their digests, which verify them."""
    RESOLVE = enum.auto()
    """Manifests by a tag: this host is believed."""
    PUSH = enum.auto()
    REFERRERS = enum.auto()
    """The list of what refers to a manifest."""


EVERY = Capability.PULL | Capability.RESOLVE | Capability.PUSH | Capability.REFERRERS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host. `authority` is host and port of its URL, `path` the root of its API.

    `authorities` are PEM files trusted besides the system's, `client` pairs of files with a
    certificate and its key, `dial_timeout` seconds. `credential` is the one that a
    registries.yaml has for it. A host with an empty `authority` stands for the registry itself.
    """

    scheme: str = "https"
    authority: str = ""
    path: str = "/v2"
    capabilities: Capability = EVERY
    authorities: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool | None = None
    dial_timeout: float | None = None
    headers: tuple[tuple[str, str], ...] = ()
    rewrites: tuple[rewrite_rules.Rewrite, ...] = ()
    credential: credentials.Credential | None = None
    is_named: bool = True
    """Whether a file names it: what an ImageCache says of its registry is then not asked."""
    tries_tls: bool = False
    """Whether TLS is tried although the URL says http, before the host is asked without."""

    @property
    def has_tls_settings(self) -> bool:
        """Whether a file says how to speak TLS with it."""
        return bool(self.authorities or self.client) or self.skip_verify is not None

    @property
    def is_known_by_more(self) -> bool:
        """Whether it is shown a certificate or a header: what it gives may not be public."""
        return bool(self.client or self.headers)


def completed(hosts: Sequence[Host], registry: str, *, plain_http: bool) -> tuple[Host, ...]:
    """The hosts of a registry, with what containerd fills in.

    The last one may stand for the registry itself; `plain_http` says that this is spoken to
    without TLS.
    """
    filled = [*hosts[:-1], *(_own(each, registry, plain_http) for each in hosts[-1:])]
    return tuple(map(_with_scheme, filled))


def default(registry: str, *, plain_http: bool) -> Host:
    """The only host of a registry that no file is about."""
    scheme = "http" if plain_http else "https"
    return Host(scheme=scheme, authority=_host_of(registry), is_named=False)


def _host_of(registry: str) -> str:
    return HUB if registry == images.DEFAULT_REGISTRY else registry


def _own(host: Host, registry: str, plain_http: bool) -> Host:
    """The host that stands for a registry itself; another one as it is."""
    if host.authority:
        return host
    changes = {"path": "/v2", "capabilities": EVERY, "is_named": False}
    own = dataclasses.replace(host, authority=_host_of(registry), **changes)  # type: ignore[arg-type]
    port = urls.urlsplit(f"//{registry}").port
    if plain_http:
        return dataclasses.replace(own, scheme="http")
    if not is_loopback(registry):
        return dataclasses.replace(own, scheme="https")
    scheme = "https" if port in (None, 443) else "http"
    return dataclasses.replace(
        own, scheme=scheme, skip_verify=own.skip_verify if port == 80 else True
    )


def _with_scheme(host: Host) -> Host:
    """With settings for TLS, `http` on no port of its own means: try TLS first."""
    ambiguous = host.scheme == "http" and host.has_tls_settings
    if not ambiguous or urls.urlsplit(f"//{host.authority}").port == 80:
        return host
    return dataclasses.replace(host, scheme="https", tries_tls=True)


def is_loopback(authority: str) -> bool:
    """Whether a host, with or without a port, is this machine."""
    name = urls.urlsplit(f"//{authority}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """The repository of an image at a host.

    `reference` is the image as this host knows it: credentials are looked up by it. `is_own` says
    that the host is the image's registry itself.
    """

    host: Host
    reference: images.Reference
    root: str
    namespace: str

    @property
    def is_own(self) -> bool:
        """Whether the host is the registry that the image's name says."""
        return not self.namespace

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.host.scheme}://{self.host.authority}"

    def url(self, rest: str) -> str:
        """The URL of something in the repository; `rest` may have a query.

        The parameter `ns` names the registry to a mirror, as in containerd.
        """
        path, _, query = rest.partition("?")
        if self.namespace:
            said = urls.urlencode({"ns": self.namespace})
            query = f"{query}&{said}" if query else said
        return f"{self.origin}{self.root}/{path}" + (f"?{query}" if query else "")


def endpoint(host: Host, reference: images.Reference) -> Endpoint:
    """Where a host has the repository of an image."""
    repository = rewrite_rules.rewritten(host.rewrites, reference.repository)
    root = posixpath.normpath(f"/{host.path}/{repository}").replace("//", "/")
    is_own = host.authority in (reference.registry, _host_of(reference.registry))
    known = reference.registry if is_own else _without_port(host)
    at_host = root.removeprefix("/v2/").strip("/")
    return Endpoint(
        host,
        dataclasses.replace(reference, registry=known, repository=at_host),
        root,
        "" if is_own else reference.registry,
    )


def _without_port(host: Host) -> str:
    """The host as image names and docker configs have it: without the port of its scheme."""
    return host.authority.removesuffix(":443" if host.scheme == "https" else ":80")
