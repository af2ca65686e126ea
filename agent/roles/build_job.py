"""`uimgacc build`: one cache, built by a Job of the controller (agent.control.jobs.job_manifest).

It has no access to the API server. It reports its progress in a file of the store, and the reason
of a failure also in the container's termination message.
"""

import asyncio
import dataclasses
import logging
import pathlib
import signal
import threading
from collections.abc import Iterator, Sequence

from agent import errors, settings
from agent.build import build_progress, cache_build
from agent.clients.registry import distribution
from agent.kits import files, flags, jsonlog
from agent.model import images, records, reports
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
    """What to build, and how; `job` names the report, `termination` is a file for a failure."""

    settings: builder.Settings
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
        settings.Build,
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


def _problems(given: settings.Build) -> Iterator[str]:
    try:
        _request(given)
    except errors.AgentError as error:
        yield str(error)


def _request(given: settings.Build) -> cache_build.Request:
    """The cache to build; raise AgentError."""
    platforms = tuple(images.parse_platform(text) for text in given.platform)
    return cache_build.Request(
        cache_id=given.cache_id,
        name=given.name,
        references=tuple(images.parse_reference(text) for text in given.image),
        platforms=platforms or (builder.own_platform(),),
        capacity=given.capacity_gib << 30,
        namespaces=given.namespace or None,
        retention_days=given.retention_days,
        every_platform=not given.some_platform,
    )


def _settings(given: settings.Build) -> builder.Settings:
    return builder.Settings(
        store=given.store,
        scratch=given.scratch,
        parallel=given.parallel,
        registries=distribution.Options(
            plain_http=frozenset(given.plain_http),
            insecure=frozenset(given.insecure),
            ca_file=str(given.ca or ""),
        ),
        docker_configs=_files(given.docker_configs),
        plugin_config=given.image_credential_provider_config,
        plugin_folder=given.image_credential_provider_bin_dir,
        acr_instances=given.acr_instance,
    )


def _files(folder: pathlib.Path | None) -> tuple[pathlib.Path, ...]:
    """The files of a mounted Secret: the kubelet keeps others beside them, with dots."""
    if folder is None:
        return ()
    return tuple(path for path in sorted(folder.glob("*.json")) if not path.name.startswith("."))


class _Reporter:
    """Keeps the report of a build in the store up to date, from a thread.

    The store may hang, and then neither the build nor its end may wait for the report.
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

    def end(self, result: reports.Result | None) -> None:
        """Write the last report; without a result where the build may continue in another pod."""
        self._ended.set()
        self._thread.join(_END_SECONDS)
        cache = result.cache if result else None
        self._write(
            reports.Report(
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
            report = reports.Report(percent=meter.percent, images=meter.done, step=meter.step)
            if report != before:
                self._write(report)
                before = report
            if self._ended.wait(_REPORT_SECONDS):
                return

    def _write(self, report: reports.Report) -> None:
        if not self._job:
            return
        path = self._place.build_report(self._job)
        try:
            files.write(path, reports.encode(report), tmp=self._place.tmp)
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
        registries = dataclasses.replace(wanted.settings.registries, on_retry=reporter.meter.retry)
        settings = dataclasses.replace(wanted.settings, registries=registries)
        return await builder.build(settings, wanted.request, on_progress=reporter.meter)
    except asyncio.CancelledError:
        raise Stopped from None


def _run(wanted: Wanted) -> reports.Result:
    with _Reporter(wanted) as reporter:
        try:
            record = asyncio.run(_build(wanted, reporter))
        except Stopped as error:
            # No result: whether another pod continues is the Job's decision.
            reporter.end(None)
            return reports.Result(reason=str(error))
        except (errors.AgentError, OSError) as error:
            result = reports.Result(reason=str(error) or type(error).__name__)
        else:
            result = reports.Result(cache=record)
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
