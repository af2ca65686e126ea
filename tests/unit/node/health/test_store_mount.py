"""The mount of the store over hours, against a pool with a simulated server."""

import asyncio
import contextlib
import errno
import os
import pathlib
from typing import Any

import pytest

from agent.kits.processes import workers
from agent.mounts import mountinfo, nfs
from agent.node.health import store_mount

pytestmark = pytest.mark.looptime

PLACE = pathlib.Path("/nowhere/store")
EXPORT = "nfs.example:/export"


class Node:
    """A mount table, a link, and a server: what agent.mounts.nfs_worker would do with them."""

    def __init__(self) -> None:
        self.link = ""
        self.table: list[str] = []
        self.ahead: dict[str, int] = {}
        self.read_only_sysfs = False
        self.busy: set[str] = set()
        self.layers: list[str] = []
        self.shared = True
        self.stale: set[str] = set()
        self.failure: Exception | None = None
        self.silent = False
        self.silent_layers = False
        self.tried: list[float] = []
        self.addresses = ["10.0.0.1"]
        self.asked: list[tuple[str, float]] = []
        self.answers_after: dict[str, float] = {}
        """The seconds that a mount from an address takes; others take none."""

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        if operation == "mount":
            address = arguments[1]
            self.asked.append((address, deadline))
            seconds = self.answers_after.get(address, 0.0)
            await asyncio.sleep(min(seconds, deadline))
            if seconds > deadline:
                raise workers.DeadlineError(operation, deadline)
        return getattr(self, f"_{operation}")(*arguments)

    def _resolve(self, server: str) -> list[str]:
        assert server == "nfs.example"
        return self.addresses

    def _survey(self, _place: str) -> tuple[str, str, bool]:
        return ("link" if self.link else "", self.link, False)

    def _used_files(self) -> list[str]:
        if self.silent_layers:
            raise workers.DeadlineError("used_files", 5)
        return self.layers

    def _check(self, path: str) -> None:
        if self.silent:
            raise workers.DeadlineError("check", 5)
        if path in self.stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _mount(self, source: str, _address: str, target: str, attempts: list) -> str:
        self.tried.append(asyncio.get_running_loop().time())
        if self.failure is not None:
            raise self.failure
        assert source == EXPORT
        self.table.append(target)
        return attempts[0][1]

    def _read_ahead(self, target: str, kib: int) -> bool:
        assert target in self.table
        if self.read_only_sysfs:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        before = self.ahead.get(target)
        self.ahead[target] = kib
        return before != kib

    def _link(self, _place: str, text: str) -> None:
        self.link = text

    def _unmount(self, path: str) -> bool:
        if path in self.busy:
            return False
        self.table.remove(path)
        return True

    def entries(self) -> list[mountinfo.Entry]:
        rows = [("nfs4", EXPORT, path) for path in self.table]
        rows += [("erofs", file, f"/layers/{number}") for number, file in enumerate(self.layers)]
        return [
            mountinfo.Entry(
                device=1,
                root="/",
                target=target,
                kind=kind,
                source=source,
                options="ro",
                group=1 if self.shared else 0,
            )
            for kind, source, target in rows
        ]

    @property
    def store(self) -> str:
        return str(PLACE.parent / self.link)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()
    monkeypatch.setattr(mountinfo, "read", made.entries)
    return made


@pytest.fixture
def signals() -> store_mount.Signals:
    return store_mount.Signals()


@pytest.fixture
def kept(node, signals) -> store_mount.Mounting:
    return store_mount.Mounting(nfs.wanted(EXPORT, "", PLACE), node, signals, deadline=20)


@contextlib.asynccontextmanager
async def running(kept: store_mount.Mounting):
    async with asyncio.TaskGroup() as group:
        task = group.create_task(kept.run())
        await asyncio.sleep(0.01)
        yield
        task.cancel()


