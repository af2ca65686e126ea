"""What the pulls of images cost a fleet in a span of time, as values.

The command `advise`, the controller's page and policies that cache images by themselves read
these. The figures are from events that any user of the cluster may write, see pull_events.
"""

import dataclasses
import datetime
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageCost:
    """What the pulls of one image cost.

    `image` is a normalised reference, as str(images.Reference). Of its `pulls`, `downloads` took
    so long that the image was downloaded; the others found it, and asked the registry only
    (imagePullPolicy Always), or got its layers from the store. `seconds` is how long all
    pulls took, `typical` the median of the downloads, 0 without one. `size` is what one download
    transfers, compressed, 0 where no kubelet said it; `downloaded` what all did. `nodes` is a close
    estimate where it is more than a few dozen. `pods` has for each namespace the last pod that
    was seen to pull it; not all namespaces where there are many.
    """

    image: str
    pulls: int
    downloads: int
    seconds: float
    typical: float = 0.0
    size: int = 0
    downloaded: int = 0
    nodes: int = 0
    pods: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What all pulls since a time cost; `images` begins with the one that took most seconds.

    `others` has the sums of images that are not listed any more, because there were too many.
    `since` is when the figures begin: later than what was asked for where no more is known.
    """

    since: datetime.datetime
    images: tuple[ImageCost, ...] = ()
    others: ImageCost | None = None

    @property
    def seconds(self) -> float:
        """How long all pulls took."""
        return sum(each.seconds for each in self._all)

    @property
    def pulls(self) -> int:
        """How many there were."""
        return sum(each.pulls for each in self._all)

    @property
    def downloaded(self) -> int:
        """Bytes that all of them transferred, as far as kubelets said it."""
        return sum(each.downloaded for each in self._all)

    def share(self, cost: ImageCost) -> float:
        """Which part of the seconds of all pulls those of this image took, 0 to 1."""
        return cost.seconds / self.seconds if self.seconds else 0.0

    @property
    def _all(self) -> tuple[ImageCost, ...]:
        return self.images if self.others is None else (*self.images, self.others)
