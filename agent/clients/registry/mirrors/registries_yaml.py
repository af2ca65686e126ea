"""`registries.yaml` of k3s and RKE2, translated to the hosts that these write for containerd.

Source: k3s pkg/agent/containerd/config.go (getHostConfigs), rancher/wharfie pkg/registries. As
there, an endpoint is a mirror that may be asked for tags, the registry itself comes last, `configs`
are found by the host of an endpoint, and `*` stands for all registries that are not named.
"""

import dataclasses
import posixpath
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from agent.clients.registry import credentials
from agent.clients.registry.mirrors import hosts_toml, registry_host
from agent.model import images

NAME = "registries.yaml"
EVERY = "*"
"""The key of all registries that have none of their own."""

_MIRROR = registry_host.Capability.PULL | registry_host.Capability.RESOLVE
_API_ROOTS = ("", "/", "/v2")
_TAG = "tag:yaml.org,2002:"
_TRUE = ("y", "yes", "true", "on")
_FALSE = ("", "n", "no", "false", "off")


class _Loader(yaml.SafeLoader):
    """Reads all but nothing as text, which a Go program takes for what its field is."""


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


_Loader.yaml_implicit_resolvers = {
    first: [each for each in rules if each[0] in (f"{_TAG}null", f"{_TAG}merge")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in ("bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _text)


class _Mirror(msgspec.Struct, frozen=True):
    endpoint: list[str] | None = None
    rewrite: dict[str, str] | None = None


class _Auth(msgspec.Struct, frozen=True):
    username: str | None = None
    password: str | None = None
    auth: str | None = None
    identity_token: str | None = None


class _Tls(msgspec.Struct, frozen=True):
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    insecure_skip_verify: str | None = None


class _Config(msgspec.Struct, frozen=True):
    auth: _Auth | None = None
    tls: _Tls | None = None


class _Document(msgspec.Struct, frozen=True):
    mirrors: dict[str, _Mirror | None] | None = None
    configs: dict[str, _Config | None] | None = None


_Configs = Mapping[str, _Config]


def parse(text: str, locate: hosts_toml.Locate) -> dict[str, hosts_toml.Parsed]:
    """The hosts of each registry that the file names, and of EVERY; raise HostsFileError."""
    try:
        document = msgspec.convert(_loaded(text) or {}, type=_Document)
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
        # Both name the place, and quote no value of a field.
        raise hosts_toml.HostsFileError(_first_line(error)) from error
    configs = {host: config or _Config() for host, config in (document.configs or {}).items()}
    registries: dict[str, hosts_toml.Parsed] = {}
    for registry in configs:
        own = _own(_config(configs, registry), locate)
        if own != _nothing_said():
            registries[registry] = hosts_toml.Parsed((own,))
    for registry, mirror in (document.mirrors or {}).items():
        hosts = _mirrored(registry, mirror or _Mirror(), configs, locate)
        if len(hosts.hosts) > 1 or hosts.hosts[0] != _nothing_said():
            registries[registry] = hosts
    return registries


def _loaded(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _first_line(error: Exception) -> str:
    problem = getattr(error, "problem", None)
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {problem}" if problem and mark else " ".join(str(error).split())


def _nothing_said() -> registry_host.Host:
    return registry_host.Host(authority="")


def _mirrored(
    registry: str, mirror: _Mirror, configs: _Configs, locate: hosts_toml.Locate
) -> hosts_toml.Parsed:
    """The endpoints of a registry, then the registry itself."""
    try:
        rewrites = hosts_toml.rewrites_of(mirror.rewrite or {})
    except ValueError as error:
        raise hosts_toml.HostsFileError(f"mirrors {registry}: rewrite: {error}") from error
    own = _nothing_said()
    if registry != EVERY:
        own = _own(_config(configs, registry), locate)
    endpoints: dict[str, registry_host.Host] = {}
    warnings: list[str] = []
    texts = mirror.endpoint or []
    for position, text in enumerate(texts):
        try:
            host = _endpoint(text)
        except ValueError as error:
            warnings.append(f"mirrors {registry}: an endpoint is ignored: {error}")
            continue
        host = _configured(host, _config(configs, host.authority), locate)
        host = dataclasses.replace(host, rewrites=rewrites)
        if position + 1 == len(texts) and _is_itself(host, registry):
            own = dataclasses.replace(own, rewrites=rewrites)
        else:
            endpoints.setdefault(f"{host.scheme}://{host.authority}{host.path}", host)
    return hosts_toml.Parsed((*endpoints.values(), own), tuple(warnings))


def _endpoint(text: str) -> registry_host.Host:
    """The host of an endpoint, its path being the root of the API where it has one."""
    odd = text
    if "://" not in text:
        authority = text.partition("/")[0]
        port = authority.rpartition("]")[2].partition(":")[2]
        plain = registry_host.is_loopback(authority) and port not in ("", "443")
        odd = f"{'http' if plain else 'https'}://{text}"
    scheme, authority, path = hosts_toml.address(odd, keeps_path=True)
    authority = registry_host.HUB if authority == images.DEFAULT_REGISTRY else authority
    path = "/v2" if path in _API_ROOTS else posixpath.normpath(path)
    return registry_host.Host(scheme=scheme, authority=authority, path=path, capabilities=_MIRROR)


def _is_itself(host: registry_host.Host, registry: str) -> bool:
    try:
        own = _endpoint(registry)
    except ValueError:
        return False
    return (host.scheme, host.authority, host.path) == (own.scheme, own.authority, own.path)


def _config(configs: _Configs, host: str) -> _Config:
    """What the file says of a host: that of docker.io may stand under either of its names."""
    if host in (images.DEFAULT_REGISTRY, registry_host.HUB):
        names = (registry_host.HUB, images.DEFAULT_REGISTRY)
        return next((configs[name] for name in names if name in configs), _Config())
    return configs.get(host, _Config())


def _own(config: _Config, locate: hosts_toml.Locate) -> registry_host.Host:
    return _configured(_nothing_said(), config, locate)


def _configured(
    host: registry_host.Host, config: _Config, locate: hosts_toml.Locate
) -> registry_host.Host:
    """A host with its certificates and its user."""
    tls = config.tls or _Tls()
    if bool(tls.cert_file) != bool(tls.key_file):
        raise hosts_toml.HostsFileError(
            f"configs {host.authority}: expected cert_file and key_file, not one of them"
        )
    client: tuple[tuple[str, str], ...] = ()
    if tls.cert_file and tls.key_file:
        client = ((locate(tls.cert_file), locate(tls.key_file)),)
    return dataclasses.replace(
        host,
        authorities=(locate(tls.ca_file),) if tls.ca_file else (),
        client=client,
        skip_verify=True if _truth(tls.insecure_skip_verify or "") else None,
        credential=_credential(config.auth),
    )


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise hosts_toml.HostsFileError(f"insecure_skip_verify: expected true or false, not {text}")
    return text.lower() in _TRUE


def _credential(auth: _Auth | None) -> credentials.Credential | None:
    if auth is None:
        return None
    try:
        return credentials.of_parts(
            NAME,
            auth=auth.auth or "",
            username=auth.username or "",
            password=auth.password or "",
            identity_token=auth.identity_token or "",
        )
    except credentials.CredentialsFileError as error:
        raise hosts_toml.HostsFileError(error.reason) from error
