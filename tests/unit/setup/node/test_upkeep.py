"""Node set-up that stays: its turns, and what it leaves for the node's condition."""

import pathlib
import time
from typing import NoReturn

import pytest

from agent.cli import output
from agent.cli.machine import node_setup_command
from agent.model import reports
from agent.setup.config import settings_view
from agent.setup.node import host, upkeep
from agent.setup.slots import turns
from tests.unit.setup import machines

DAY = 86400.0
PROBLEM = settings_view.Path(reports.SETUP_PROBLEM)


class WaitingError(Exception):
    """It would become a shell now; `rest` is for how long."""

    def __init__(self, rest: upkeep.Rest) -> None:
        super().__init__()
        self.rest = rest


class Node:
    """A node whose containerd is restarted by a command, and on which time passes as told."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.machine = machines.write(folder / "node", "version = 3\n", "2")
        self.host = host.Host(self.machine.root)
        self.folder = folder
        self.now = 1000.0
        self.restart = "true"
        self.slot: turns.Settings | None = None

    @property
    def restarts(self) -> int:
        mark = self.folder / "mark"
        return len(mark.read_text().splitlines()) if mark.exists() else 0

    @property
    def is_set_up(self) -> bool:
        return "99-uimgacc" in self.machine.config.read_text()

    @property
    def problem(self) -> str:
        return (self.host.text(PROBLEM) or "")[:60]

    def rewrite(self) -> None:
        """What a tool does that knows nothing of us."""
        self.machine.config.write_text("version = 3\n")

    def run(self, *, again: bool = True) -> upkeep.Rest:
        """One look, until it waits."""
        wanted = node_setup_command.Wanted(
            config="/etc/containerd/config.toml",
            restart=True,
            restart_command=f"sh -c 'echo >> {self.folder}/mark; {self.restart}'",
            address="/run/uimgacc/snapshotter.sock",
            containerd_version="2.1",
            host_root=self.machine.root,
            keep=str(self.folder / "stamp"),
            again=again,
            slot=self.slot,
        )
        with pytest.raises(WaitingError) as found:
            node_setup_command.node_setup(wanted, as_json=True)
        return found.value.rest


@pytest.fixture
def node(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    def wait(_patterns: str, _seen: str, rest: upkeep.Rest, *, every: float) -> NoReturn:
        assert every == 10.0
        raise WaitingError(rest)

    made = Node(tmp_path)
    machines.without_program(monkeypatch)
    monkeypatch.setattr(upkeep, "wait", wait)
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: made.now)
    return made


def test_the_first_set_up_says_when_it_is_done_and_waits_for_news(node: Node) -> None:
    rest = node.run(again=False)

    assert rest == upkeep.Rest()
    assert (node.folder / "stamp").exists()
    assert node.restarts == 1


def test_what_another_tool_took_out_is_put_back_with_one_restart(node: Node) -> None:
    node.run(again=False)
    node.rewrite()

    assert node.run() == upkeep.Rest()
    assert node.is_set_up
    assert node.restarts == 2
    assert node.run() == upkeep.Rest()
    assert node.restarts == 2


def test_two_tools_that_fight_restart_containerd_less_and_less_and_then_no_more(
    node: Node,
) -> None:
    """The other one answers each restart by writing its own file again."""
    node.run(again=False)
    before, began = node.restarts, node.now
    pauses = []
    node.restart = f"echo version = 3 > {node.machine.config}"
    node.rewrite()

    while not node.problem:
        rest = node.run()
        pauses.append(rest.seconds)
        node.now += rest.seconds

    assert pauses == [30.0, 120.0, 600.0, 1800.0, 3600.0, DAY - 6150.0]
    assert node.restarts - before == 6
    assert "changed again after each of 6 set-ups" in (node.host.text(PROBLEM) or "")
    assert rest.interval is not None

    # Nothing within the day, whatever changes meanwhile.
    node.now = began + DAY - 1
    node.rewrite()
    assert node.run().seconds == 1.0
    assert node.restarts - before == 6
    # The other one has ended: a day later all is well again, and nothing is said any more.
    node.restart = "true"
    node.now = began + DAY + 1
    assert node.run() == upkeep.Rest()
    assert node.is_set_up
    assert node.problem == ""


def test_a_new_pod_begins_anew(node: Node) -> None:
    node.run(again=False)
    node.restart = "exit 3"
    node.rewrite()
    assert node.run() == upkeep.RETRY
    assert "failed: exit status 3" in (node.host.text(PROBLEM) or "")

    node.restart = "true"
    node.run(again=False)

    assert node.problem == ""
    assert node.host.read(upkeep.TURNS) is None


def test_a_restart_that_failed_is_tried_again(node: Node) -> None:
    node.run(again=False)
    node.restart = "exit 3"
    node.rewrite()
    node.run()
    node.restart = "true"
    node.now += 300

    assert node.run() == upkeep.Rest()
    assert node.problem == ""
    assert node.restarts == 3


class Turn:
    """A turn that a test gives and takes away."""

    def __init__(self) -> None:
        self.free = False
        self.missing = ""
        self.calls: list[str] = []

    def take(self) -> None:
        self.calls.append("take")
        if not self.free:
            raise turns.NotYet("1 of 1 slots are taken: other for 9 s", delay=20)

    def drop(self) -> None:
        self.calls.append("drop")

    def fail(self, problem: str) -> None:
        self.calls.append(f"fail: {problem.rpartition(': ')[2]}")

    def settle(self, seconds: float) -> str:
        self.calls.append(f"settle {seconds:g}")
        return self.missing


@pytest.fixture
def turn(node: Node, monkeypatch: pytest.MonkeyPatch) -> Turn:
    made = Turn()
    node.slot = turns.Settings(node="n")
    monkeypatch.setattr(node_setup_command, "_turn", lambda *_: made)
    return made


def test_a_node_that_waits_for_its_turn_stays_as_it_is_and_its_agent_starts(
    node: Node, turn: Turn
) -> None:
    before = node.machine.config.read_text()

    assert node.run(again=False) == upkeep.Rest(20, is_first=True)
    assert node.machine.config.read_text() == before
    assert node.restarts == 0
    assert (node.folder / "stamp").exists()
    assert node.problem.startswith("containerd is restarted when it is this node's turn")
    assert node.host.read(upkeep.WAITING) is not None

    turn.free = True
    assert node.run(again=False) == upkeep.Rest()
    assert node.is_set_up
    assert node.restarts == 1
    assert node.problem == ""
    assert node.host.read(upkeep.WAITING) is None
    assert turn.calls == ["take", "take", "settle 300"]


def test_a_node_that_has_waited_for_long_asks_rarely(node: Node, turn: Turn) -> None:
    rests = []
    for _ in range(10):
        rests.append(node.run(again=False).seconds)
        node.now += rests[-1]

    assert rests[:2] == [20, 20]
    assert rests == sorted(rests)
    node.now += 3600
    assert node.run(again=False).seconds == 120


def test_a_later_change_waits_for_its_turn_too_and_does_not_use_one_of_the_days(
    node: Node, turn: Turn
) -> None:
    turn.free = True
    node.run(again=False)
    node.rewrite()
    turn.free = False

    for _ in range(10):
        assert node.run() == upkeep.Rest(20)
    assert node.restarts == 1
    assert node.host.read(upkeep.TURNS) is None

    turn.free = True
    assert node.run() == upkeep.Rest()
    assert node.restarts == 2
    assert node.host.read(upkeep.WAITING) is None


def test_a_node_that_needs_no_change_asks_for_no_turn(node: Node, turn: Turn) -> None:
    turn.free = True
    node.run(again=False)
    turn.calls.clear()
    node.run(again=False)
    node.run()

    assert "take" not in turn.calls
    assert node.restarts == 1


def test_a_node_that_is_not_back_keeps_its_slot_and_says_so(node: Node, turn: Turn) -> None:
    turn.free = True
    turn.missing = "the agent is not ready"

    assert node.run(again=False) == upkeep.RETURN
    assert node.problem.startswith("containerd was restarted, and this node keeps its slot")
    assert node.host.read(upkeep.NOT_BACK) is not None
    assert node.run() == upkeep.RETURN
    turn.missing = ""
    assert node.run() == upkeep.Rest()
    assert node.problem == ""
    assert node.host.read(upkeep.NOT_BACK) is None


def test_what_another_tool_takes_out_is_put_back_also_while_the_node_is_not_back(
    node: Node, turn: Turn
) -> None:
    """Else it never were: the agent is ready only with containerd's plugin."""
    turn.free = True
    turn.missing = "the agent is not ready"
    node.run(again=False)
    node.rewrite()
    node.run()

    assert node.is_set_up
    assert node.restarts == 2


