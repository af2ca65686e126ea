"""The kubelet's file that says which credential plug-ins there are, read as it reads it.

`kubelet.config.k8s.io/v1`, kind CredentialProviderConfig, in YAML or JSON. Source:
kubernetes pkg/credentialprovider/plugin/config.go. What the kubelet would not start
with is refused here, too: a typo in this file costs pulls, and is found only then.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from urllib import parse as urls

import msgspec
import yaml

from agent import errors
from agent.clients.registry import credentials
from agent.kits import durations
from agent.model import images

_VERSIONS = ("v1", "v1beta1", "v1alpha1")
_CONFIG_VERSIONS = tuple(f"kubelet.config.k8s.io/{version}" for version in _VERSIONS)
_PLUGIN_VERSIONS = tuple(f"credentialprovider.kubelet.k8s.io/{version}" for version in _VERSIONS)


class PluginConfigError(errors.PermanentError):
    """The configuration cannot be used. `path` is the file, `reason` names the field."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} is not a usable CredentialProviderConfig: {reason}")
        self.path = path
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A program that knows credentials for images which match one of `patterns`.

    `seconds` is how long an answer is kept that does not say so itself; 0: not at
    all. What is in `environment` may be secret and is not shown.
    """

    name: str
    api_version: str
    patterns: tuple[str, ...]
    seconds: float
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False, repr=False)

    def knows(self, reference: images.Reference) -> bool:
        """Whether it is to be asked about an image."""
        return any(credentials.matches(pattern, reference) for pattern in self.patterns)


class _Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str = ""


class _Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    name: str
    match_images: list[str]
    default_cache_duration: str
    api_version: str
    args: list[str] = []
    env: list[_Variable] = []
    token_attributes: object = None


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    api_version: str
    kind: str
    providers: list[_Provider]


def read(path: pathlib.Path) -> tuple[Plugin, ...]:
    """The plug-ins of a file; raise PluginConfigError."""
    try:
        config = msgspec.convert(yaml.safe_load(path.read_bytes()), type=_Config)
        return _plugins(config)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        # msgspec and yaml name the place and the type, and quote no values of `env`.
        raise PluginConfigError(str(path), " ".join(str(error).split())) from error


def _plugins(config: _Config) -> tuple[Plugin, ...]:
    if config.api_version not in _CONFIG_VERSIONS:
        raise ValueError(f"apiVersion: expected {_CONFIG_VERSIONS[0]}, not {config.api_version!r}")
    if config.kind != "CredentialProviderConfig":
        raise ValueError(f"kind: expected CredentialProviderConfig, not {config.kind!r}")
    if not config.providers:
        raise ValueError("providers: expected at least one")
    names = [provider.name for provider in config.providers]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"providers: the name {min(repeated)!r} is there twice")
    return tuple(map(_plugin, config.providers))


def _plugin(provider: _Provider) -> Plugin:
    name = provider.name
    # It is a file in the folder of plug-ins, and nothing outside of it.
    if not name or name in (".", "..") or re.search(r"[/\s\0]", name):
        raise ValueError(f"providers: {name!r} is not the name of a program")
    if provider.api_version not in _PLUGIN_VERSIONS:
        raise ValueError(
            f"providers {name}: apiVersion: expected {_PLUGIN_VERSIONS[0]},"
            f" not {provider.api_version!r}"
        )
    if provider.token_attributes is not None:
        raise ValueError(
            f"providers {name}: tokenAttributes: it wants the token of a pod's service account,"
            " which does not exist while an image is built for many pods"
        )
    return Plugin(
        name=name,
        api_version=provider.api_version,
        patterns=_patterns(name, provider.match_images),
        seconds=durations.seconds(provider.default_cache_duration),
        arguments=tuple(provider.args),
        environment={variable.name: variable.value for variable in provider.env},
    )


def _patterns(name: str, patterns: Sequence[str]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError(f"providers {name}: matchImages: expected at least one")
    for pattern in patterns:
        split = urls.urlsplit(f"https://{pattern}")
        if "://" in pattern or not split.netloc or split.query or split.fragment:
            raise ValueError(
                f"providers {name}: matchImages: expected host[:port][/path], not {pattern!r}"
            )
    return tuple(map(credentials.normalise, patterns))
