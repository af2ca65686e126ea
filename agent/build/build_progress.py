"""How far a build is, in percent, from what is reported of its layers.

Images are built one after the other and each counts the same; within one it is bytes
of its layers. What the last step of a layer takes is not known beforehand, so a layer
that is fetched is not yet done.
"""

from collections.abc import Sequence

from agent.build import layer_build

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