def test_a_restart_that_failed_keeps_the_slot_and_is_said_there(node: Node, turn: Turn) -> None:
    turn.free = True
    node.run(again=False)
    node.restart = "exit 3"
    node.rewrite()
    turn.calls.clear()
    node.run()

    assert turn.calls == ["take", "take", "fail: exit status 3", "settle 30"]


def test_what_is_half_written_is_waited_for(node: Node) -> None:
    node.run(again=False)
    node.machine.config.write_text("version = 3\n[plugins")

    assert node.run() == upkeep.RETRY
    assert "not valid TOML" in (node.host.text(PROBLEM) or "")
    assert node.restarts == 1


def test_another_release_of_containerd_is_news(node: Node) -> None:
    """1.7 has ours in its main file, 2.x in a drop-in: one that was upgraded would lack a part."""
    patterns = upkeep.watched(node.host, settings_view.Path("/etc/containerd/config.toml"))
    before = upkeep.seen(patterns)
    program = node.machine.root / "usr" / "bin" / "containerd"
    program.parent.mkdir(parents=True)
    program.touch()

    assert upkeep.seen(patterns) != before


def test_links_are_watched_and_what_they_lead_to(node: Node) -> None:
    """An absolute link leads somewhere else in a container."""
    folder = node.machine.config.parent
    (folder / "real.toml").write_text('imports = ["conf.d/*.toml"]\n')
    node.machine.config.unlink()
    node.machine.config.symlink_to("/etc/containerd/real.toml")

    patterns = upkeep.watched(node.host, settings_view.Path("/etc/containerd/config.toml"))

    assert str(folder / "conf.d" / "*.toml") in patterns.splitlines()
    before = upkeep.seen(patterns)
    assert str(folder / "real.toml") in before
    (folder / "conf.d").mkdir()
    assert upkeep.seen(patterns) == before
    (folder / "conf.d" / "99 nvidia.toml").touch()
    assert "99 nvidia.toml" in upkeep.seen(patterns)


def test_it_goes_with_a_restart_only(node: Node) -> None:
    wanted = node_setup_command.Wanted(
        host_root=node.machine.root,
        keep="/tmp/stamp",
    )

    with pytest.raises(output.UsageError, match="--keep goes with --restart"):
        node_setup_command.node_setup(wanted, as_json=False)