async def test_the_store_is_mounted_at_the_start(node, kept, signals) -> None:
    before = kept.problem
    async with running(kept):
        assert "not mounted yet" in before
        assert kept.problem == ""
        assert node.table == [node.store]
        assert signals.mounted.is_set()


async def test_a_server_that_is_away_is_tried_again_with_pauses(node, kept, signals) -> None:
    node.failure = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    async with running(kept):
        await asyncio.sleep(60)
        assert "is the NFS service running?" in kept.problem
        assert EXPORT in kept.problem
        node.failure = None
        await asyncio.sleep(15)
        assert kept.problem == ""

    pauses = [after - before for before, after in zip(node.tried, node.tried[1:], strict=False)]
    assert pauses[0] < 1.5
    assert 7 < max(pauses) <= 12.5


async def test_what_is_there_is_taken_without_a_word_to_the_server_but_one(
    node, kept, signals
) -> None:
    async with running(kept):
        pass
    node.failure = AssertionError("nothing is to be mounted")
    successor = store_mount.Mounting(nfs.wanted(EXPORT, "", PLACE), node, signals, deadline=20)
    async with running(successor):
        await asyncio.sleep(3600)

    assert node.tried == [node.tried[0]]
    assert len(node.table) == 1


async def test_a_silent_server_changes_nothing(node, kept, signals) -> None:
    async with running(kept):
        store = node.store
        node.silent = True
        for _ in range(20):
            signals.silent.set()
            await asyncio.sleep(3)
        assert kept.problem == ""
        assert node.table == [store] == [node.store]


async def test_a_stale_mount_is_replaced_and_the_old_one_goes_when_it_is_idle(
    node, kept, signals
) -> None:
    async with running(kept):
        old = node.store
        # A layer is from it, and then a worker looks something up in it.
        node.stale, node.busy, node.layers = {old}, {old}, [f"{old}/sha256/ab/ab.erofs"]
        signals.silent.set()
        await asyncio.sleep(0.01)
        new = node.store
        assert new != old
        node.busy.clear()
        await asyncio.sleep(600)
        assert node.table == [old, new]
        node.busy, node.layers = {old}, [f"{new}/sha256/ab/ab.erofs"]
        await asyncio.sleep(600)
        assert node.table == [old, new]
        node.busy.clear()
        await asyncio.sleep(61)
        assert node.table == [new]


async def test_an_old_mount_stays_while_the_files_of_layers_are_not_known(
    node, kept, signals
) -> None:
    async with running(kept):
        await asyncio.sleep(1)
        old = node.store
        node.stale.add(old)
        node.silent_layers = True
        signals.silent.set()
        await asyncio.sleep(1)
        assert node.store != old
        assert old in node.table

        node.silent_layers = False
        await asyncio.sleep(61)
        assert node.table == [node.store]


async def test_a_stale_mount_stays_while_nothing_can_take_its_place(node, kept, signals) -> None:
    async with running(kept):
        old = node.store
        node.stale = {old}
        node.failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        signals.silent.set()
        await asyncio.sleep(0.01)
        assert "no such export" in kept.problem
        assert node.store == old
        node.failure = None
        await asyncio.sleep(15)
        assert kept.problem == ""
        assert node.store != old


DEAD, ALIVE, LATE = "10.0.0.1", "10.0.0.2", "10.0.0.3"


async def test_an_address_that_drops_everything_is_passed_over(node, kept, signals) -> None:
    node.addresses, node.answers_after = [DEAD, ALIVE], {DEAD: 1e9}
    async with running(kept):
        await asyncio.sleep(6)
        assert kept.problem == ""

    assert node.asked == [(DEAD, 5), (ALIVE, 5)]


async def test_a_slow_server_has_its_whole_time_where_no_other_address_works(
    node, kept, signals
) -> None:
    node.addresses, node.answers_after = [DEAD, LATE], {DEAD: 1e9, LATE: 12}
    async with running(kept):
        await asyncio.sleep(5 + 5 + 20 + 13)
        assert kept.problem == ""

    assert node.asked == [(DEAD, 5), (LATE, 5), (DEAD, 20), (LATE, 20)]


