"""A node that starts while its server cannot be had, and servers that cannot be had at all."""

import asyncio
import json

import pytest

from agent.kits.processes import workers
from agent.mounts import mountinfo, nfs, nfs_worker
from agent.node.health import store_mount
from lab.guest import nfsd
from tests.guest.inside import conftest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]


def reason(node) -> str:
    return json.loads(node.get("/status"))["node"]["reason"]


def test_a_node_that_boots_without_the_server_serves_when_it_comes(
    server, store, registry, tmp_path
) -> None:
    server.stop()
    with (
        conftest.Node(tmp_path, registry) as node,
        conftest.cri.Client(node.containerd.address, tmp_path / "logs") as client,
    ):
        conftest.wait_until(lambda: "is the NFS service running?" in reason(node))
        node.schedule(node.pod("early", conftest.STORED, "true"))

        # Not as if the store had no images: that the pod waits is what serves it later.
        conftest.wait_until(lambda: "cannot be mounted" in sentence(node, "early"))
        assert not node.capable()
        assert node.mounts() == []

        # Refused connections were the easy case; now nothing comes back.
        server.cut()
        server.start()
        conftest.wait_until(lambda: "does not answer: is it up" in reason(node))
        server.mend()
        back = conftest.wait_until(node.capable)
        conftest.note(f"capable {back:.1f} s after a server that was cut off is there")
        conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))

        # And once more, now that it is mounted.
        server.cut()
        conftest.wait_until(lambda: not node.capable())
        server.mend()
        back = conftest.wait_until(node.capable)
        conftest.note(f"capable {back:.1f} s after the wire was mended")


def sentence(node, name: str) -> str:
    pods = json.loads(node.get("/status"))["pods"]
    return "".join(pod["sentence"] for pod in pods if pod["name"] == name)


@pytest.mark.parametrize(
    ("export", "said"),
    [
        (f"{nfsd.ADDRESS}:/none", "has no such export"),
        ("no-such-server.invalid:/store", "its name, the DNS and the route"),
        ("10.99.0.1:/store", "no route"),
    ],
)
def test_the_agent_says_what_is_wrong_with_an_export(
    export, said, server, store, registry, tmp_path
) -> None:
    with conftest.Node(tmp_path, registry, export) as node:
        conftest.wait_until(lambda: said in reason(node))

        assert node.get("/healthz") == "ok\n"
        assert export in reason(node)


async def test_a_server_of_which_one_head_is_dead_is_mounted_from_the_other(
    server, store, tmp_path
) -> None:
    heads = server.add_heads("heads.example")
    wanted = nfs.wanted("heads.example:/store", "", tmp_path / "store")
    async with workers.Pool("agent.mounts.nfs_worker", name="the test", size=1) as pool:
        assert tuple(await pool.call("resolve", "heads.example", deadline=20)) == heads
        kept = store_mount.Mounting(wanted, pool, store_mount.Signals(), deadline=60)
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(kept.run())
            while kept.problem and loop.time() - started < 60:
                await asyncio.sleep(0.05)
            task.cancel()
        took = loop.time() - started

    assert kept.problem == ""
    assert (tmp_path / "store/store.json").exists()
    (mount,) = [each for each in mountinfo.read() if each.target.startswith(f"{tmp_path}/")]
    # Or another of its addresses: the client knows a server that it has mounted from before.
    assert f"addr={heads[0]}" not in mount.options
    assert nfs_worker.unmount(mount.target)
    conftest.note(f"mounted {took:.1f} s after the first of two addresses was silent")


@pytest.mark.parametrize(
    ("without", "version"), [(("4.2",), "4.1"), (("4.2", "4.1"), "4.0"), ((), "4.2")]
)
def test_an_older_server_is_spoken_to_in_its_version(
    without, version, server, store, tmp_path
) -> None:
    server.stop()
    server.start(without=without)
    attempts = nfs.attempts(nfs.parse_options(""))
    took = nfs_worker.mount(conftest.EXPORT, nfsd.ADDRESS, str(tmp_path / "m"), attempts)

    assert f"vers={version}," in took
    assert (tmp_path / "m/store.json").exists()
    assert nfs_worker.unmount(str(tmp_path / "m"))


SOFT = {"soft": "", "timeo": "10", "retrans": "1"}
"""As impatient as a soft mount can sensibly be: a second, and once more."""


async def test_a_worker_on_a_hard_mount_ends_sooner_than_a_soft_mount_gives_up(
    server, store, tmp_path
) -> None:
    """Why there is one hard mount, and no soft one beside it for look-ups."""
    for name in ("hard", "soft"):
        options = nfs.parse_options("")
        if name == "soft":
            del options["hard"]
            options |= SOFT
        target = str(tmp_path / name)
        nfs_worker.mount(conftest.EXPORT, nfsd.ADDRESS, target, nfs.attempts(options))
    loop = asyncio.get_running_loop()
    took = {}
    server.stop()
    async with workers.Pool(
        "agent.store.lookup.file_reads", name="the test", size=1, max_stuck=1
    ) as pool:
        for operation in ("size_of", "read"):
            for name, deadline in (("hard", 1.0), ("soft", 60.0)):
                path = str(tmp_path / name / f"{operation}-{name}")
                arguments = (path,) if operation == "size_of" else (path, 100)
                started = loop.time()
                with pytest.raises((OSError, workers.DeadlineError)) as caught:
                    await pool.call(operation, *arguments, deadline=deadline)
                took[name, operation] = loop.time() - started
                assert isinstance(caught.value, OSError) is (name == "soft"), caught.value
        # A killed worker that hung in the kernel would be counted half a second later.
        await asyncio.sleep(1)
        assert pool.stuck == 0
    server.start()
    for (name, operation), seconds in took.items():
        conftest.note(f"{operation} on a {name} mount without a server: {seconds:.2f} s")
