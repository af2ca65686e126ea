"""What the events of kubelets say of pulls; pure.

A kubelet emits an event `Pulled` for each container whose image is there, in these words
(pkg/kubelet/images/image_manager.go):

    Successfully pulled image "X" in 12.3s (15.1s including waiting). Image size: 123 bytes.
    Container image "X" already present on machine

The size is there since 1.30, the time with waiting since 1.27; since 1.35 the second line ends with
"and can be accessed by the pod". Of many alike events of a pod, client-go keeps one, which says
"(combined from similar events): " before the last text.

An admission policy (uimgacc-pull-events) holds such events to kubelets. Without it any user who may
create events can write such a line, and a node that was taken over can with it, so nothing is
believed beyond what the limits here and those of the table allow, and the image is a reference or
the line is dropped.
"""

import dataclasses
import datetime
import re
from collections.abc import Mapping
from typing import Any

from agent import errors
from agent.model import caches, images, manifests, times

REASON = "Pulled"
SELECTOR = f"reason={REASON},involvedObject.kind=Pod"
"""Field selector of these events."""

LONGEST = 6 * 3600.0
"""Seconds of a pull: a kubelet that pulled for longer is not believed."""
LARGEST = 1 << 40
"""Bytes of an image at its registry."""
_MOST_TIMES = 20
_MOST_TEXT = 2048
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_KUBELET = "kubelet"
_COMBINED = "(combined from similar events): "
_DURATION = r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:h|ms|m|s|us|µs|ns)){1,3}"
_PULLED = re.compile(
    rf'Successfully pulled image "([^"\s]+)" in ({_DURATION})'
    rf"(?: \({_DURATION} including waiting\))?"
    r"(?:\. Image size: ([0-9]{1,18}) bytes\.)?"
)
_PRESENT = re.compile(r'Container image "[^"\s]+" already present on machine.*', re.DOTALL)
_PART = re.compile(r"([0-9.]+)(h|ms|m|s|us|µs|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


class NotUnderstood(errors.PermanentError):
    """An event that is no kubelet's, or in words that are not known. `reason` says what it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"an event of a pull is not understood: {reason}")
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A pull of an image, or `times` of them, as a kubelet reports it.

    `image` is a normalised reference, `seconds` how long one took without the wait for its turn,
    `size` the image's bytes at its registry, 0 where the kubelet does not say it. `node` may
    be "". `when` is by the node's clock; None where the event has no time.
    """

    image: str
    seconds: float
    size: int = 0
    namespace: str
    pod: str
    node: str = ""
    when: datetime.datetime | None = None
    times: int = 1


def read(event: Mapping[str, Any]) -> Pull | None:
    """The pull of an event; None where the image was there. Raises NotUnderstood."""
    field = manifests.Field(event)
    try:
        source = field.get("source", "component").text("")
        reporter = field.get("reportingComponent").text("")
        if _KUBELET not in (source, reporter):
            raise NotUnderstood("it is not from a kubelet")
        parsed = _of_text(field.get("message").text(""))
        if parsed is None:
            return None
        image, seconds, size = parsed
        namespace = field.get("involvedObject", "namespace").text("")
        pod = field.get("involvedObject", "name").text("")
        node = field.get("source", "host").text("") or field.get("reportingInstance").text("")
        when = field.get("lastTimestamp").text("") or field.get("eventTime").text("")
    except manifests.ManifestError as error:
        raise NotUnderstood(str(error)) from error
    if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(pod):
        raise NotUnderstood("it names no pod")
    return Pull(
        image=image,
        seconds=seconds,
        size=size,
        namespace=namespace,
        pod=pod,
        node=node if _NAME.fullmatch(node) else "",
        when=times.parse(when),
        times=_times(event.get("count")),
    )


def _of_text(text: str) -> tuple[str, float, int] | None:
    """Image, seconds and bytes; None where nothing was pulled."""
    if len(text) > _MOST_TEXT:
        raise NotUnderstood("its text is too long")
    text = text.removeprefix(_COMBINED).strip()
    if _PRESENT.fullmatch(text):
        return None
    match = _PULLED.fullmatch(text)
    if match is None:
        raise NotUnderstood("its text is in other words")
    name, took, size = match.groups()
    try:
        image = str(images.parse_reference(name))
    except images.ImageReferenceError as error:
        raise NotUnderstood(str(error)) from error
    if len(image) > caches.MAX_REFERENCE:
        raise NotUnderstood("the image's name is too long")
    seconds = _seconds(took)
    if seconds > LONGEST or int(size or 0) > LARGEST:
        raise NotUnderstood("its figures cannot be")
    return image, seconds, int(size or 0)


def _seconds(text: str) -> float:
    """A time as Go prints it: 1h2m3.5s, 796ms."""
    try:
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    except ValueError as error:
        raise NotUnderstood(f"its time is {text[:40]!r}") from error


def _times(count: object) -> int:
    """How many pulls an event stands for."""
    return min(max(count, 1), _MOST_TIMES) if isinstance(count, int) else 1
