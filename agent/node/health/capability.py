"""Whether this node can serve images from the store: the checks, and the verdict; pure.

A node becomes capable at once and loses that slowly: one late answer of the store must
not remove its label, and scheduling must not wait for a node that is well.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping

from agent.model.erofs import superblock


class Check(enum.Enum):
    """What must hold."""

    STORE = "store"
    CONTAINERD = "containerd"
    PLUGIN = "plugin"
    HANDLER = "handler"
    SNAPSHOTTER = "snapshotter"
    KERNEL = "kernel"
    SWITCH = "switch"


ADVICE: Mapping[Check, str] = {
    Check.STORE: "Is the store's server up, and its folder mounted here? "
    "`uimgacc doctor --store DIR` on this node looks closer. Until it answers, images are pulled.",
    Check.CONTAINERD: "Is containerd running, and is its socket the one that the agent was given?",
    Check.PLUGIN: "`uimgacc node-setup --restart` plugs the snapshotter into containerd.",
    Check.HANDLER: "`uimgacc node-setup --restart` adds the runtime handlers to containerd.",
    Check.SNAPSHOTTER: "Does `uimgacc snapshotter` run? Its log says why not. One that hangs is "
    "killed after a minute; if it is not, end its process. Running containers are not affected, "
    "new ones wait for it.",
    Check.KERNEL: "`modprobe erofs overlay`, or kernel "
    f"{superblock.KERNEL_MINIMUM} or newer that has both. Until then images are pulled.",
    Check.SWITCH: "`uimgacc enable` switches it on again.",
}
"""What a person can do where a check does not hold."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: `problem` is "" where it holds, else a sentence for people."""

    check: Check
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether it holds."""
        return not self.problem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How many checks in a row must succeed (or fail) before the verdict changes."""

    to_win: int = 1
    to_lose: int = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the node counts as capable. `against` counts checks in a row that say otherwise.

    `problems` are those of the last check, even while the verdict is still the old one.
    `twins` are the uimgacc runtime handlers that containerd has beside the default one.
    `maps_ids` says whether pods in user namespaces are served under these, too, `mounts_volumes`
    whether pods with image volumes start under them.
    `remark` is a message of node set-up, whatever the verdict. `local` is how many images the node
    serves from its own copies where nothing fails but the store.
    """

    capable: bool = False
    against: int = 0
    problems: Mapping[Check, str] = dataclasses.field(default_factory=dict, hash=False)
    twins: frozenset[str] = frozenset()
    maps_ids: bool = False
    mounts_volumes: bool = False
    remark: str = ""
    local: int = 0

    @property
    def is_local(self) -> bool:
        """Whether the node serves images although the store does not answer."""
        return not self.capable and self.local > 0 and self.problems.keys() == {Check.STORE}

    @property
    def sentence(self) -> str:
        """For the log and for /status."""
        said = [*self.problems.values()] or ["images are served from the store"]
        if self.is_local:
            images = "1 image is" if self.local == 1 else f"{self.local} images are"
            said.append(f"{images} served locally, from this node's own copies")
        return "; ".join([*said, f"node set-up: {self.remark}"] if self.remark else said)


def judge(last: Verdict, findings: Iterable[Finding], patience: Patience) -> Verdict:
    """The verdict after one more round of checks."""
    problems = {finding.check: finding.problem for finding in findings if not finding.good}
    well = not problems
    if well is last.capable:
        return Verdict(capable=last.capable, problems=problems)
    against = last.against + 1
    needed = patience.to_win if well else patience.to_lose
    if against >= needed:
        return Verdict(capable=well, problems=problems)
    return Verdict(capable=last.capable, against=against, problems=problems)
