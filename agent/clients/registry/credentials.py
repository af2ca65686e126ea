"""Credentials for registries. Providers are asked in order.

The matching of a docker config's keys to an image is the kubelet's
(kubernetes pkg/credentialprovider/keyring.go): a key is a host, with a port and a
path prefix where it has them; `*` stands for one label, or a part of it, of the
host; the longest key wins, and several that match are tried in turn.
"""

import base64
import dataclasses
import fnmatch
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol
from urllib import parse as urls

import msgspec

from agent import errors
from agent.model import images

DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
"""The names of Docker Hub: all mean the same registry."""


class CredentialsFileError(errors.PermanentError):
    """A docker config JSON cannot be used. `path` is the file, `reason` what is wrong."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} is not a docker config JSON: {reason}")
        self.path = path
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Credential:
    """A user name and password, or an identity token (an OAuth2 refresh token).

    `source` is for messages: where the credential is from, without anything secret. If there is
    neither password nor token, `source` says why this source had none.
    """

    source: str
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to try."""
        return not (self.username or self.password or self.identity_token)


class CredentialProvider(Protocol):
    """One source of credentials. It may raise TemporaryError, and can be asked again after that."""

    async def credentials(self, reference: images.Reference) -> Sequence[Credential]:
        """Credentials that may work for the image's repository, the best first; empty for none."""


class Chain:
    """Several providers as one: the credentials of all, in their order."""

    def __init__(self, providers: Sequence[CredentialProvider]) -> None:
        self._providers = providers

    async def credentials(self, reference: images.Reference) -> Sequence[Credential]:
        """What all providers know about an image, in order, without repetition."""
        distinct: list[Credential] = []
        for provider in self._providers:
            for credential in await provider.credentials(reference):
                if credential not in distinct:
                    distinct.append(credential)
        return distinct


class Given:
    """One credential for every image, or none: for a client that talks to a single host."""

    def __init__(self, credential: Credential | None) -> None:
        self._credentials = [credential] if credential is not None else []

    async def credentials(self, reference: images.Reference) -> Sequence[Credential]:
        """That credential."""
        del reference
        return self._credentials


class _Auth(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfig(msgspec.Struct, frozen=True):
    auths: dict[str, _Auth] = {}


class Keyring:
    """Credentials by the key of what they open (see the module)."""

    def __init__(self, entries: Mapping[str, Credential]) -> None:
        self._entries = sorted(
            ((normalise(key), credential) for key, credential in entries.items()),
            key=lambda entry: entry[0],
            reverse=True,
        )

    async def credentials(self, reference: images.Reference) -> Sequence[Credential]:
        """The credentials of all keys that match, the most specific first."""
        return [credential for key, credential in self._entries if matches(key, reference)]


class DockerConfig(Keyring):
    """The `auths` of one docker config JSON (`.dockerconfigjson`), or of a `.dockercfg`."""

    def __init__(self, data: bytes, *, source: str) -> None:
        """Read it; raise CredentialsFileError where it is none. `source` names it in messages."""
        entries = {key: _credential(auth, source) for key, auth in _auths(data, source)}
        super().__init__({key: value for key, value in entries.items() if value is not None})


def docker_config(hosts: Iterable[str], *, username: str, password: str) -> bytes:
    """The docker config JSON that has one user for some hosts: what a pull secret holds."""
    auth = base64.b64encode(f"{username}:{password}".encode()).decode()
    return msgspec.json.encode({"auths": {host: {"auth": auth} for host in hosts}})


def read_docker_config(path: pathlib.Path) -> DockerConfig:
    """Read a docker config JSON from a local file; raise CredentialsFileError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CredentialsFileError(str(path), str(error)) from error
    return DockerConfig(data, source=str(path))


def _auths(data: bytes, source: str) -> list[tuple[str, _Auth]]:
    try:
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "auths" not in raw and not {"credsStore", "credHelpers", "HttpHeaders"} & raw.keys():
            return list(msgspec.json.decode(data, type=dict[str, _Auth]).items())
        return list(msgspec.json.decode(data, type=_DockerConfig).auths.items())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The library's message names the field, never its value.
        raise CredentialsFileError(source, str(error)) from error


def _credential(auth: _Auth, source: str) -> Credential | None:
    return of_parts(
        source,
        auth=auth.auth,
        username=auth.username,
        password=auth.password,
        identity_token=auth.identitytoken,
    )


def of_parts(
    source: str, *, auth: str, username: str, password: str, identity_token: str
) -> Credential | None:
    """A credential as files have it, where `auth` is base64 of user:password and wins.

    None where there is nothing in it. Raises CredentialsFileError.
    """
    if auth:
        try:
            decoded = base64.b64decode("".join(auth.split()), validate=True).decode()
        except ValueError as error:
            raise CredentialsFileError(source, "an `auth` is not base64 of user:password") from (
                error
            )
        username, _, password = decoded.rstrip("\x00").partition(":")
    credential = Credential(source, username, password, identity_token)
    return None if credential.empty else credential


def normalise(key: str) -> str:
    """`https://index.docker.io/v1/` -> `index.docker.io`; `host:5000/team/` -> `host:5000/team`."""
    try:
        split = urls.urlsplit(key if "://" in key else f"https://{key}")
    except ValueError:
        return key  # no URL (`[::1`), so of no registry
    path = split.path.rstrip("/")
    for version in ("/v1", "/v2"):
        if path == version or path.startswith(f"{version}/"):
            path = path.removeprefix(version)
    return split.netloc + path


def matches(key: str, reference: images.Reference) -> bool:
    """Whether a normalised key stands for an image's repository."""
    host, _, prefix = key.partition("/")
    if reference.registry == images.DEFAULT_REGISTRY and host in DOCKER_HUB:
        host = reference.registry
    if not host_matches(host, reference.registry):
        return False
    return not prefix or f"{reference.repository}/".startswith(f"{prefix}/")


def host_matches(pattern: str, host: str) -> bool:
    """Whether a host, with its port, is one that a pattern stands for, label by label."""
    pattern_name, _, pattern_port = pattern.partition(":")
    name, _, port = host.partition(":")
    if pattern_port != port:
        return False
    patterns, labels = pattern_name.split("."), name.split(".")
    return len(patterns) == len(labels) and all(
        fnmatch.fnmatchcase(label, part) for label, part in zip(labels, patterns, strict=True)
    )
