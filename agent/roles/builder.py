"""The builder: images from their registries into a store. Runs once and ends."""

import contextlib
import dataclasses
import os
import pathlib
import resource
import tempfile
from collections.abc import Callable

from agent.build import cache_build, layer_build, mkfs_erofs
from agent.clients.registry import (
    acr,
    credential_config,
    credential_plugins,
    credentials,
    distribution,
)
from agent.model import images, records
from agent.store import layout
from agent.store.lookup import direct_reader

MKFS_VARIABLE = "UIMGACC_MKFS"
"""The environment variable that names a mkfs.erofs other than the one on PATH."""

_OPEN_FILES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What a build needs to know besides what to build."""

    store: pathlib.Path
    """The root folder of the store; it must be one already (`store.publishing.create`)."""

    mkfs: str = ""
    """mkfs.erofs to use; empty: `UIMGACC_MKFS`, else the one on PATH."""

    scratch: pathlib.Path | None = None
    """A local folder with room for the largest layer, uncompressed; None: TMPDIR, else /tmp."""

    parallel: int = 3
    """Layers worked on at a time; each may take a processor and 40 MiB."""

    registries: distribution.Options = dataclasses.field(default_factory=distribution.Options)
    """How to talk to registries."""

    docker_configs: tuple[pathlib.Path, ...] = ()
    """Docker config JSON files with credentials, tried in this order."""

    plugin_config: pathlib.Path | None = None
    """The kubelet's CredentialProviderConfig; its plug-ins are asked after those files."""

    plugin_folder: pathlib.Path | None = None
    """Where the programs of the plug-ins are; None: beside their configuration."""

    acr_instances: tuple[str, ...] = ()
    """Alibaba Cloud Container Registry instances to ask for passwords, as annotations name them."""


def ignore(progress: layer_build.Progress) -> None:
    """Show no progress."""


async def build(
    settings: Settings,
    request: cache_build.Request,
    *,
    on_progress: Callable[[layer_build.Progress], None] = ignore,
) -> records.CacheRecord:
    """Build one cache; returns its record.

    Raises AgentError with a message for people: MkfsMissing, MkfsTooOld, NotAStore,
    UnknownFormat, ImageUnknown, AccessDenied, RegistryUnreachable, WrongPlatform,
    LayerMismatch, CacheTooLarge, DiskFull, StoreFull, and others of their modules.
    """
    _allow_open_files()
    direct_reader.open_store(settings.store)
    command = settings.mkfs or os.environ.get(MKFS_VARIABLE, "") or "mkfs.erofs"
    mkfs = await mkfs_erofs.find(command)
    provider = credentials.Chain(_providers(settings))
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(distribution.Client(provider, settings.registries))
        tools = layer_build.Tools(
            store=layout.Layout(settings.store),
            registry=client,
            mkfs=mkfs,
            scratch=settings.scratch or pathlib.Path(tempfile.gettempdir()),
            parallel=settings.parallel,
            on_progress=on_progress,
        )
        return await cache_build.build_cache(request, tools)


def _providers(settings: Settings) -> list[credentials.CredentialProvider]:
    """The sources of credentials, the most explicit first."""
    providers: list[credentials.CredentialProvider] = [
        credentials.read_docker_config(path) for path in settings.docker_configs
    ]
    if settings.plugin_config is not None:
        plugins = credential_config.read(settings.plugin_config)
        folder = settings.plugin_folder or settings.plugin_config.parent
        providers.append(credential_plugins.Plugins(plugins, folder))
    if settings.acr_instances:
        providers.append(acr.Acr(settings.acr_instances, acr.options_of(os.environ)))
    return providers


def _allow_open_files() -> None:
    """mkfs.erofs 1.8 has 130 files open at a time, and hangs for ever when it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def own_platform() -> images.Platform:
    """The platform of this machine, which is built for unless another one is named."""
    return images.platform_of_machine(os.uname().machine)
