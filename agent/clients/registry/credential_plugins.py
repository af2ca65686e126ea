"""The kubelet's credential plug-ins: whatever opens registries on nodes opens them here.

A plug-in is asked on its standard input and answers on its standard output
(`credentialprovider.kubelet.k8s.io`); how long an answer holds, and for which
images, it says itself. Source: kubernetes pkg/credentialprovider/plugin/plugin.go.
"""

import asyncio
import dataclasses
import enum
import logging
import os
import pathlib
from collections.abc import Sequence

import msgspec

from agent import errors
from agent.clients.registry import credential_config, credentials
from agent.kits import durations
from agent.kits.processes import programs
from agent.model import images

logger = logging.getLogger(__name__)

DEADLINE = 60.0
"""Seconds that a plug-in may take; the kubelet gives it as much."""

_ANSWER_LIMIT = 1 << 20
_KEPT = 256


class PluginFailed(errors.TemporaryError):
    """A plug-in gave no usable answer. `name` is its program, `reason` what happened."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the credential plug-in {name}: {reason}")
        self.name = name
        self.reason = reason


class _KeyType(enum.Enum):
    """What an answer is good for: the image, its registry, or everything."""

    IMAGE = "Image"
    REGISTRY = "Registry"
    GLOBAL = "Global"


class _Login(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    cache_key_type: _KeyType
    cache_duration: str | None = None
    auth: dict[str, _Login] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """An answer, and until when it holds on the loop's clock."""

    keyring: credentials.Keyring
    until: float


class Plugins:
    """A CredentialProvider: all plug-ins of a configuration, in its order.

    One that fails is as one that knows nothing, as in the kubelet: another may know
    enough. The log says why.
    """

    def __init__(
        self,
        plugins: Sequence[credential_config.Plugin],
        folder: pathlib.Path,
        *,
        deadline: float = DEADLINE,
    ) -> None:
        """`folder` is where the programs are; `deadline` is for each, in seconds."""
        self._plugins = plugins
        self._folder = folder
        self._deadline = deadline
        self._kept: dict[tuple[str, _KeyType, str], _Kept] = {}
        self._locks = {plugin.name: asyncio.Lock() for plugin in plugins}

    async def _keyring(
        self, plugin: credential_config.Plugin, reference: images.Reference
    ) -> credentials.Keyring:
        # A lock a plug-in: images of one registry that come together are one question.
        async with self._locks[plugin.name]:
            now = asyncio.get_running_loop().time()
            for kind in _KeyType:
                kept = self._kept.get((plugin.name, kind, _key(kind, reference)))
                if kept is not None and now < kept.until:
                    return kept.keyring
            answer, lifetime = await self._ask(plugin, reference)
            source = f"credential plug-in {plugin.name}"
            keyring = credentials.Keyring(
                {
                    key: credentials.Credential(source, login.username, login.password)
                    for key, login in (answer.auth or {}).items()
                }
            )
            if lifetime:
                self._keep(plugin, reference, answer.cache_key_type, _Kept(keyring, now + lifetime))
            return keyring

    def _keep(
        self,
        plugin: credential_config.Plugin,
        reference: images.Reference,
        kind: _KeyType,
        kept: _Kept,
    ) -> None:
        self._kept[plugin.name, kind, _key(kind, reference)] = kept
        while len(self._kept) > _KEPT:
            del self._kept[min(self._kept, key=lambda key: self._kept[key].until)]

    async def _ask(
        self, plugin: credential_config.Plugin, reference: images.Reference
    ) -> tuple[_Answer, float]:
        """What a plug-in answers, and for how many seconds that holds; raise PluginFailed."""
        request = {
            "kind": "CredentialProviderRequest",
            "apiVersion": plugin.api_version,
            "image": reference.name,
        }
        output = await self._run(plugin, msgspec.json.encode(request))
        try:
            answer = msgspec.json.decode(output, type=_Answer)
            if answer.cache_duration is None:
                lifetime = plugin.seconds
            else:
                lifetime = durations.seconds(answer.cache_duration)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            # The library's messages name fields and types, never their values.
            raise PluginFailed(plugin.name, f"its answer cannot be read: {error}") from error
        said = (answer.api_version, answer.kind)
        if said != (plugin.api_version, "CredentialProviderResponse"):
            raise PluginFailed(plugin.name, f"it answers {said[0]} {said[1]}")
        return answer, lifetime

    async def _run(self, plugin: credential_config.Plugin, request: bytes) -> bytes:
        program = self._folder / plugin.name
        try:
            ended = await programs.run(
                program,
                plugin.arguments,
                environment={**os.environ, **plugin.environment},
                bounds=programs.Bounds(deadline=self._deadline, output=_ANSWER_LIMIT),
                request=request,
            )
        except TimeoutError as error:
            raise PluginFailed(plugin.name, f"no answer within {self._deadline:g} s") from error
        except OSError as error:
            raise PluginFailed(plugin.name, f"{program}: {error.strerror}") from error
        if ended.status:
            raise PluginFailed(plugin.name, f"status {ended.status}: {ended.last_words()}")
        if len(ended.output) > _ANSWER_LIMIT:
            raise PluginFailed(plugin.name, f"it answers more than {_ANSWER_LIMIT} bytes")
        return ended.output

    async def credentials(self, reference: images.Reference) -> Sequence[credentials.Credential]:
        """See credentials.CredentialProvider."""
        answers: list[credentials.Credential] = []
        for plugin in self._plugins:
            if not plugin.knows(reference):
                continue
            try:
                keyring = await self._keyring(plugin, reference)
            except PluginFailed as error:
                logger.warning("a credential plug-in failed", extra={"reason": str(error)})
                continue
            answers.extend(await keyring.credentials(reference))
        return answers


def _key(kind: _KeyType, reference: images.Reference) -> str:
    return {
        _KeyType.IMAGE: reference.name,
        _KeyType.REGISTRY: reference.registry,
        _KeyType.GLOBAL: "",
    }[kind]
