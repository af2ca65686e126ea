"""The nodes of a cluster, summed up one by one: bounded memory, however many there are; pure."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.model import keys, reports

_EXAMPLES = 3
_MOST_GROUPS = 20
_MOST_IMAGES = 4096
_OTHERS = "Other"

DISABLED = "NodeDisabled"
NOT_BACK = "NodeNotBack"
WAITS = "NodeWaitsForSlot"
"""In place of a condition's reason."""


@dataclasses.dataclass(slots=True)
class Group:
    """Nodes that do not serve for one reason: how many, the first of them, one's message."""

    reason: str
    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)
    message: str = ""

    def add(self, name: str, message: str) -> None:
        """Count a node in."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(name)
        self.message = self.message or message


class Nodes:
    """All nodes by their labels, and those that do not serve by their condition's reason.

    `without_volumes` have the runtime handlers, and start no pods with image volumes under them.
    `unread` are those whose condition was not read, because they are too many.
    """

    def __init__(self) -> None:
        self.count = 0
        self.capable = 0
        self.local = 0
        self.holding = 0
        self.without_volumes = 0
        self.unread = 0
        self._groups: dict[str, Group] = {}

    def label(self, metadata: Mapping[str, Any]) -> None:
        """Count a node by what its metadata say."""
        self.count += 1
        labels = metadata.get("labels") or {}
        self.capable += labels.get(keys.CAPABLE) == "true"
        self.local += labels.get(keys.CAPABLE) == keys.CAPABLE_LOCAL
        runs = labels.get(keys.HANDLER_LABEL) == "true"
        self.without_volumes += runs and labels.get(keys.IMAGE_VOLUMES_LABEL) != "true"
        self.holding += bool((metadata.get("annotations") or {}).get(keys.HELD))

    def explain(self, body: Mapping[str, Any]) -> None:
        """Count a node that does not serve under its reason; `body` is the whole object."""
        conditions = (body.get("status") or {}).get("conditions") or ()
        found = (each for each in conditions if each.get("type") == keys.NODE_CONDITION)
        own: Mapping[str, Any] = next(found, {})
        message = str(own.get("message", ""))
        reason = _of_setup(body, message) or str(own.get("reason", ""))
        if reason not in self._groups and len(self._groups) >= _MOST_GROUPS:
            reason = _OTHERS
        group = self._groups.setdefault(reason, Group(reason))
        group.add(str(body["metadata"]["name"]), message)

    @property
    def groups(self) -> Sequence[Group]:
        """The reasons, the most frequent first."""
        return sorted(self._groups.values(), key=lambda each: (-each.count, each.reason))


def _of_setup(body: Mapping[str, Any], message: str) -> str:
    """What says more than the condition's reason: the node is left out, or node set-up waits."""
    if (body["metadata"].get("labels") or {}).get(keys.ENABLED) == "false":
        return DISABLED
    if reports.SETUP_KEEPS in message:
        return NOT_BACK
    return WAITS if reports.SETUP_WAITS in message else ""


@dataclasses.dataclass(slots=True)
class ImageSum:
    """What an image saved on all nodes."""

    image: str
    seconds: float = 0.0
    size: int = 0
    count: int = 0


class Savings:
    """What the nodes have saved: today by image, and since their agents started."""

    def __init__(self, day: str) -> None:
        self.day = day
        self.nodes = 0
        self.today = ImageSum("")
        self.ever = ImageSum("")
        self._images: dict[str, ImageSum] = {}

    def add(self, saved: reports.Saved) -> None:
        """Count a node in; what it says of another day is not of today."""
        self.nodes += 1
        _add(self.ever, saved.seconds, saved.size, sum(saved.images.values()))
        today = saved.today
        if today.day != self.day:
            return
        _add(self.today, today.seconds, today.size, today.count)
        for each in today.images:
            if each.image not in self._images and len(self._images) >= _MOST_IMAGES:
                continue
            entry = self._images.setdefault(each.image, ImageSum(each.image))
            _add(entry, each.seconds, each.size, each.count)

    def most(self, number: int) -> Sequence[ImageSum]:
        """The images that saved most seconds, then bytes."""
        return sorted(
            self._images.values(), key=lambda each: (-each.seconds, -each.size, each.image)
        )[:number]


def saved_by(nodes: Iterable[reports.Saved], *, day: str) -> Savings:
    """The sum over nodes."""
    savings = Savings(day)
    for saved in nodes:
        savings.add(saved)
    return savings


def _add(entry: ImageSum, seconds: float, size: int, count: int) -> None:
    entry.seconds += seconds
    entry.size += size
    entry.count += count
