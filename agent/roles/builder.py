"""The builder: images from their registries into a store. It builds one cache and ends.

`uimgacc build` is the command of a Job (agent.control.jobs.job_manifest). It has no access to the
API server. It reports its progress in a file of the store, and the reason of a failure also in
the message of its container. `uimgacc create` calls `build`.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import pathlib
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence

from agent import errors
from agent.build import (
    build_report,
    cache_build,
    layer_build,
    limits,
    mkfs_erofs,
    scratch_room,
)
from agent.build.signatures import cosign, signature_policy
from agent.clients.registry import (
    acr,
    connections,
    credential_config,
    credential_plugins,
    credentials,
    distribution,
)
from agent.kits import flags, jsonlog
from agent.kits.processes import memory
from agent.model import images, records, reports
from agent.settings import build_settings
from agent.store import layout, signatures, trusted_keys
from agent.store.lookup import direct_reader
from agent.store.publish import attestation

logger = logging.getLogger(__name__)

MKFS_VARIABLE = "UIMGACC_MKFS"
"""The environment variable that names a mkfs.erofs other than the one on PATH."""

_OPEN_FILES = 4096
_MESSAGE_LIMIT = 2048
"""Bytes: of a termination message, the kubelet keeps 4096 of all containers together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What a build needs to know besides what to build."""

    store: pathlib.Path
    """The root folder of the store; it must be one already (agent.store.publish.writer.create)."""

    mkfs: str = ""
    """mkfs.erofs to use; empty: `UIMGACC_MKFS`, else the one on PATH."""

    scratch: pathlib.Path | None = None
    """A local folder with room for the largest layer, uncompressed; None: TMPDIR, else /tmp."""

    scratch_bytes: int | None = None
    """Bytes that the layers at work may take there together; None: as many as the disk has."""

    parallel: int = 3
    """Layers worked on at a time; each may take a processor and 40 MiB."""

    registries: connections.Options = dataclasses.field(default_factory=connections.Options)
    """How to talk to registries."""

    docker_configs: tuple[pathlib.Path, ...] = ()
    """Docker config JSON files with credentials, tried in this order."""

    plugin_config: pathlib.Path | None = None
    """The kubelet's CredentialProviderConfig; its plug-ins are asked after those files."""

    plugin_folder: pathlib.Path | None = None
    """Where the programs of the plug-ins are; None: beside their configuration."""

    signature_policy: pathlib.Path | None = None
    """The file that says which images need whose signature; None: every image may be built."""

    acr_instances: tuple[str, ...] = ()
    """Alibaba Cloud Container Registry instances to ask for passwords, as annotations name them."""

    witness: attestation.Attestation = dataclasses.field(default_factory=attestation.Attestation)
    """What this build vouches for, and which stored layers it uses."""


def ignore(progress: layer_build.Progress) -> None:
    """Show no progress."""


async def build(
    wanted: Settings,
    request: cache_build.Request,
    *,
    on_progress: Callable[[layer_build.Progress], None] = ignore,
) -> records.CacheRecord:
    """Build one cache; returns its record.

    Raises AgentError with a message for people: MkfsMissing, MkfsTooOld, NotAStore,
    UnknownFormat, ImageUnknown, AccessDenied, RegistryUnreachable, WrongPlatform,
    LayerMismatch, CacheTooLarge, DiskFull, StoreFull, PolicyError, NotSigned, and others of
    their modules.
    """
    _allow_open_files()
    direct_reader.open_store(wanted.store)
    command = wanted.mkfs or os.environ.get(MKFS_VARIABLE, "") or "mkfs.erofs"
    mkfs = await mkfs_erofs.find(command)
    available = memory.limit()
    provider = credentials.Chain(_providers(wanted))
    policy = signature_policy.read(wanted.signature_policy) if wanted.signature_policy else None
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(distribution.Client(provider, wanted.registries))
        tools = layer_build.Tools(
            store=layout.Layout(wanted.store),
            registry=client,
            mkfs=mkfs,
            scratch=scratch_room.Room(
                wanted.scratch or pathlib.Path(tempfile.gettempdir()), wanted.scratch_bytes
            ),
            machine=limits.Machine(memory=available, parallel=wanted.parallel),
            on_progress=on_progress,
            signatures=cosign.Verifier(policy, client) if policy else None,
            witness=wanted.witness,
        )
        return await cache_build.build_cache(request, tools)