async def test_the_only_address_has_its_whole_time_at_once(node, kept, signals) -> None:
    node.answers_after = {"10.0.0.1": 12}
    async with running(kept):
        await asyncio.sleep(13)
        assert kept.problem == ""

    assert node.asked == [("10.0.0.1", 20)]


async def test_an_address_that_refuses_says_more_than_one_that_is_silent(
    node, kept, signals
) -> None:
    node.addresses, node.answers_after = [ALIVE, DEAD], {DEAD: 1e9}
    node.failure = OSError(errno.EACCES, os.strerror(errno.EACCES))
    async with running(kept):
        await asyncio.sleep(26)
        assert "add the node's address to the export" in kept.problem

    # One that has refused need not be asked again so soon.
    assert node.asked[:3] == [(ALIVE, 5), (DEAD, 5), (DEAD, 20)]


@pytest.mark.parametrize(("shared", "warned"), [(True, 0), (False, 1)])
async def test_a_mount_that_the_host_cannot_see_is_warned_of(
    shared, warned, node, kept, caplog
) -> None:
    node.shared = shared
    async with running(kept):
        pass

    assert caplog.text.count("Bidirectional") == warned


async def test_look_ups_fail_at_once_while_it_is_not_mounted(node, kept, signals) -> None:
    gate = store_mount.Gate(node, kept)
    with pytest.raises(store_mount.NotMounted, match="not mounted yet"):
        await gate.call("survey", "", deadline=1)
    async with running(kept):
        assert await gate.call("survey", "", deadline=1) == ("link", node.link, False)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (workers.DeadlineError("mount", 20), "does not answer: is it up"),
        (workers.DeadlineError("resolve", 20), "are its name, the DNS"),
        (OSError(errno.EACCES, "Permission denied"), "add the node's address to the export"),
        (OSError(errno.ENODEV, "No such device"), "has no NFS client"),
        (OSError(errno.EHOSTUNREACH, "Name or service not known"), "Name or service not known"),
        (OSError(errno.EIO, "Input/output error"), "the kernel says (Input/output error)"),
        (nfs.Unusable("what is in the way"), "what is in the way"),
    ],
)
def test_what_went_wrong_comes_with_what_to_do(error, said) -> None:
    assert said in store_mount.explain(nfs.parse_export(EXPORT), error)


def ahead(node: Node, signals: store_mount.Signals, kib: int) -> store_mount.Mounting:
    wanted = nfs.wanted(EXPORT, "", PLACE)
    return store_mount.Mounting(wanted, node, signals, deadline=20, read_ahead=kib)


async def test_the_read_ahead_is_set_on_each_mount_that_is_the_store(node, signals) -> None:
    async with running(ahead(node, signals, 15360)):
        first = node.store
        assert node.ahead == {first: 15360}
        # A rule of udev sets another one when it hears of the mount.
        node.ahead[first] = 128
        await asyncio.sleep(store_mount._SETTLE_SECONDS + 1)
        assert node.ahead == {first: 15360}
        node.stale.add(first)
        signals.silent.set()
        await asyncio.sleep(1)
        assert node.ahead == {first: 15360, node.store: 15360}
    async with running(ahead(node, signals, 4096)):
        assert node.ahead[node.store] == 4096


async def test_without_a_read_ahead_that_of_the_machine_stays(node, kept) -> None:
    async with running(kept):
        await asyncio.sleep(3600)

    assert node.ahead == {}


async def test_where_sysfs_cannot_be_written_the_store_is_mounted_all_the_same(
    node, signals, caplog
) -> None:
    node.read_only_sysfs = True
    kept = ahead(node, signals, 15360)
    async with running(kept):
        for _ in range(5):
            signals.silent.set()
            await asyncio.sleep(60)
        assert kept.problem == ""

    said = [record for record in caplog.records if "read-ahead" in record.message]
    assert [record.levelname for record in said] == ["WARNING"]
