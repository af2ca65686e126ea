"""Keeps a node set up while other tools write containerd's configuration, too.

NVIDIA's toolkit adds its runtime handler minutes after node set-up on a new node, and some tools
write the whole file anew, without node-setup's part. So node set-up stays, and looks again
whenever one of the files has changed. Meanwhile it is a shell: that holds 1 MB, where the
interpreter would hold 50 MB on each node. The shell compares what `stat` says, which
costs one small process each time, and becomes the interpreter again when a file has changed.

Two tools that take out each other's part must not restart containerd for ever: from one
set-up to the next it waits longer each time, and there are six of them in a day at most.
"""

import dataclasses
import math
import os
import subprocess
import sys
import time
from typing import NoReturn

import msgspec

from agent import errors
from agent.model import reports
from agent.setup.config import places, settings_view
from agent.setup.node import host

TURNS = settings_view.Path("/run/uimgacc/set-ups")
PROBLEM = settings_view.Path(reports.SETUP_PROBLEM)
WAITING = settings_view.Path(reports.SETUP_WAITING)
NOT_BACK = settings_view.Path(reports.SETUP_NOT_BACK)

_PROGRAMS = tuple(
    settings_view.Path(folder, "containerd")
    for folder in ("/usr/bin", "/usr/local/bin", "/opt/bin")
)
"""Another release may want another configuration. Those of k3s and RKE2 write theirs anew."""

_PAUSES = (0.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
_DAY = 86400.0
_RETRY = 300.0
_SECONDS = 20.0
_SLOWEST = 120.0
_RETURN = 30.0

# One line for each file that there is; %z, the time of the last change, cannot be set back. Split
# at newlines only, so that a pattern may have blanks.
_SEEN = """IFS='
'
seen() { stat -c '%n %i %s %z' -- $1 2>/dev/null; }
"""
# $1 patterns, $2 what was seen, $3 seconds between looks, $4 after how many looks it goes on anyhow
# (-1: never); then the command. What changes is waited for until two looks have found the same:
# not every tool replaces a file as a whole.
_WAIT = f"""{_SEEN}
before=
looks=$4
while sleep "$3"; do
  now=$(seen "$1")
  if [ "$now" != "$2" ] && [ "$now" = "$before" ]; then break; fi
  before=$now
  looks=$((looks - 1))
  if [ "$looks" = 0 ]; then break; fi
done
shift 4
exec "$@"
"""


class EnoughError(errors.TemporaryError):
    """The node was set up so often that something must be working against it."""

    def __init__(self) -> None:
        super().__init__(
            f"containerd's configuration has changed again after each of {len(_PAUSES)} set-ups"
            " within a day, and lacks uimgacc's part: does another tool rewrite that file? Stop"
            " that, then delete the pod of uimgacc-node on this node"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """What follows a look: `seconds` until the next one though no file changes (0: never)."""

    seconds: float = 0.0
    interval: float | None = None
    """Between looks at the files; None for the usual one."""
    is_first: bool = False
    """Whether the node is not set up yet: that is what follows, not a look at what is missing."""


RETRY = Rest(_RETRY)
RETURN = Rest(_RETURN)


class Turns:
    """When this node was set up again since its start, and may be once more."""

    def __init__(self, machine: host.Host) -> None:
        self._host = machine
        # A clock that cannot be set, and that begins with the boot, as /run does.
        self._now = time.clock_gettime(time.CLOCK_BOOTTIME)
        data = machine.read(TURNS)
        taken = [] if data is None else msgspec.json.decode(data, type=list[float])
        self._taken = [moment for moment in taken if moment > self._now - _DAY]

    @property
    def is_over(self) -> bool:
        """Whether there were enough of them."""
        return len(self._taken) >= len(_PAUSES)

    @property
    def pause(self) -> float:
        """The seconds until the next one."""
        if not self._taken:
            return 0.0
        if self.is_over:
            return self._taken[0] + _DAY - self._now
        return max(0.0, self._taken[-1] + _PAUSES[len(self._taken)] - self._now)

    @property
    def rest(self) -> Rest:
        """What there is to do until then; rarely looking where another tool changes the files."""
        return Rest(self.pause, _RETRY if self.is_over else None)

    def take(self) -> None:
        """Note one, before anything changes."""
        self._host.write(TURNS, msgspec.json.encode([*self._taken, self._now]))


def begin(machine: host.Host) -> None:
    """Forget what was before: a set-up begins, or everything is undone."""
    machine.remove(TURNS)
    report(machine, "")


def report(machine: host.Host, problem: str) -> None:
    """Leave a sentence for the agent, which puts it into the node's condition; "" for none."""
    for state in (WAITING, NOT_BACK):
        machine.remove(state)
    if problem:
        machine.write(PROBLEM, problem.encode())
    else:
        machine.remove(PROBLEM)


def report_not_back(machine: host.Host, problem: str) -> None:
    """The same where this node keeps its slot until it is back."""
    report(machine, problem)
    machine.write(NOT_BACK, b"")


def waits(machine: host.Host) -> bool:
    """Whether node set-up waits for its turn to restart containerd."""
    return machine.read(WAITING) is not None


def wait_for_turn(machine: host.Host, delay: float, *, is_first: bool) -> Rest:
    """Note for the agent that this node has to wait; the longer it does, the rarer it asks.

    The sentence is always the same: it is in the node's condition, which is not to change with
    each look.
    """
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    data = machine.read(WAITING)
    since = now if data is None else msgspec.json.decode(data, type=float)
    if data is None:
        sentence = f"{reports.SETUP_WAITS}: see `uimgacc node list`"
        machine.write(PROBLEM, sentence.encode())
        machine.write(WAITING, msgspec.json.encode(now))
    return Rest(max(delay, min(_SLOWEST, (now - since) / 4)), is_first=is_first)


def watched(machine: host.Host, main: settings_view.Path) -> str:
    """What to look at, as patterns for a shell, one a line."""
    paths = [main, *(main.with_name(name) for name in places.TEMPLATES), *_PROGRAMS]
    patterns = []
    try:
        file = settings_view.File(main, machine.text(main) or "")
        patterns = settings_view.imports_of(file)
        paths += [path for pattern in patterns for path in machine.matching(pattern)]
        # Links are looked at, and what they lead to, which in a container is somewhere else.
        looked_at = {str(machine.place(path)) for path in paths}
    except settings_view.ConfigError:
        looked_at = set()
    looked_at |= {str(machine.root / str(path).lstrip("/")) for path in [*paths, *patterns]}
    return "\n".join(sorted(looked_at))


def seen(patterns: str) -> str:
    """What the shell would see now."""
    done = subprocess.run(
        ["sh", "-c", f'{_SEEN}seen "$1"', "sh", patterns],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return done.stdout.rstrip("\n")


def wait(patterns: str, before: str, rest: Rest, *, every: float) -> NoReturn:
    """Become the shell that waits for a change, and then this command again, with `--again`.

    Without it where the first set-up is still to come.
    """
    interval = rest.interval or every
    looks = math.ceil(rest.seconds / interval) if rest.seconds else -1
    command = [sys.executable, *sys.orig_argv[1:]]
    command += [] if rest.is_first or command[-1] == "--again" else ["--again"]
    sys.stdout.flush()
    os.execvp(  # noqa: S606 - the shell is a constant, and gets all else as arguments
        "sh",
        ["sh", "-c", _WAIT, "node-setup", patterns, before, str(interval), str(looks), *command],
    )