def _providers(wanted: Settings) -> list[credentials.CredentialProvider]:
    """The sources of credentials, the most explicit first."""
    providers: list[credentials.CredentialProvider] = [
        credentials.read_docker_config(path) for path in wanted.docker_configs
    ]
    if wanted.plugin_config is not None:
        plugins = credential_config.read(wanted.plugin_config)
        folder = wanted.plugin_folder or wanted.plugin_config.parent
        providers.append(credential_plugins.Plugins(plugins, folder))
    if wanted.acr_instances:
        providers.append(acr.Acr(wanted.acr_instances, acr.options_of(os.environ)))
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to build, and how; `job` names the report, `termination` is a file for a failure."""

    settings: Settings
    request: cache_build.Request
    job: str = ""
    termination: pathlib.Path | None = None


class Stopped(errors.TemporaryError):
    """The build was stopped by SIGTERM: its cache was changed or deleted, or the node is drained.

    The layers that it has finished stay in the store for the next build.
    """

    def __init__(self) -> None:
        super().__init__("the build was stopped before it was done")


def parse(arguments: Sequence[str]) -> Wanted:
    """What flags and environment say; the process ends where they are wrong."""
    given = flags.read(
        build_settings.Build,
        arguments,
        program="uimgacc build",
        description="Builds one cache into the store, in a Job that the controller creates.",
        check=_problems,
    )
    return Wanted(
        settings=_settings(given),
        request=_request(given),
        job=given.job,
        termination=given.termination_message,
    )


def _problems(given: build_settings.Build) -> Iterator[str]:
    try:
        _request(given)
        _attestation(given.keys_json)
    except errors.AgentError as error:
        yield str(error)


def _request(given: build_settings.Build) -> cache_build.Request:
    """The cache to build; raise AgentError."""
    platforms = tuple(images.parse_platform(text) for text in given.platform)
    return cache_build.Request(
        cache_id=given.cache_id,
        name=given.name,
        references=tuple(images.parse_reference(text) for text in given.image),
        platforms=platforms or (own_platform(),),
        capacity=given.capacity_gib << 30,
        namespaces=given.namespace or None,
        retention_days=given.retention_days,
        every_platform=not given.some_platform,
        native=not given.no_native_layers,
        capacity_factor=given.capacity_factor,
        capacity_most=given.capacity_most,
    )


def _settings(given: build_settings.Build) -> Settings:
    return Settings(
        store=given.store,
        scratch=given.scratch,
        scratch_bytes=given.scratch_bytes,
        parallel=given.parallel,
        registries=connections.Options(
            plain_http=frozenset(given.plain_http),
            insecure=frozenset(given.insecure),
            denied=connections.denied(given.registry_deny, os.environ),
            allowed=frozenset(given.registry_allow),
            ca_file=str(given.ca or ""),
            mirrors=given.mirrors,
        ),
        docker_configs=_files(given.docker_configs),
        plugin_config=given.image_credential_provider_config,
        plugin_folder=given.image_credential_provider_bin_dir,
        acr_instances=given.acr_instance,
        signature_policy=given.signature_policy,
        witness=_attestation(given.keys_json),
    )


def _attestation(document: str) -> attestation.Attestation:
    """What is believed by the keys of a cluster; raises KeysUnusable."""
    if not document:
        return attestation.Attestation()
    keys = trusted_keys.decode(document.encode(), "--keys-json")
    trust = signatures.Trust(trusted_keys.keys_of(keys))
    return attestation.Attestation(keys.store, trust)


def _files(folder: pathlib.Path | None) -> tuple[pathlib.Path, ...]:
    """The files of a mounted Secret: the kubelet keeps others beside them, with dots."""
    if folder is None:
        return ()
    return tuple(path for path in sorted(folder.glob("*.json")) if not path.name.startswith("."))


async def _build(wanted: Wanted, reporter: build_report.Reporter) -> records.CacheRecord:
    """Build until it is done, or until SIGTERM: raise Stopped."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        registries = dataclasses.replace(wanted.settings.registries, on_retry=reporter.meter.retry)
        chosen = dataclasses.replace(wanted.settings, registries=registries)
        return await build(chosen, wanted.request, on_progress=reporter.meter)
    except asyncio.CancelledError:
        raise Stopped from None


def _run(wanted: Wanted) -> reports.Result:
    place = layout.Layout(wanted.settings.store)
    references = [str(each) for each in wanted.request.references]
    with build_report.Reporter(place, wanted.job, references) as reporter:
        try:
            record = asyncio.run(_build(wanted, reporter))
        except Stopped as error:
            # No result: whether another pod continues is the Job's decision.
            reporter.end(None)
            return reports.Result(reason=str(error))
        except (errors.AgentError, OSError) as error:
            result = reports.Result(reason=str(error)[:_MESSAGE_LIMIT] or type(error).__name__)
        else:
            layers = wanted.settings.witness.layers
            result = reports.Result(cache=record, layers=layers)
        reporter.end(result)
    return result


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    wanted = parse(arguments)
    with jsonlog.to_stderr():
        result = _run(wanted)
        if result.cache is None:
            logger.error("the build failed", extra={"reason": result.reason})
            _leave(wanted, result.reason)
            return 1
        _leave(wanted, wanted.settings.witness.message())
        logger.info(
            "built", extra={"cache": result.cache.id, "seconds": result.cache.build_seconds}
        )
    return 0


def _leave(wanted: Wanted, message: str) -> None:
    """Leave a message for the controller, by the kubelet: the way that is not the store."""
    if wanted.termination is not None:
        wanted.termination.write_bytes(message.encode()[:_MESSAGE_LIMIT])
