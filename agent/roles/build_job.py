"""`uimgacc build`: one cache, built by a Job of the controller (agent.control.jobs.job_manifest).

It has no access to the API. How far it is stands in a file of the store, the reason of a
failure also in the container's termination message.
"""

import argparse
import asyncio
import dataclasses
import logging
import os
import pathlib
import signal
import threading
from collections.abc import Sequence

from agent import errors
from agent.build import build_progress, cache_build
from agent.clients.registry import distribution
from agent.kits import files, jsonlog
from agent.model import builds, images, records
from agent.roles import builder
from agent.store import layout

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 1.0
_END_SECONDS = 30.0
"""For a report that is being written when the build ends."""
_MESSAGE_LIMIT = 2048
"""Bytes: of a termination message, the kubelet keeps 4096 of all containers together."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the flags say."""

    settings: builder.Settings
    request: cache_build.Request
    job: str = ""
    termination: pathlib.Path | None = None


class Stopped(errors.TemporaryError):
    """The build was told to stop (SIGTERM): its cache was changed or deleted, or the node drained.

    What it has finished stays in the store for the next one.
    """

    def __init__(self) -> None:
        super().__init__("the build was told to stop before it was done")


def parse(arguments: Sequence[str]) -> Wanted:
    """Read the flags.

    What is the same for all builds of a cluster may also come from the environment, for which
    the cluster's own part of the Job is the place (docs/use/builders.md).
    """
    parser = argparse.ArgumentParser(
        prog="uimgacc build", description="Builds one cache into the store, as the controller asks."
    )
    add = parser.add_argument
    store = os.environ.get("UIMGACC_STORE")
    add("--store", type=pathlib.Path, default=store, required=not store, help="root of the store")
    add("--cache-id", required=True, help="ID of the cache")
    add("--name", required=True, help="name of the cache")
    add("--image", action="append", required=True, help="an image to hold; repeatable")
    add("--platform", action="append", default=[], help="like linux/arm64; repeatable")
    add("--some-platform", action="store_true", help="an image need not have all platforms")
    add("--capacity-gib", type=int, required=True, help="what the layers may take")
    add("--namespace", action="append", help="a namespace that is served; all without one")
    add("--retention-days", type=int, help="days for which it is wanted")
    add("--plain-http", action="append", default=[], help="a registry without TLS; repeatable")
    add("--insecure", action="append", default=[], help="a registry not verified; repeatable")
    authorities = os.environ.get("UIMGACC_CA")
    add("--ca", type=pathlib.Path, default=authorities, help="more authorities, a PEM file")
    add("--docker-configs", type=pathlib.Path, help="folder of docker config JSON files")
    add("--acr-instance", action="append", default=[], help="[REGION:]cri-...; repeatable")
    plugins, folder = (
        os.environ.get(f"UIMGACC_IMAGE_CREDENTIAL_PROVIDER_{name}")
        for name in ("CONFIG", "BIN_DIR")
    )
    add("--image-credential-provider-config", dest="plugins", type=pathlib.Path, default=plugins)
    add("--image-credential-provider-bin-dir", dest="folder", type=pathlib.Path, default=folder)
    add("--scratch", type=pathlib.Path, help="local folder for the files of layers at work")
    add("--parallel", type=int, default=3, help="layers worked on at a time")
    add("--job", default="", help="name of the Job, by which the controller finds the report")
    add("--termination-message", type=pathlib.Path, help="file for the reason of a failure")
    found = parser.parse_args(arguments)
    try:
        return _wanted(found)
    except errors.AgentError as error:
        parser.error(str(error))


def _wanted(found: argparse.Namespace) -> Wanted:
    platforms = tuple(images.parse_platform(text) for text in found.platform)
    request = cache_build.Request(
        cache_id=found.cache_id,
        name=found.name,
        references=tuple(images.parse_reference(text) for text in found.image),
        platforms=platforms or (builder.own_platform(),),
        capacity=found.capacity_gib << 30,
        namespaces=tuple(found.namespace) if found.namespace else None,
        retention_days=found.retention_days,
        every_platform=not found.some_platform,
    )
    settings = builder.Settings(
        store=found.store,
        scratch=found.scratch,
        parallel=found.parallel,
        registries=distribution.Options(
            plain_http=frozenset(found.plain_http),
            insecure=frozenset(found.insecure),
            ca_file=str(found.ca or ""),
        ),
        docker_configs=_files(found.docker_configs),
        plugin_config=found.plugins,
        plugin_folder=found.folder,
        acr_instances=tuple(found.acr_instance),
    )
    return Wanted(
        settings=settings,
        request=request,
        job=found.job,
        termination=found.termination_message,
    )


def _files(folder: pathlib.Path | None) -> tuple[pathlib.Path, ...]:
    """The files of a mounted Secret: the kubelet keeps others beside them, with dots."""
    if folder is None:
        return ()
    return tuple(path for path in sorted(folder.glob("*.json")) if not path.name.startswith("."))


class _Reporter:
    """Keeps the report of a build in the store: a thread that writes what has changed.

    A thread, as the store may hang, and then neither the build nor its end may wait.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.meter = build_progress.Meter([str(each) for each in wanted.request.references])
        self._place = layout.Layout(wanted.settings.store)
        self._job = wanted.job
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="report", daemon=True)

    def __enter__(self) -> "_Reporter":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()

    def end(self, result: builds.Result | None) -> None:
        """Write the last report; without a result where the build may go on elsewhere."""
        self._ended.set()
        self._thread.join(_END_SECONDS)
        cache = result.cache if result else None
        self._write(
            builds.Report(
                percent=100 if cache else self.meter.percent,
                images=[image.ref for image in cache.images] if cache else self.meter.done,
                step=self.meter.step,
                result=result,
            )
        )

    def _write_on(self) -> None:
        before = None
        while True:
            meter = self.meter
            report = builds.Report(percent=meter.percent, images=meter.done, step=meter.step)
            if report != before:
                self._write(report)
                before = report
            if self._ended.wait(_REPORT_SECONDS):
                return

    def _write(self, report: builds.Report) -> None:
        if not self._job:
            return
        path = self._place.build_report(self._job)
        try:
            files.write(path, builds.encode(report), tmp=self._place.tmp)
        except OSError as error:
            # A store that is full or away fails the build itself, with a better reason.
            logger.warning("the report cannot be written", extra={"reason": str(error)})


async def _build(wanted: Wanted, reporter: _Reporter) -> records.CacheRecord:
    """Build until it is done, or until SIGTERM: raise Stopped."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await builder.build(wanted.settings, wanted.request, on_progress=reporter.meter)
    except asyncio.CancelledError:
        raise Stopped from None


def _run(wanted: Wanted) -> builds.Result:
    with _Reporter(wanted) as reporter:
        try:
            record = asyncio.run(_build(wanted, reporter))
        except Stopped as error:
            # No result: who goes on, the next pod of the Job or nobody, is known by the Job alone.
            reporter.end(None)
            return builds.Result(reason=str(error))
        except (errors.AgentError, OSError) as error:
            result = builds.Result(reason=str(error) or type(error).__name__)
        else:
            result = builds.Result(cache=record)
        reporter.end(result)
    return result


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    wanted = parse(arguments)
    with jsonlog.to_stderr():
        result = _run(wanted)
        if result.cache is None:
            logger.error("the build failed", extra={"reason": result.reason})
            if wanted.termination is not None:
                text = result.reason.encode()[:_MESSAGE_LIMIT]
                wanted.termination.write_bytes(text)
            return 1
        logger.info(
            "built", extra={"cache": result.cache.id, "seconds": result.cache.build_seconds}
        )
    return 0
