"""Images laid out on containerd's own snapshotter, by links in the folder that is its cache."""

import asyncio
import concurrent.futures
import contextlib
import pathlib
import threading

import msgspec
import pytest

from agent import errors
from agent.clients.containerd import objects
from agent.kits import machine
from agent.model import keys, records, reports
from agent.node.images import inventory, register
from agent.node.native import layer_links, native_chains
from agent.store import layout
from tests.unit.node import conftest

NATIVE = keys.NATIVE_SNAPSHOTTER


class Store:
    """A store with the layers of images; a test takes some away."""

    def __init__(self, folder: pathlib.Path, *images: conftest.Image) -> None:
        self.layout = layout.Layout(folder)
        self.chains = {
            layer.chain_id: layer.diff_id for image in images for layer in image.wanted.layers
        }
        self.damaged: set[str] = set()
        self.asked = 0
        for diff_id in self.chains.values():
            path = self.layout.layer(diff_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    async def chain(self, chain_id: str) -> records.ChainRecord | None:
        self.asked += 1
        diff_id = self.chains.get(chain_id)
        return None if diff_id is None else records.ChainRecord(diff_id=diff_id, parent=None)

    async def layer(self, diff_id: str) -> records.LayerRecord | None:
        if diff_id in self.damaged:
            return None
        return records.LayerRecord(
            diff_id=diff_id,
            size=0,
            tar_size=0,
            sha256=diff_id,
            blobs=[],
            mkfs=records.Toolchain(version="1.9", options=[]),
        )


@pytest.fixture
def folder(tmp_path: pathlib.Path, fake) -> pathlib.Path:
    fake.cache = tmp_path / "native"
    fake.cache.mkdir()
    announce(fake.cache, machine.boot_id())
    return fake.cache


def announce(folder: pathlib.Path, boot: str) -> None:
    announced = reports.Announced(cluster="", boot=boot)
    (folder / reports.ANNOUNCED).write_bytes(msgspec.json.encode(announced))


@pytest.fixture
def store(tmp_path: pathlib.Path, image) -> Store:
    return Store(tmp_path / "store", image)


@pytest.fixture
def native(client, store, folder):
    return native_chains.of(client, inventory.Inventory(client, conftest.PLATFORM), store, folder)


def wanted(image: conftest.Image):
    made = register.registration_plan.registration_of(
        image.reference, image.record, conftest.PLATFORM, snapshotter=NATIVE
    )
    assert made is not None
    return made


def targets(folder: pathlib.Path) -> list[str]:
    return sorted(str(link.readlink()) for link in folder.glob("*/*/*.erofs"))


async def test_each_layer_is_a_snapshot_on_the_one_below_and_the_image_is_present(
    native, fake, image, store, folder
) -> None:
    registrar = register.Registrar(native, conftest.Blobs(image))
    done = await registrar.register(wanted(image))

    assert [layer.chain_id for layer in done.new] == image.chain
    assert [fake.snapshots[NATIVE, each][0] for each in image.chain] == ["", image.chain[0]]
    assert str(image.reference) in fake.images
    assert set(targets(folder)) == {str(store.layout.layer(e)) for e in store.chains.values()}
    # What a person can know of a layer finds no link.
    names = {link.stem for link in folder.glob("*/*/*.erofs")}
    assert not names & {each.removeprefix("sha256:") for each in store.chains.values()}
    assert await native.chains.served(image.chain) == frozenset(image.chain)
    asked = store.asked
    assert (await registrar.register(wanted(image))).already
    assert store.asked == asked


@pytest.mark.parametrize("lack", ["chain", "damaged", "link"])
async def test_what_the_store_or_containerd_lacks_is_left_to_the_pull(
    native, fake, image, store, folder, lack: str
) -> None:
    if lack == "chain":
        del store.chains[image.chain[1]]
    elif lack == "damaged":
        store.damaged.add(store.chains[image.chain[1]])
    else:
        fake.cache = folder / "elsewhere"
    with pytest.raises(register.NotServedError):
        await register.Registrar(native, conftest.Blobs(image)).register(wanted(image))

    assert not fake.images
    assert not [key for key in fake.snapshots if key[0] == NATIVE]


async def test_a_chain_that_is_deleted_meanwhile_is_not_used(native, fake, image, store) -> None:
    prepare = native.client.prepare

    async def and_delete(*arguments, **more):
        store.chains.clear()
        return await prepare(*arguments, **more)

    native.client.prepare = and_delete
    with pytest.raises(register.NotServedError):
        await register.Registrar(native, conftest.Blobs(image)).register(wanted(image))

    assert not [key for key in fake.snapshots if key[0] == NATIVE]


@pytest.mark.parametrize("boot", ["", "another one"])
async def test_nothing_is_linked_before_deletions_wait_for_the_node(
    native, image, folder, boot: str
) -> None:
    announce(folder, boot)
    with pytest.raises(native_chains.NotAnnouncedError):
        await register.Registrar(native, conftest.Blobs(image)).register(wanted(image))

    assert targets(folder) == []


async def test_containers_of_uimgaccs_snapshotter_still_read_the_store(native) -> None:
    """They began before --native: the mounts of that snapshotter are not looked at here."""
    names = keys.SNAPSHOTTER, NATIVE
    of = [objects.Container(id=name, snapshotter=name, snapshot_key="c") for name in names]

    assert await native.chains.elsewhere(of) == [keys.SNAPSHOTTER]


async def test_links_go_with_the_last_snapshot(native, fake, image, folder) -> None:
    await register.Registrar(native, conftest.Blobs(image)).register(wanted(image))
    await native.chains.collect()
    assert len(targets(folder)) == 2
    fake.images.clear()
    await native.chains.collect()

    assert targets(folder) == []


async def test_links_that_are_made_while_others_are_removed_stay(
    native, fake, image, folder, monkeypatch
) -> None:
    list_snapshots = native.client.snapshots_with
    begun: list[asyncio.Task[register.registration_plan.Registered]] = []

    async def and_register(*arguments: str):
        labelled = await list_snapshots(*arguments)
        registering = register.Registrar(native, conftest.Blobs(image)).register(wanted(image))
        begun.append(asyncio.create_task(registering))
        await asyncio.wait(begun, timeout=0.3)
        return labelled

    monkeypatch.setattr(native.client, "snapshots_with", and_register)
    await native.chains.collect()
    await begun[0]

    assert str(image.reference) in fake.images
    assert len(targets(folder)) == 2


async def test_a_layer_that_a_pull_has_unpacked_is_not_served_from_the_store(
    native, fake, image
) -> None:
    image.pull_into(fake, NATIVE)

    assert await native.chains.served(image.chain) == frozenset()
    assert await native.chains.complete(image.chain, image.config) == []


async def test_a_folder_that_cannot_be_written_is_worth_another_try(native, image, folder) -> None:
    (folder / "sha256").touch()
    with pytest.raises(native_chains.LinkError) as caught:
        await register.Registrar(native, conftest.Blobs(image)).register(wanted(image))

    assert isinstance(caught.value, errors.TemporaryError)


def test_links_have_the_same_names_after_a_restart_and_others_on_another_node(
    tmp_path: pathlib.Path,
) -> None:
    layer = ("sha256:" + 64 * "a", tmp_path / "layer")
    here, there = tmp_path / "here", tmp_path / "there"
    first = layer_links.LayerLinks(here).add([layer])

    assert layer_links.LayerLinks(here).add([layer]) == first
    assert layer_links.LayerLinks(there).add([layer]) != first
    assert here.stat().st_mode & 0o777 == 0o700
    assert layer_links.LayerLinks(here).keep([layer[0]]) == 0
    assert layer_links.LayerLinks(here).keep([]) == 1
    assert layer_links.LayerLinks(tmp_path / "nowhere").keep([]) == 0


def test_images_that_are_first_on_a_node_at_once_have_one_key(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links that are named by another one would be removed under the snapshots that need them."""
    both = threading.Barrier(2)
    write = layer_links.files.write

    def write_together(path: pathlib.Path, data: bytes) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        write(path, data)

    monkeypatch.setattr(layer_links.files, "write", write_together)
    links = layer_links.LayerLinks(tmp_path)
    layers = [("sha256:" + 64 * digit, tmp_path / digit) for digit in "ab"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(links.add, [[layer] for layer in layers]))

    assert links.keep([diff_id for diff_id, _ in layers]) == 0
    assert len(targets(tmp_path)) == 2
