import asyncio
import contextlib
import dataclasses
import pathlib
import socket

import pytest

from agent import errors
from agent._proto.containerd import introspection_pb2
from agent.clients.containerd import objects, sockets
from agent.metrics import registries
from agent.model import keys, records, reports
from agent.node.health import capability, probe, store_mount
from agent.node.native import native_node
from agent.settings import agent_settings
from tests.fakes import containerd as fakes

Check = capability.Check


class Store:
    def __init__(self) -> None:
        self.problem = ""
        self.local = 0
        self.record = records.StoreRecord(format=1, id="s")

    async def store(self) -> records.StoreRecord:
        if self.problem:
            raise errors.TemporaryError(self.problem)
        return self.record

    async def local_images(self, root: str) -> int:
        return self.local


class Others:
    """The node object and the pods: they note what the prober lets them know."""

    def __init__(self) -> None:
        self.verdicts: list[bool] = []
        self.retries = 0

    def judged(self, verdict: capability.Verdict) -> None:
        self.verdicts.append(verdict.capable)

    def retry_now(self) -> None:
        self.retries += 1


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def signals() -> store_mount.Signals:
    return store_mount.Signals()


@pytest.fixture
def prober(store, client, others, signals) -> probe.Prober:
    # The fake has no CRI plugin that could be asked for handlers.
    wanted = probe.Settings(snapshotter="uimgacc", interval=1, handlers_needed=False)
    return probe.Prober(store, client, others, others, signals, wanted)


def plug(fake, **fields: object) -> None:
    fake.plugins.append(
        introspection_pb2.Plugin(type="io.containerd.snapshotter.v1", id="uimgacc", **fields)
    )


async def test_a_node_with_everything_is_capable(prober, fake) -> None:
    plug(fake)
    verdict = await prober.look()

    assert verdict.capable, verdict.problems


