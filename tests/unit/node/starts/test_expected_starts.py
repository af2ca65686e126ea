"""Starts are observed once, look by look, and read ahead the next time. In fake time."""

import asyncio
import contextlib
import errno
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from agent import errors
from agent.kits.aio import threads
from agent.model import images, records
from agent.model.starts import profile_codec, start_profiles
from agent.model.starts.start_profiles import Piece, Profile
from agent.node.starts import expected_starts, profile_book, read_ahead, start_watch
from agent.store import profile_files
from tests.unit.store import making

pytestmark = pytest.mark.looptime

LOWER, UPPER = making.digest("a"), making.digest("b")
PLATFORM = images.parse_platform("linux/amd64")
IMAGE = making.image_record(making.REF, [making.layer_record("a"), making.layer_record("b")])
MANIFEST = IMAGE.platforms[0].manifest
CACHE = ("uimgacc.io", "tools")


def bits(*units: int) -> bytes:
    return start_watch.bits_of(units).to_bytes(64, "little")


class Machine:
    """The node and its kernel: what of two layers is in memory at each second.

    `script` has at which second what is read: (second, layer, units). A container runs from
    `starts` to `ends`; another one uses the lower layer while `shares`.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.root = str(folder)
        self.script: list[tuple[float, int, tuple[int, ...]]] = []
        self.starts, self.ends = 3.0, 1e9
        self.shares = False
        self.through_cache = [True, True]
        self.unused: list[tuple[int, ...]] | None = None
        self.dropped_at = 1e9
        """When everything goes from memory."""
        self.away = False
        self.read: list[tuple[str, int, int]] = []
        self.requests: list[int] = []
        self.looks = 0

    async def process(self) -> int:
        return 1

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        del deadline
        if self.away:
            raise errors.TemporaryError("the store hangs")
        return getattr(self, f"_{operation}")(*arguments)

    def _files_of(self, _store: str, chains: list[str]) -> list[str]:
        return [name.removeprefix("sha256:") for name in (LOWER, UPPER)][: len(chains)]

    def _look(self, *_arguments: Any) -> Any:
        self.looks += 1
        now = asyncio.get_running_loop().time()
        units: list[set[int]] = [set(), set()]
        for second, layer, what in self.script:
            if now >= second and (now < self.dropped_at or second >= self.dropped_at):
                units[layer] |= set(what)
        runs = self.starts <= now < self.ends
        of_layers = [
            (1 << 30, bits(*each), through)
            for each, through in zip(units, self.through_cache, strict=True)
        ]
        return runs, runs or self.shares, of_layers

    def _unused(self, _store: str, names: list[str]) -> list[bytes]:
        if self.unused is None:
            raise OSError(errno.ENOENT, "no flags of pages")
        return [bits(*self.unused[at]) for at, _ in enumerate(names)]

    def _read_ahead(
        self, _store: str, _copies: str, pieces: list[tuple[str, int, int]], requests: int
    ) -> tuple[int, int]:
        self.read += pieces
        self.requests.append(requests)
        return sum(length for _, _, length in pieces), 0


class Store:
    """The profiles of the store."""

    def __init__(self) -> None:
        self.found: list[records.ProfileRecord] = []
        self.away = False

    async def profiles(self, reference: images.Reference) -> list[records.ProfileRecord]:
        del reference
        if self.away:
            raise errors.TemporaryError("away")
        return self.found


class Setting:
    """All parts together; what is offered to the controller is in `offered`."""

    def __init__(self, folder: pathlib.Path, *, limit: int = 1 << 30) -> None:
        self.machine = Machine(folder)
        self.store = Store()
        self.offered: list[expected_starts.Observed] = []
        self.book = profile_book.Book(self.store, self.machine)
        self.reading = read_ahead.ReadAhead(
            self.machine,
            self.machine,
            read_ahead.Settings(store="/store", limit=limit, requests=16),
        )
        self.expected = expected_starts.ExpectedStarts(
            self.book,
            self.reading,
            start_watch.StartWatch(self.machine, self.machine, "/store"),
            self,
            platform=PLATFORM,
        )

    def offer(self, observed: expected_starts.Observed) -> None:
        self.offered.append(observed)

    def expect(self, record: records.ImageRecord = IMAGE) -> None:
        self.expected.expect(record, CACHE)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.expected.run()),
                group.create_task(self.reading.run()),
            ]
            yield
            for task in tasks:
                task.cancel()

    def kept(self) -> Profile | None:
        """What the node keeps of the image."""
        folder = pathlib.Path(self.machine.root, "local", "profiles")
        found = profile_files.read_all(folder, images.parse_reference(making.REF))
        return profile_files.profile_of(found, MANIFEST)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read and written at once: threads know no fake time."""

    async def at_once(_name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(threads, "run", at_once)


@pytest.fixture
def setting(tmp_path: pathlib.Path) -> Setting:
    return Setting(tmp_path)


def stored(profile: Profile, manifest: str = MANIFEST) -> records.ProfileRecord:
    each = records.PlatformProfile(
        platform="linux/amd64", manifest=manifest, profile=profile_codec.encode(profile)
    )
    return records.ProfileRecord(ref=making.REF, profiles=[each])


async def test_what_the_start_reads_is_kept_in_the_order_of_use_and_offered(setting) -> None:
    setting.machine.script = [(3.2, 1, (40, 41)), (5.0, 0, (7,)), (9.0, 1, (3,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    assert setting.kept() == Profile(
        tuple(sorted((LOWER, UPPER))),
        tuple(
            Piece(sorted((LOWER, UPPER)).index(layer), start, length)
            for layer, start, length in ((UPPER, 40, 2), (LOWER, 7, 1), (UPPER, 3, 1))
        ),
    )
    assert [each.start.cache for each in setting.offered] == [CACHE]
    assert await setting.offered[0].is_stored() is False


async def test_what_the_kernel_has_only_read_ahead_is_not_of_the_start(setting) -> None:
    setting.machine.script = [(0, 0, (0, 1)), (3.2, 1, (40, 41, 42)), (5.0, 0, (7, 8))]
    setting.machine.unused = [(1, 8), (41, 42)]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    kept = setting.kept()
    assert kept is not None
    assert (kept.units_of(LOWER), kept.units_of(UPPER)) == ({0, 7}, {40})


async def test_what_has_gone_from_memory_since_counts_as_read(setting) -> None:
    setting.machine.script = [(3.2, 1, (40, 41)), (5.0, 0, (7,))]
    setting.machine.unused = [(), ()]
    setting.machine.dropped_at = 7.0
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    kept = setting.kept()
    assert kept is not None
    assert (kept.units_of(LOWER), kept.units_of(UPPER)) == ({7}, {40, 41})


async def test_a_start_of_which_nothing_was_seen_in_memory_is_observed_again(setting) -> None:
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)
        assert setting.kept() is None
        setting.machine.script = [(80.0, 0, (7,))]
        setting.machine.starts = 75.0
        setting.expect()
        await asyncio.sleep(120)

    kept = setting.kept()
    assert kept is not None
    assert kept.units_of(LOWER) == {7}


async def test_the_next_start_is_read_ahead_in_that_order(setting) -> None:
    setting.machine.script = [(3.2, 1, (40, 41)), (5.0, 0, (7,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)
        setting.expect()
        await asyncio.sleep(60)

    unit = start_profiles.UNIT
    assert setting.machine.read == [
        (UPPER.removeprefix("sha256:"), 40 * unit, 2 * unit),
        (LOWER.removeprefix("sha256:"), 7 * unit, unit),
    ]
    assert len(setting.offered) == 1


async def test_a_start_is_observed_again_after_its_profile_was_forgotten(setting, tmp_path) -> None:
    setting.machine.script = [(3.2, 1, (40, 41))]
    async with setting.running():
        for _ in range(2):
            setting.expect()
            await asyncio.sleep(60)
        assert profile_files.remove(
            tmp_path / "local" / "profiles", images.parse_reference(making.REF)
        )
        setting.machine.script = [(0, 0, ()), (125, 1, (7,))]
        setting.machine.starts = 124.0
        setting.expect()
        await asyncio.sleep(60)

    kept = setting.kept()
    assert kept is not None
    assert kept.units_of(UPPER) == {7}


async def test_a_crowd_of_pods_has_an_image_read_ahead_once(setting) -> None:
    setting.store.found = [stored(Profile((LOWER, UPPER), (Piece(0, 1, 1),)))]
    async with setting.running():
        for _ in range(100):
            setting.expect()
        await asyncio.sleep(30)

    assert len(setting.machine.read) == 1


async def test_a_start_that_the_store_knows_is_not_kept_again(setting) -> None:
    setting.store.found = [stored(Profile((LOWER, UPPER), (Piece(0, 1, 1),)))]
    setting.machine.script = [(4, 0, (1, 9))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    assert (setting.kept(), setting.offered) == (None, [])


async def test_what_others_could_not_observe_is_added(setting) -> None:
    setting.store.found = [stored(Profile((LOWER,), (Piece(0, 1, 1),)))]
    setting.machine.script = [(4, 1, (5,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    kept = setting.kept()
    assert kept is not None
    assert kept.units_of(UPPER) == {5}
    assert len(setting.offered) == 1


async def test_layers_that_were_in_memory_before_are_not_observed(setting) -> None:
    setting.machine.script = [(0, 0, tuple(range(50))), (4, 0, (60,)), (4, 1, (5,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    assert setting.kept() == Profile((UPPER,), (Piece(0, 5, 1),))


async def test_layers_that_are_read_from_a_copy_are_not_observed(setting) -> None:
    setting.machine.through_cache = [True, False]
    setting.machine.script = [(4, 0, (60,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    assert setting.kept() == Profile((LOWER,), (Piece(0, 60, 1),))


async def test_what_another_container_reads_before_the_start_is_not_of_the_start(setting) -> None:
    setting.machine.shares = True
    setting.machine.starts = 20.0
    setting.machine.script = [(5, 0, (1, 2, 3)), (21, 0, (60,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    kept = setting.kept()
    assert kept is not None
    # Few units that were there before count as what a mount reads.
    assert kept.units_of(LOWER) == {1, 2, 3, 60}


async def test_of_a_layer_that_another_container_has_read_much_of_nothing_is_known(setting) -> None:
    setting.machine.shares = True
    setting.machine.starts = 20.0
    setting.machine.script = [(5, 0, tuple(range(30))), (21, 0, (60,)), (21, 1, (4,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    assert setting.kept() == Profile((UPPER,), (Piece(0, 4, 1),))


async def test_a_container_that_ends_soon_is_observed_to_its_end(setting) -> None:
    setting.machine.ends = 4.0
    setting.machine.script = [(3.1, 0, (8,)), (3.9, 1, (9,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(20)

    kept = setting.kept()
    assert kept is not None
    assert (kept.units_of(LOWER), kept.units_of(UPPER)) == ({8}, {9})


async def test_a_pod_that_does_not_start_is_given_up(setting) -> None:
    setting.machine.starts = 1e9
    async with setting.running():
        setting.expect()
        await asyncio.sleep(700)
        looks = setting.machine.looks
        await asyncio.sleep(700)

    assert setting.machine.looks == looks < 400
    assert setting.kept() is None


async def test_another_build_has_what_it_shares_read_ahead_and_is_observed(setting) -> None:
    other = making.digest("another manifest")
    setting.store.found = [stored(Profile((UPPER,), (Piece(0, 4, 2),)), manifest=other)]
    setting.machine.script = [(0, 1, tuple(range(4, 6))), (4, 0, (1,))]
    async with setting.running():
        setting.expect()
        await asyncio.sleep(60)

    kept = setting.kept()
    assert [start for _, start, _ in setting.machine.read] == [4 * start_profiles.UNIT]
    assert kept is not None
    assert (kept.units_of(LOWER), kept.units_of(UPPER)) == ({1}, {4, 5})


async def test_a_store_that_hangs_stops_reading_ahead_and_harms_nothing(setting) -> None:
    setting.store.found = [stored(Profile((LOWER, UPPER), (Piece(0, 1, 1),)))]
    setting.machine.away = setting.store.away = True
    async with setting.running():
        setting.expect()
        await asyncio.sleep(10)
        setting.store.away = False
        setting.expect()
        await asyncio.sleep(10)
        setting.machine.away = False
        setting.expect()
        await asyncio.sleep(60)

    assert len(setting.machine.read) == 1


async def test_an_image_without_layers_or_for_other_machines_is_left_alone(setting) -> None:
    made = IMAGE.platforms[0]
    without = msgspec.structs.replace(made, layers=[])
    arm = msgspec.structs.replace(made, platform="linux/arm64")
    async with setting.running():
        for each in (without, arm):
            setting.expect(msgspec.structs.replace(IMAGE, platforms=[each]))
        await asyncio.sleep(10)

    assert setting.machine.looks == 0


async def test_images_take_turns_within_their_limits(tmp_path) -> None:
    unit = start_profiles.UNIT
    setting = Setting(tmp_path, limit=3 * unit)
    one = Profile((LOWER,), tuple(Piece(0, 2 * at, 1) for at in range(9)))
    two = Profile((UPPER,), (Piece(0, 0, 2), Piece(0, 9, 4)))
    async with setting.running():
        setting.reading.add("one", one)
        setting.reading.add("one", one)
        setting.reading.add("two", two)
        await asyncio.sleep(1)

    names = [
        "b" if name == UPPER.removeprefix("sha256:") else "a" for name, _, _ in setting.machine.read
    ]
    assert names == ["a", "b", "a", "b", "a"]
    assert sum(length for _, _, length in setting.machine.read) == 6 * unit
    assert set(setting.machine.requests) == {16}


def test_units_and_bits_are_the_same() -> None:
    units = [0, 7, 8, 1000, 70_000]

    assert start_watch.units_of(start_watch.bits_of(units)) == units
    assert start_watch.units_of(start_watch.bits_of([])) == []
