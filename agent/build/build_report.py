"""How far a build is: the percentage from the progress of its layers, and the report with it.

Images are built one after the other and each counts the same; within one it is bytes of its
layers. The duration of a layer's last step is not known beforehand, so a layer that is fetched is
not yet done.
"""

import logging
import threading
from collections.abc import Sequence

from agent.build import layer_build
from agent.kits import files
from agent.model import reports
from agent.store import layout

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 1.0
_END_SECONDS = 30.0
"""For a report that is being written when the build ends."""
_FETCHED = 0.9
_SHARES = {
    layer_build.Stage.WAITING: 0.0,
    layer_build.Stage.CONVERTING: _FETCHED,
    layer_build.Stage.PUBLISHING: 0.95,
    layer_build.Stage.DONE: 1.0,
    layer_build.Stage.REUSED: 1.0,
}


class Meter:
    """Takes the progress of a build of these images; `percent` is 99 at most: not Ready yet."""

    def __init__(self, images: Sequence[str]) -> None:
        self._images = list(dict.fromkeys(images))
        self._layers: dict[str, tuple[float, int]] = {}
        self._at = 0
        self._step = "asking the registry"
        self._retry = ""
        self.percent = 0

    @property
    def done(self) -> list[str]:
        """The images that are finished: those before the one at work."""
        return self._images[: self._at]

    @property
    def step(self) -> str:
        """What is done at the moment, and why it does not go on where it does not."""
        if not self._retry:
            return self._step
        return f"{self._step}; no usable answer yet from {self._retry}"

    def retry(self, reason: str) -> None:
        """Note which request to a registry is repeated, and why, until a layer makes progress."""
        self._retry = reason

    def __call__(self, progress: layer_build.Progress) -> None:
        """Take note of one layer."""
        if progress.image not in self._images:
            return
        self._retry = ""
        at = self._images.index(progress.image)
        if at != self._at:
            self._at = at
            self._layers.clear()
        share = _SHARES.get(progress.stage)
        if share is None:
            share = _FETCHED * min(1.0, progress.done / max(1, progress.total))
        self._layers[progress.digest] = (share, max(1, progress.total))
        total = sum(size for _, size in self._layers.values())
        part = sum(share * size for share, size in self._layers.values()) / total
        percent = int(100 * (at + part) / len(self._images))
        self.percent = max(self.percent, min(99, percent))
        finished = sum(share == 1.0 for share, _ in self._layers.values())
        self._step = f"{progress.image}: {finished} of {len(self._layers)} layers are there"


class Reporter:
    """Keeps the report of a build in the store up to date, from a thread.

    The store may hang, and then neither the build nor its end may wait for the report.
    """

    def __init__(self, place: layout.Layout, job: str, images: Sequence[str]) -> None:
        self.meter = Meter(images)
        self._place = place
        self._job = job
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="report", daemon=True)

    def __enter__(self) -> "Reporter":
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
