"""containerd's `hosts.toml`: which hosts have the images of one registry, and how to ask them.

Read as containerd reads it (core/remotes/docker/config/hosts.go): hosts in the order of their
tables in the file, then `server`; a folder without such a file may have the certificates of
Docker's layout. Where containerd writes a line to its log and goes on, a warning is returned. Two
fields are not containerd's own: `referrers` among the capabilities is known from 2.2 on, `rewrite`
is k3s's and RKE2's.
"""

import dataclasses
import posixpath
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib import parse as urls

import tomlkit
import tomlkit.items

from agent.clients.registry.mirrors import registry_host, rewrite_rules
from agent.kits import durations

NAME = "hosts.toml"

_CAPABILITIES = {
    "pull": registry_host.Capability.PULL,
    "resolve": registry_host.Capability.RESOLVE,
    "push": registry_host.Capability.PUSH,
    "referrers": registry_host.Capability.REFERRERS,
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
Locate = Callable[[str], str]
"""Where a file is that the hosts.toml names, by its path there."""


class HostsFileError(ValueError):
    """The file cannot be used: containerd would ignore it, and ask the registry itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """The hosts of a file, the last of which may stand for the registry itself."""

    hosts: tuple[registry_host.Host, ...]
    warnings: tuple[str, ...] = ()


def parse(text: str, locate: Locate) -> Parsed:
    """Read a hosts.toml; raise HostsFileError."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise HostsFileError(str(error)) from error
    tables = content.get("host", {})
    if not isinstance(tables, dict):
        raise HostsFileError('host: expected tables, as [host."https://mirror.example.com"]')
    inline = _written_inline(text)
    warnings = [f'host {url} is ignored: it is no table [host."{url}"]' for url in inline]
    hosts = [
        _host(url, _table(url, table), locate) for url, table in tables.items() if url not in inline
    ]
    server = content.get("server", "")
    if not isinstance(server, str):
        raise HostsFileError("server: expected a URL")
    hosts.append(_host(server, content, locate))
    return Parsed(tuple(hosts), tuple(warnings))


def _written_inline(text: str) -> list[str]:
    """The hosts that are no tables of their own: containerd looks for the headers of tables."""
    tables = tomlkit.parse(text).get("host", {})
    if isinstance(tables, tomlkit.items.InlineTable):
        return list(tables)
    return [url for url, value in tables.items() if isinstance(value, tomlkit.items.InlineTable)]


def _table(url: str, table: object) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise HostsFileError(f"host {url}: expected a table")
    return table


def address(text: str, *, keeps_path: bool) -> tuple[str, str, str]:
    """Scheme (https where there is none), authority and API root; raise HostsFileError."""
    full = text if text.startswith("http") else f"https://{text}"
    try:
        split = urls.urlsplit(full)
        _ = split.port
    except ValueError as error:
        raise HostsFileError(f"{text!r} is not a URL: {error}") from error
    if split.scheme not in ("http", "https") or not split.hostname:
        raise HostsFileError(f"{text!r} is not the URL of a host")
    if "@" in split.netloc:
        raise HostsFileError(
            "a URL has a user or a password in it, which belong into a pull secret"
        )
    path = split.path
    if path:
        path = posixpath.normpath(f"/{path}").replace("//", "/")
        if not path.endswith("/v2") and not keeps_path:
            path = f"{path.rstrip('/')}/v2"
    elif not keeps_path:
        path = "/v2"
    return split.scheme, split.netloc, path


def _host(url: str, table: Mapping[str, Any], locate: Locate) -> registry_host.Host:
    where = f"host {url}" if url else "server"
    try:
        scheme, authority, path = ("https", "", "/v2")
        if url:
            keeps_path = _of_type(table, "override_path", bool, default=False)
            scheme, authority, path = address(url, keeps_path=keeps_path)
        return registry_host.Host(
            scheme=scheme,
            authority=authority,
            path=path,
            capabilities=_capabilities(table.get("capabilities", [])),
            authorities=tuple(map(locate, _files(table, "ca"))),
            client=_client(table.get("client", []), locate),
            skip_verify=_of_type(table, "skip_verify", bool, default=None),
            dial_timeout=_timeout(_of_type(table, "dial_timeout", str, default="")),
            headers=_headers(_of_type(table, "header", dict, default={})),
            rewrites=_rewrites(_of_type(table, "rewrite", dict, default={})),
        )
    except ValueError as error:
        raise HostsFileError(f"{where}: {error}") from error


def _of_type(table: Mapping[str, Any], name: str, kind: type, *, default: Any) -> Any:
    value = table.get(name, default)
    if name in table and not isinstance(value, kind):
        raise HostsFileError(f"{name}: expected a {kind.__name__}, not {value!r}")
    return value


def _capabilities(names: object) -> registry_host.Capability:
    if not isinstance(names, list):
        raise HostsFileError(f"capabilities: expected a list, not {names!r}")
    capabilities = registry_host.Capability(0)
    for name in names:
        known = _CAPABILITIES.get(name.lower()) if isinstance(name, str) else None
        if known is None:
            raise ValueError(f"unknown capability {name!r}")
        capabilities |= known
    return capabilities or registry_host.EVERY


def _strings(value: object, name: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise HostsFileError(f"{name}: expected a string or a list of strings")


def _files(table: Mapping[str, Any], name: str) -> list[str]:
    return _strings(table[name], name) if name in table else []


def _client(value: object, locate: Locate) -> tuple[tuple[str, str], ...]:
    """Pairs of certificate and key; without a key it is in the file of the certificate."""
    pairs: list[tuple[str, str]] = []
    for each in [value] if isinstance(value, str) else _list(value):
        files = _strings(each, "client")
        if isinstance(each, list) and len(files) != 2:
            raise HostsFileError(f"client: expected a certificate and a key, not {each!r}")
        certificate, key = (*files, "")[:2]
        # containerd joins an empty name, too, which is then the folder, and fails.
        pairs.append((locate(certificate), locate(key) if key else ""))
    return tuple(pairs)


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise HostsFileError(f"client: expected a file, files, or pairs of files, not {value!r}")
    return value


def _headers(table: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    pairs = [(name, text) for name, value in table.items() for text in _strings(value, name)]
    for name, text in pairs:
        if not _HEADER_NAME.fullmatch(name) or any(mark in text for mark in "\r\n\0"):
            # Not the value: it may be a password.
            raise ValueError(f"header {name!r} cannot be sent")
    return tuple(pairs)


def _rewrites(table: Mapping[str, object]) -> tuple[rewrite_rules.Rewrite, ...]:
    return rewrites_of({name: "".join(_strings(value, name)) for name, value in table.items()})


def rewrites_of(patterns: Mapping[str, str]) -> tuple[rewrite_rules.Rewrite, ...]:
    """Rewrites of pattern and replacement; raise ValueError."""
    return tuple(rewrite_rules.Rewrite(pattern, template) for pattern, template in patterns.items())


def _timeout(text: str) -> float | None:
    return durations.seconds(text) if text else None


def of_certificates(names: Sequence[str], locate: Locate) -> registry_host.Host:
    """The registry itself, with the certificates of Docker's layout: *.crt, *.cert and *.key."""
    chosen = sorted(names)
    clients = [name for name in chosen if name.endswith(".cert")]
    keys = {name: f"{name.removesuffix('.cert')}.key" for name in clients}
    return registry_host.Host(
        authorities=tuple(locate(name) for name in chosen if name.endswith(".crt")),
        client=tuple(
            (locate(name), locate(keys[name]) if keys[name] in chosen else "") for name in clients
        ),
        is_named=False,
    )
