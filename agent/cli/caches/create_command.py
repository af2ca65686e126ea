"""`uimgacc create --store`: a cache built in this process, with a bar for each layer."""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import rich.progress
import yaml

from agent import errors
from agent.build import cache_build, layer_build
from agent.cli import output
from agent.cli.caches import store_caches
from agent.clients.registry import connections, failures
from agent.kits import networks, units
from agent.model import cache_manifest, caches, images, keys, records
from agent.roles import builder
from agent.store import decoding
from agent.store.lookup import direct_reader
from agent.store.publish import writer

_DIGEST_SHOWN = len("sha256:") + 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line says; empty where it says nothing."""

    name: str = ""
    images: tuple[str, ...] = ()
    file: str = ""
    size_gib: int | None = None
    secrets: tuple[pathlib.Path, ...] = ()
    namespaces: tuple[str, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    plain_http: frozenset[str] = frozenset()
    insecure: frozenset[str] = frozenset()
    ca: pathlib.Path | None = None
    mirrors: tuple[pathlib.Path, ...] = ()
    plugin_config: pathlib.Path | None = None
    plugin_folder: pathlib.Path | None = None
    signature_policy: pathlib.Path | None = None
    acr_instances: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    retention_days: int | None = None
    parallel: int = 3
    mkfs: str = ""


def create(store: pathlib.Path, wanted: Wanted, *, as_json: bool) -> None:
    """Build the caches; the store is created where there is none yet."""
    requests = requests_of(wanted)
    if ensure_store(store):
        output.say(f"created a store in {store}")
    built = []
    for request in requests:
        for remark in request.remarks:
            output.say(f"{request.name}: {remark}")
        started = time.monotonic()
        record = _build(store, request, wanted, quiet=as_json)
        built.append(record)
        if not as_json:
            _summarise(store, record, time.monotonic() - started)
    if as_json:
        shown = [msgspec.to_builtins(record) for record in built]
        output.show_json(shown if wanted.file else shown[0])


def requests_of(wanted: Wanted) -> list[caches.CacheRequest]:
    """What to build; raise UsageError where the command line contradicts itself."""
    if wanted.file:
        if wanted.name or wanted.images:
            raise output.UsageError("give either --file, or a name and --image")
        manifests = manifests_in(wanted.file)
        return [_adjusted(cache_manifest.read(each), wanted) for each in manifests]
    if not wanted.name or not wanted.images:
        raise output.UsageError("give a name and at least one --image, or --file")
    draft = cache_manifest.Draft(name=wanted.name, images=wanted.images)
    return [_adjusted(cache_manifest.read(cache_manifest.write(draft)), wanted)]


def ensure_store(store: pathlib.Path) -> bool:
    """Make the folder a store if it is none and empty; says whether it did."""
    try:
        direct_reader.open_store(store)
    except decoding.NotAStore:
        writer.create(store)
        return True
    return False


def manifests_in(name: str) -> list[Mapping[str, Any]]:
    """The ImageCaches in a file, or in stdin for `-`, which can be read but once."""
    manifests: list[Mapping[str, Any]] = [
        document
        for document in read_documents(name)
        if isinstance(document, dict) and document.get("kind") == keys.IMAGE_CACHE
    ]
    if not manifests:
        raise output.UsageError(f"{name}: no {keys.IMAGE_CACHE} in it")
    return manifests


def read_documents(name: str) -> list[object]:
    """The YAML documents of a file, or of stdin for `-`; empty ones left out."""
    try:
        text = sys.stdin.read() if name == "-" else pathlib.Path(name).read_text(encoding="utf-8")
        return [document for document in yaml.safe_load_all(text) if document is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise output.UsageError(f"{name}: {' '.join(str(error).split())}") from error


def _adjusted(request: caches.CacheRequest, wanted: Wanted) -> caches.CacheRequest:
    """The request with what the command line says besides it."""
    changed = dataclasses.replace(
        request,
        plain_http_registries=tuple({*request.plain_http_registries, *wanted.plain_http}),
        insecure_registries=tuple({*request.insecure_registries, *wanted.insecure}),
    )
    if wanted.size_gib is not None:
        changed = dataclasses.replace(changed, size_gib=wanted.size_gib)
    if wanted.retention_days is not None:
        changed = dataclasses.replace(changed, retention_days=wanted.retention_days)
    if request.pull_secrets and not wanted.secrets:
        named = ", ".join(map(str, request.pull_secrets))
        remark = f"without a cluster the Secrets {named} cannot be read; give --secret FILE"
        changed = dataclasses.replace(changed, remarks=(*request.remarks, remark))
    return changed


def _namespaces(request: caches.CacheRequest, wanted: Wanted) -> tuple[str, ...] | None:
    if wanted.namespaces:
        return tuple(sorted(set(wanted.namespaces)))
    if request.serves or request.namespaces is not None:
        return None if request.namespaces is None else tuple(request.namespaces)
    return ("default",) if wanted.secrets else None


def _platforms(request: caches.CacheRequest, wanted: Wanted) -> tuple[images.Platform, ...]:
    if wanted.platforms:
        return tuple(images.parse_platform(text) for text in wanted.platforms)
    if request.architecture:
        return (images.parse_platform(f"linux/{request.architecture}"),)
    return (builder.own_platform(),)


def _build(
    store: pathlib.Path, request: caches.CacheRequest, wanted: Wanted, *, quiet: bool
) -> records.CacheRecord:
    if wanted.ca is not None and not wanted.ca.is_file():
        raise output.UsageError(f"{wanted.ca}: no such file")
    for path in wanted.mirrors:
        if not path.exists():
            raise output.UsageError(f"{path}: no such folder or file")
    settings = builder.Settings(
        store=store,
        mkfs=wanted.mkfs,
        parallel=wanted.parallel,
        registries=connections.Options(
            plain_http=frozenset(request.plain_http_registries),
            insecure=frozenset(request.insecure_registries),
            denied=networks.parse(networks.OWN_HOST),
            # The person who runs the command names them; what they redirect to is not named.
            allowed=frozenset(image.registry for image in request.images),
            ca_file=str(wanted.ca or ""),
            mirrors=wanted.mirrors,
        ),
        docker_configs=wanted.secrets,
        plugin_config=wanted.plugin_config,
        plugin_folder=wanted.plugin_folder,
        signature_policy=wanted.signature_policy,
        acr_instances=(*request.acr_instances, *wanted.acr_instances),
    )
    build = cache_build.Request(
        cache_id=request.cache_id,
        name=request.name,
        references=request.images,
        platforms=_platforms(request, wanted),
        capacity=request.capacity,
        namespaces=_namespaces(request, wanted),
        retention_days=request.retention_days,
    )
    with _progress(quiet=quiet) as on_progress, _remarks():
        try:
            return asyncio.run(builder.build(settings, build, on_progress=on_progress))
        except failures.ImageUnknown as error:
            raise output.NotFound(str(error), name=error.reference) from error


class _Remarks(logging.Handler):
    """Shows warnings of a build with what they are about."""

    def emit(self, record: logging.LogRecord) -> None:
        values = [getattr(record, name, "") for name in ("image", "host", "reason")]
        output.say(": ".join([record.getMessage(), *map(str, filter(None, values))]))


@contextlib.contextmanager
def _remarks() -> Iterator[None]:
    """Have the warnings of a build on stderr, in full."""
    handler = _Remarks(logging.WARNING)
    build_log = logging.getLogger("agent")
    build_log.addHandler(handler)
    try:
        yield
    finally:
        build_log.removeHandler(handler)


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[layer_build.Progress], None]]:
    console = output.console(stderr=True)
    if quiet or not console.is_terminal:
        yield builder.ignore if quiet else _Lines()
        return
    bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(binary_units=True),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bars:
        yield _Bars(bars)


class _Lines:
    """A line for each finished layer: for logs."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, str]] = set()

    def __call__(self, progress: layer_build.Progress) -> None:
        key = (progress.image, progress.digest)
        if progress.stage in _FINISHED and key not in self._shown:
            self._shown.add(key)
            output.say(
                f"{progress.image} {progress.digest[:_DIGEST_SHOWN]}"
                f" {units.size(progress.total)} {progress.stage.value}"
            )


