import socket

import pytest

from agent import errors
from agent._proto.containerd import introspection_pb2
from agent.node import capability, probing

Check = capability.Check


class Store:
    def __init__(self) -> None:
        self.problem = ""

    async def store(self) -> None:
        if self.problem:
            raise errors.TemporaryError(self.problem)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def prober(store, client) -> probing.Prober:
    # The fake has no CRI plugin, so there is nobody to ask for handlers.
    return probing.Prober(store, client, snapshotter="uimgacc", interval=1, handlers_needed=False)


def plug(fake, **fields: object) -> None:
    fake.plugins.append(
        introspection_pb2.Plugin(type="io.containerd.snapshotter.v1", id="uimgacc", **fields)
    )


async def test_a_node_with_everything_is_capable(prober, fake) -> None:
    plug(fake)
    verdict = await prober.look()

    assert verdict.capable, verdict.problems


async def test_a_store_that_is_silent_for_long_takes_it_away(prober, store, fake) -> None:
    plug(fake)
    await prober.look()
    store.problem = "the store does not answer"
    verdicts = [await prober.look() for _ in range(3)]

    assert [verdict.capable for verdict in verdicts] == [True, True, False]


async def test_the_return_of_the_store_is_told_once(store, client) -> None:
    returns = []
    prober = probing.Prober(
        store,
        client,
        snapshotter="uimgacc",
        interval=1,
        handlers_needed=False,
        on_store_back=lambda: returns.append(1),
    )
    for problem in ("", "hangs", "hangs", "", ""):
        store.problem = problem
        await prober.look()

    assert returns == [1]


async def test_a_new_agent_takes_nothing_away_for_one_late_answer(store, client, fake) -> None:
    plug(fake)
    told = []
    prober = probing.Prober(
        store,
        client,
        snapshotter="uimgacc",
        interval=1,
        handlers_needed=False,
        on_verdict=lambda verdict: told.append(verdict.capable),
    )
    store.problem = "late"
    await prober.look()
    early = list(told)
    store.problem = ""
    await prober.look()

    assert (early, told) == ([], [True])


async def test_a_new_agent_tells_what_lasts(store, client) -> None:
    told = []
    prober = probing.Prober(
        store,
        client,
        snapshotter="uimgacc",
        interval=1,
        on_verdict=lambda verdict: told.append(verdict.capable),
    )
    for _ in range(3):
        await prober.look()

    assert told == [False]


async def test_what_to_do_is_said_where_the_plugin_is_missing(prober) -> None:
    verdict = await prober.look()

    assert "uimgacc node-setup" in verdict.problems[Check.PLUGIN]


async def test_a_plugin_that_failed_is_a_problem(prober, fake) -> None:
    plug(fake, init_err=introspection_pb2.InitError(message="no such socket"))
    verdict = await prober.look()

    assert "no such socket" in verdict.problems[Check.PLUGIN]


async def test_nobody_behind_the_socket_is_a_problem(prober, fake, tmp_path) -> None:
    plug(fake, exports={"address": str(tmp_path / "s")})
    verdict = await prober.look()

    assert list(verdict.problems) == [Check.SNAPSHOTTER]


async def test_somebody_behind_the_socket_is_none(prober, fake, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        plug(fake, exports={"address": f"unix://{tmp_path}/s"})
        verdict = await prober.look()

    assert verdict.capable, verdict.problems


async def test_a_containerd_that_is_away_is_a_problem(prober, fake) -> None:
    await fake.stop()
    verdict = await prober.look()

    assert list(verdict.problems) == [Check.CONTAINERD]
