import asyncio
import datetime

import pytest

from agent._proto.containerd import introspection_pb2
from agent.clients.containerd import rpc
from agent.node.images import containerd_watch, register, repair
from agent.node.report import savings
from tests.unit.node import conftest


class Setting:
    """A watcher of the fake, with a folder that survives it."""

    def __init__(self, containerd, image, folder) -> None:
        self.resets = 0
        self.ledger = savings.Ledger(containerd, folder=None)
        self.registrar = register.Registrar(containerd, conftest.Blobs(image))
        self.watcher = containerd_watch.Watcher(
            containerd,
            repair.Healer(containerd),
            self.ledger,
            self,
            asyncio.Event(),
            containerd_watch.Settings(folder=folder, canary_seconds=0.05, pauses=(0.02,)),
        )

    def serve_again(self) -> None:
        self.resets += 1

    async def __aenter__(self) -> "Setting":
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        watcher = self.watcher
        runs = (watcher.run(), watcher.run_canary(), watcher.run_pulls())
        self.tasks = [self.group.create_task(run) for run in runs]
        await until(lambda: watcher.state.connected)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self.tasks:
            task.cancel()
        await self.group.__aexit__(None, None, None)


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def setting(containerd, image, fake, tmp_path):
    fake.served.update(image.chain)
    fake.plugins.append(introspection_pb2.Plugin(type="t", id="uimgacc"))
    return Setting(containerd, image, tmp_path)


def touches(fake) -> int:
    return len([call for call in fake.log if call.startswith("update")])


async def test_records_are_touched_once_for_each_containerd(
    setting, containerd, image, fake, tmp_path
) -> None:
    await setting.registrar.register(image.wanted)
    async with setting:
        first = touches(fake)
    async with Setting(containerd, image, tmp_path):
        second = touches(fake)
    fake.pid = 2
    async with Setting(containerd, image, tmp_path):
        third = touches(fake)

    assert (first, second, third) == (3, 3, 6)


async def test_what_a_killed_agent_had_under_way_is_collected_at_the_start_of_the_next(
    setting, client, fake, image
) -> None:
    """Its lease would protect that for ten minutes."""
    async with rpc.Client(str(fake.address), deadline=5) as killed:
        lease = await killed.create_lease(600)
        await killed.write(image.config, image.blobs[image.config], labels={}, lease=lease)
    await client.create_lease(600)
    async with setting:
        assert list(fake.leases) != []
        assert lease not in fake.leases
        assert image.config not in fake.blobs


async def test_what_a_pull_of_a_killed_containerd_had_leased_is_ended_when_no_pull_goes_on(
    setting, client, fake, image
) -> None:
    """Its lease would keep the layers mounted for a day."""
    expires = "2026-01-02T00:00:00Z"
    fake.add_snapshot("uimgacc", image.chain[0])
    for lease in ("123-aaaa", "456-bbbb"):
        fake.leases[lease], fake.born[lease] = expires, fake.now
    fake.keep("123-aaaa", "snapshot", "uimgacc", image.chain[0])
    fake.born["456-bbbb"] = datetime.datetime.now(datetime.UTC)
    async with setting:
        await until(lambda: fake.log.count("resources 123-aaaa") > 2)
        kept = list(fake.leases)
        del fake.leases["456-bbbb"]
        await until(lambda: not fake.leases)

        assert kept == ["123-aaaa", "456-bbbb"]
        assert ("uimgacc", image.chain[0]) not in fake.snapshots


async def test_a_restart_of_containerd_is_noticed_and_pods_are_served_again(
    setting, fake, image
) -> None:
    await setting.registrar.register(image.wanted)
    async with setting:
        await fake.stop()
        await until(lambda: not setting.watcher.state.connected)
        fake.pid = 2
        fake.listeners.clear()
        before = setting.resets
        await fake.start(fake.address)
        await until(lambda: setting.watcher.state.connected)

        assert setting.watcher.state.pid == 2
        assert setting.resets == before + 1
        assert touches(fake) == 6


async def test_a_lost_database_is_noticed_by_the_canary(setting, fake, image) -> None:
    await setting.registrar.register(image.wanted)
    async with setting:
        fake.lose_backend()
        await until(lambda: len(fake.backend) == 1)
        await until(lambda: setting.resets == 2)


async def test_a_snapshotter_that_was_away_gets_its_records_touched(setting, fake, image) -> None:
    await setting.registrar.register(image.wanted)
    async with setting:
        before = touches(fake)
        fake.down = True
        await asyncio.sleep(0.15)
        fake.down = False
        await until(lambda: touches(fake) == before + 3)


async def test_an_image_that_the_kubelet_removed_is_no_loss(setting, fake, image) -> None:
    await setting.registrar.register(image.wanted)
    async with setting:
        fake.images.clear()
        fake.lose_backend()
        fake.snapshots.clear()
        await asyncio.sleep(0.2)

        assert setting.resets == 1
        assert fake.images == {}


async def test_pulls_are_measured_as_they_happen(setting, fake) -> None:
    async with setting:
        await until(lambda: fake.listeners)
        pulled = conftest.Image("registry.example/pulled:1")
        pulled.pull_into(fake, "overlayfs")
        fake.announce("/images/create", str(pulled.reference))
        await until(lambda: setting.ledger.throughput.samples)


async def test_of_a_flood_of_pulls_only_the_last_are_kept_for_measuring(
    setting, fake, monkeypatch
) -> None:
    noticed: list[str] = []
    blocked = asyncio.Event()

    async def slow(name: str) -> None:
        noticed.append(name)
        await blocked.wait()

    monkeypatch.setattr(setting.ledger, "noticed", slow)
    async with setting:
        await until(lambda: fake.listeners)
        for number in range(1000):
            fake.announce("/images/create", f"image-{number}")
        await until(lambda: "image-999" in setting.watcher._pending)
        blocked.set()
        await until(lambda: noticed[-1] == "image-999")

    assert len(noticed) <= containerd_watch._PENDING + 1