_FINISHED = (layer_build.Stage.DONE, layer_build.Stage.REUSED)


class _Bars:
    """A bar for each layer that is being built, and one for all of them."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        self._bars = bars
        self._all = bars.add_task("all layers", total=0)
        self._tasks: dict[tuple[str, str], rich.progress.TaskID] = {}
        self._counted: dict[tuple[str, str], tuple[int, int]] = {}

    def __call__(self, progress: layer_build.Progress) -> None:
        key = (progress.image, progress.digest)
        finished = progress.stage in _FINISHED
        done = progress.total if finished else progress.done
        self._counted[key] = (done, progress.total)
        self._bars.update(
            self._all,
            completed=sum(done for done, _ in self._counted.values()),
            total=sum(total for _, total in self._counted.values()),
        )
        if progress.stage is layer_build.Stage.WAITING:
            return
        if finished:
            task = self._tasks.pop(key, None)
            if task is not None:
                self._bars.remove_task(task)
            return
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task("", total=progress.total)
        digest = progress.digest[:_DIGEST_SHOWN]
        description = f"  {digest} {progress.stage.value}"
        self._bars.update(self._tasks[key], completed=done, description=description)


def _summarise(store: pathlib.Path, record: records.CacheRecord, seconds: float) -> None:
    console = output.console()
    reader = store_caches.reader_of(store)
    console.print(store_caches.images_table(reader, record))
    who = "every namespace" if record.namespaces is None else ", ".join(record.namespaces)
    console.print(
        f"{record.name} is Ready as {record.id}: {units.size(record.size)} in the store,"
        f" built in {seconds:.1f} s, serves {who}"
    )
    try:
        image = images.parse_reference(record.images[0].ref)
    except (errors.AgentError, IndexError):
        return
    console.print(
        f"a pod that runs {image} uses it with the annotation uimgacc.io/image-cache: {record.id}"
    )