async def test_the_remark_of_node_set_up_is_part_of_the_verdict_while_it_exists(
    prober, fake, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(fake)
    problem = tmp_path / "problem"
    monkeypatch.setattr(reports, "SETUP_PROBLEM", str(problem))
    before = await prober.look()
    problem.write_text("another tool took it out")
    during = await prober.look()
    problem.unlink()
    after = await prober.look()

    assert [each.remark for each in (before, during, after)] == ["", "another tool took it out", ""]
    assert during.capable


async def test_what_node_set_up_waits_for_is_a_metric(
    prober, fake, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(fake)
    waiting = tmp_path / "waiting"
    monkeypatch.setattr(reports, "SETUP_WAITING", str(waiting))
    monkeypatch.setattr(reports, "SETUP_NOT_BACK", str(tmp_path / "not-back"))
    values = []
    for step in (None, waiting.touch, waiting.unlink):
        if step:
            step()
        await prober.look()
        sample = registries.AGENT.get_sample_value
        values.append([sample("uimgacc_setup_waiting", {"state": s}) for s in ("slot", "return")])

    assert values == [[0, 0], [1, 0], [0, 0]]


async def test_a_store_that_is_silent_for_long_takes_it_away(prober, store, fake) -> None:
    plug(fake)
    await prober.look()
    store.problem = "the store does not answer"
    verdicts = [await prober.look() for _ in range(3)]

    assert [verdict.capable for verdict in verdicts] == [True, True, False]


async def test_pods_are_retried_once_when_the_store_answers_again(prober, store, others) -> None:
    for problem in ("", "hangs", "hangs", "", ""):
        store.problem = problem
        await prober.look()

    assert others.retries == 1


async def test_a_new_agent_takes_nothing_away_for_one_late_answer(
    prober, store, others, fake
) -> None:
    plug(fake)
    store.problem = "late"
    await prober.look()
    early = list(others.verdicts)
    store.problem = ""
    await prober.look()

    assert (early, others.verdicts) == ([], [True])


async def test_a_new_agent_reports_a_problem_that_lasts(store, client, others, signals) -> None:
    wanted = probe.Settings(snapshotter="uimgacc", interval=1)
    prober = probe.Prober(store, client, others, others, signals, wanted)
    for _ in range(3):
        await prober.look()

    assert others.verdicts == [False]


async def test_each_problem_of_the_store_wakes_the_mount_of_the_store(
    prober, store, signals
) -> None:
    woken = []
    for problem in ("", "hangs", "hangs", ""):
        store.problem = problem
        await prober.look()
        woken.append(signals.silent.is_set())
        signals.silent.clear()

    assert woken == [False, True, True, False]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("able", [True, False])
async def test_user_namespaces_need_the_snapshotters_ability_and_the_runtimes(
    store, others, signals, told, able
) -> None:
    class Mapping(Loaded):
        async def plugin(self, kind: str, name: str) -> objects.Plugin:
            capabilities = frozenset({keys.REMAP_IDS} if told else ())
            plain = await super().plugin(kind, name)
            return dataclasses.replace(plain, capabilities=capabilities)

        async def maps_ids(self, handler: str) -> bool:
            assert handler == ""
            return able

    wanted = probe.Settings(snapshotter="uimgacc", interval=1, handlers_needed=False)
    prober = probe.Prober(store, Mapping(""), others, others, signals, wanted)

    assert (await prober.look()).maps_ids is (told and able)


class Silent(Store):
    """A store that takes its whole deadline to say nothing."""

    async def store(self) -> None:
        if self.problem:
            await asyncio.sleep(2)
        await super().store()


class Loaded:
    """A containerd that has the snapshotter, at an address if one is given."""

    def __init__(self, address: str) -> None:
        self._exports = {"address": address} if address else {}

    async def plugin(self, kind: str, name: str) -> objects.Plugin:
        return objects.Plugin(kind=kind, id=name, exports=self._exports, error="")


@contextlib.asynccontextmanager
async def looking(store: Store, address: str = "", *, signals: store_mount.Signals | None = None):
    """A prober at work with the default times."""
    wanted = probe.Settings(
        snapshotter="uimgacc",
        interval=agent_settings.Agent(store=pathlib.Path("store")).probe_seconds,
        handlers_needed=False,
    )
    others = Others()
    prober = probe.Prober(
        store, Loaded(address), others, others, signals or store_mount.Signals(), wanted
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(prober.run())
        yield prober
        task.cancel()


async def wait_for(prober: probe.Prober, *, capable: bool) -> float:
    """Seconds until the verdict is so."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while prober.verdict.capable is not capable:
        await asyncio.sleep(0.1)
    return loop.time() - started


@pytest.mark.looptime
async def test_a_silent_store_takes_a_node_away_within_fifteen_seconds() -> None:
    store = Silent()
    async with looking(store) as prober:
        await wait_for(prober, capable=True)
        # Just after a look, the worst moment.
        store.problem = "silent"

        assert 5 < await wait_for(prober, capable=False) <= 14


@pytest.mark.looptime
async def test_a_store_and_a_snapshotter_that_are_silent_together_take_no_longer(
    monkeypatch,
) -> None:
    store = Silent()

    async def silent(address: str, name: str, *, deadline: float) -> None:
        if store.problem:
            await asyncio.sleep(deadline)
            raise sockets.SilentError(address, "Deadline Exceeded")

    monkeypatch.setattr(sockets, "wait_snapshotter", silent)
    async with looking(store, "unix:///run/s") as prober:
        await wait_for(prober, capable=True)
        store.problem = "silent"

        assert 5 < await wait_for(prober, capable=False) <= 14
        assert {Check.STORE, Check.SNAPSHOTTER} == set(prober.verdict.problems)


@pytest.mark.looptime
async def test_a_store_that_was_just_mounted_is_looked_at_now() -> None:
    store = Silent()
    store.problem = "silent"
    signals = store_mount.Signals()
    async with looking(store, signals=signals) as prober:
        await asyncio.sleep(30.5)
        store.problem = ""
        signals.mounted.set()

        assert await wait_for(prober, capable=True) <= 2.1


async def test_what_to_do_is_said_where_the_plugin_is_missing(prober) -> None:
    verdict = await prober.look()

    assert "uimgacc node-setup" in verdict.problems[Check.PLUGIN]


async def test_a_plugin_that_failed_is_a_problem(prober, fake) -> None:
    plug(fake, init_err=introspection_pb2.InitError(message="no such socket"))
    verdict = await prober.look()

    assert "no such socket" in verdict.problems[Check.PLUGIN]


async def test_a_socket_that_no_process_listens_on_is_a_problem(prober, fake, tmp_path) -> None:
    plug(fake, exports={"address": str(tmp_path / "s")})
    verdict = await prober.look()

    assert list(verdict.problems) == [Check.SNAPSHOTTER]


async def test_a_snapshotter_that_answers_is_none(prober, fake, tmp_path) -> None:
    async with fakes.running(tmp_path / "s"):
        plug(fake, exports={"address": f"unix://{tmp_path}/s"})
        verdict = await prober.look()

    assert verdict.capable, verdict.problems


async def test_a_snapshotter_that_answers_with_an_error_is_a_problem(
    prober, fake, tmp_path
) -> None:
    async with fakes.running(tmp_path / "s") as broken:
        broken.down = True
        plug(fake, exports={"address": f"unix://{tmp_path}/s"})
        verdict = await prober.look()

    assert "does not answer: the snapshotter is away" in verdict.problems[Check.SNAPSHOTTER]


async def test_a_snapshotter_that_only_accepts_hangs(prober, fake, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(probe, "_ANSWER_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        plug(fake, exports={"address": f"unix://{tmp_path}/s"})
        verdict = await prober.look()

    problem = verdict.problems[Check.SNAPSHOTTER]
    assert "hangs" in problem
    assert "end its process" in problem


async def test_a_containerd_that_is_away_is_a_problem(prober, fake) -> None:
    await fake.stop()
    verdict = await prober.look()

    assert list(verdict.problems) == [Check.CONTAINERD]


async def test_a_node_without_its_store_may_serve_what_it_has(prober, store, fake) -> None:
    plug(fake)
    store.problem, store.local = "the store does not answer", 2
    verdict = await prober.look()

    assert verdict.is_local
    assert verdict.sentence.endswith("2 images are served locally, from this node's own copies")
    store.problem = ""
    assert not (await prober.look()).is_local


@pytest.fixture
def native_prober(store, client, others, signals) -> probe.Prober:
    wanted = probe.Settings(
        snapshotter="erofs", interval=1, handlers_needed=False, native_folder="/the/links"
    )
    store.record = records.StoreRecord(format=1, id="s", compression="none")
    return probe.Prober(store, client, others, others, signals, wanted)


def plug_native(fake, *, rebase: bool = True, differ: bool = True, problem: str = "") -> None:
    capabilities = ["rebase"] if rebase else []
    fake.plugins.append(
        introspection_pb2.Plugin(
            type=keys.SNAPSHOTTER_PLUGINS,
            id="erofs",
            capabilities=capabilities,
            exports={"root": "/of/containerd"},
        )
    )
    if differ:
        plugin = introspection_pb2.Plugin(type=keys.DIFFER_PLUGINS, id="erofs")
        plugin.init_err.message = problem
        fake.plugins.append(plugin)


async def test_a_node_serves_by_containerds_own_snapshotter(native_prober, fake) -> None:
    plug_native(fake)
    verdict = await native_prober.look()

    assert verdict.capable, verdict.problems
    # No word of the file by which uimgacc's snapshotter would believe names of images.
    assert verdict.sentence == "images are served from the store"
    assert native_prober.root == "/the/links"
    assert not verdict.mounts_volumes


async def test_nothing_is_acknowledged_before_the_handlers_are_on_containerds_own_snapshotter(
    native_prober, fake, monkeypatch
) -> None:
    """Until then pods start on images of uimgacc's, whose mounts are not looked at."""
    plug_native(fake)
    snapshotter = "uimgacc"

    async def handlers() -> frozenset[str]:
        return frozenset({"uimgacc"})

    async def of(_: str) -> str:
        return snapshotter

    client = native_prober._client
    wanted = dataclasses.replace(native_prober._settings, handlers_needed=True)
    monkeypatch.setattr(native_prober, "_settings", wanted)
    monkeypatch.setattr(client, "runtime_handlers", handlers)
    monkeypatch.setattr(client, "handler_snapshotter", of)
    assert "node-setup --native" in (await native_prober.look()).problems[Check.HANDLER]
    assert native_prober.root == ""

    snapshotter = "erofs"
    await native_prober.look()
    assert native_prober.root == "/the/links"


@pytest.mark.parametrize(
    ("lack", "problem"),
    [
        ({"rebase": False}, "2.4 or newer"),
        ({"differ": False}, "erofs-utils"),
        ({"problem": "no mkfs.erofs here"}, "no mkfs.erofs here"),
    ],
)
async def test_what_containerd_lacks_for_it_is_said(
    native_prober, fake, lack: dict[str, object], problem: str
) -> None:
    plug_native(fake, **lack)
    verdict = await native_prober.look()

    assert problem in verdict.problems[Check.PLUGIN]


async def test_compressed_layers_are_left_to_a_containerd_that_is_said_to_read_them(
    native_prober, store, fake, client, others, signals
) -> None:
    plug_native(fake)
    store.record = records.StoreRecord(format=1, id="s", compression="lz4")
    able = dataclasses.replace(native_prober._settings, native_compressed=True)

    assert "UIMGACC_NATIVE_COMPRESSED" in (await native_prober.look()).problems[Check.STORE]
    assert (await probe.Prober(store, client, others, others, signals, able).look()).capable


def test_a_handler_on_another_snapshotter_is_no_native_one() -> None:
    assert native_node.problem_of_handler("erofs") == ""
    assert "node-setup --native" in native_node.problem_of_handler("uimgacc")
