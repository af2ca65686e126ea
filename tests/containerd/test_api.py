"""What the agent relies on in containerd's API: of the fake and of real ones alike.

Unit tests of the agent run against the fake; this suite holds it to what containerd does. Names
are unique to each test, because all tests share the real ones.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from agent._proto.containerd import introspection_pb2, leases_pb2
from agent.clients.containerd import objects, pull_leases, rpc
from agent.model import digests, keys, times
from lab import places, processes
from lab.web import registries
from tests.containerd import conftest
from tests.fakes import containerd as fakes

pytestmark = [pytest.mark.root, pytest.mark.containerd]

FAKE = "fake"
SNAPSHOTTER = "uimgacc"
STORED = "lab/layers2:1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PROXY = ("io.containerd.snapshotter.v1", SNAPSHOTTER)


@dataclasses.dataclass(frozen=True, slots=True)
class Daemon:
    """A containerd with a snapshotter, in whose store are the layers of `chain`."""

    address: str
    pid: int
    chain: tuple[str, ...]
    """Chain IDs, the lowest first."""


@pytest.fixture(scope="module", params=[FAKE, *places.CONTAINERDS])
def node(request: pytest.FixtureRequest) -> Iterator[conftest.Node | None]:
    """A node with a real containerd for all tests of a version; None for the fake."""
    if request.param == FAKE:
        yield None
        return
    registry = request.getfixturevalue("registry")
    pristine = request.getfixturevalue("pristine")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="n"))
    try:
        yield from conftest.opened(conftest.Node(request.param, folder, registry, pristine))
    finally:
        processes.unmount_below(folder)
        shutil.rmtree(folder)


@pytest.fixture
async def daemon(node: conftest.Node | None) -> AsyncIterator[Daemon]:
    """The containerd of a test."""
    if node is not None:
        chain = digests.chain_ids(registries.catalogue()[STORED]["diff_ids"])
        yield Daemon(str(node.containerd.address), node.containerd.pid, tuple(chain))
        return
    with tempfile.TemporaryDirectory(prefix="f") as folder:
        async with fakes.running(pathlib.Path(folder) / "s") as fake:
            chain = (digest_of(b"lower"), digest_of(b"upper"))
            fake.served = set(chain)
            fake.pid, fake.now = os.getpid(), datetime.datetime.now(datetime.UTC)
            fake.plugins = [introspection_pb2.Plugin(type=PROXY[0], id=PROXY[1])]
            yield Daemon(str(pathlib.Path(folder) / "s"), fake.pid, chain)


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[rpc.Client]:
    async with rpc.Client(daemon.address) as made:
        yield made


@pytest.fixture
async def lease(client: rpc.Client) -> AsyncIterator[str]:
    """A lease for what a test makes; all of it is collected at the end."""
    made = await client.create_lease(600)
    yield made
    await client.delete_lease(made, collect=True)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex}"


def image(name: str, target: str = "", size: int = 1, **labels: str) -> objects.Image:
    """An image record; without a target, of a manifest that is nowhere."""
    descriptor = objects.Descriptor(MANIFEST, target or digest_of(name.encode()), size)
    return objects.Image(name=name, target=descriptor, labels=labels)


async def write(client: rpc.Client, lease: str, content: object, **labels: str) -> str:
    """Write a blob, unlike all others; its digest."""
    data = json.dumps([unique("content"), content]).encode()
    await client.write(digest_of(data), data, labels=labels, lease=lease)
    return digest_of(data)


async def test_a_containerd_says_which_it_is(client: rpc.Client, daemon: Daemon) -> None:
    process = await client.process()

    assert process.pid == daemon.pid
    assert process.uuid
    assert process == await client.process()
    assert await client.version()


async def test_plugins_are_found_by_kind_and_name(client: rpc.Client) -> None:
    plugin = await client.plugin(*PROXY)

    assert plugin is not None
    assert (plugin.kind, plugin.id, plugin.error) == (*PROXY, "")
    assert await client.plugin(PROXY[0], "none") is None


async def test_an_image_record_is_created_once(client: rpc.Client) -> None:
    made = image(unique("created"), label="1")
    await client.create_image(made)

    with pytest.raises(rpc.ExistsError):
        await client.create_image(made)
    assert await client.image(made.name) == made
    assert made in await client.images()
    await client.delete_image(made.name)


async def test_an_image_record_that_is_not_there(client: rpc.Client) -> None:
    name = unique("absent")

    assert await client.image(name) is None
    with pytest.raises(rpc.NotFoundError):
        await client.update_image(image(name))
    await client.delete_image(name)


async def test_an_update_without_paths_replaces_target_and_labels(client: rpc.Client) -> None:
    name = unique("replaced")
    await client.create_image(image(name, old="1"))
    new = image(name, digest_of(b"another"), new="2")
    await client.update_image(new)

    assert await client.image(name) == new
    await client.delete_image(name)


async def test_an_update_of_paths_leaves_the_rest_alone(client: rpc.Client) -> None:
    name = unique("updated")
    made = image(name, kept="1", changed="1", removed="1")
    await client.create_image(made)
    changes = image(name, digest_of(b"another"), kept="9", changed="2", removed="", added="3")
    await client.update_image(changes, "labels.changed", "labels.removed", "labels.added")

    after = await client.image(name)
    assert after is not None
    assert after.target == made.target
    assert after.labels == {"kept": "1", "changed": "2", "added": "3"}
    await client.update_image(changes, "target")
    after = await client.image(name)
    assert after is not None
    assert (after.target, len(after.labels)) == (changes.target, 3)
    await client.delete_image(name)


async def test_creations_and_updates_of_images_are_events_and_deletions_are_none(
    client: rpc.Client,
) -> None:
    name, last = unique("event"), unique("last")
    names: list[str] = []

    async def follow() -> None:
        async for event in client.image_events():
            names.append(event.name)
            if event.name == last:
                return

    following = asyncio.create_task(follow())
    try:
        async with asyncio.timeout(60):
            while not names:  # the stream is open when the first event arrives
                await create_and_delete(client, unique("first"))
                await asyncio.sleep(0.05)
            await client.create_image(image(name))
            await client.update_image(image(name, changed="1"), "labels.changed")
            await client.delete_image(name)
            await create_and_delete(client, last)
            await following
    finally:
        following.cancel()

    assert [each for each in names if not each.startswith("first")] == [name, name, last]


async def create_and_delete(client: rpc.Client, name: str) -> None:
    await client.create_image(image(name))
    await client.delete_image(name)


async def test_leases_of_agents_before_are_ended_and_what_they_kept_is_collected(
    client: rpc.Client, daemon: Daemon, lease: str
) -> None:
    async with rpc.Client(str(daemon.address), deadline=10) as killed:
        old = await write(killed, await killed.create_lease(600), "old")
    kept = await write(client, lease, "kept")

    assert await client.delete_old_leases() >= 1
    assert await client.delete_old_leases() == 0
    with pytest.raises(rpc.NotFoundError):
        await client.blob(old)
    assert (await client.blob(kept)).digest == kept


async def lease_of_pull(client: rpc.Client, id_: str, **labels: str) -> str:
    """A lease as containerd's own client makes it for a pull."""
    request = leases_pb2.CreateRequest(id=id_, labels=labels)
    await client._call(client._leases.Create, request, "create a lease")
    return id_


async def test_leases_of_pulls_of_a_killed_containerd_are_ended_where_they_keep_layers(
    client: rpc.Client, daemon: Daemon
) -> None:
    """The socket of a containerd is as old as the process."""
    expires = {keys.GC_EXPIRE: times.stamp(times.now() + datetime.timedelta(days=1))}
    old = await lease_of_pull(client, "123456789-aB_9", **expires)
    without_layers = await lease_of_pull(client, "1-aaaa", **expires)
    of_others = [
        await lease_of_pull(client, unique("another"), **expires),
        await lease_of_pull(client, "2-aaaa", other="for ever"),
    ]
    for lease in (old, *of_others):
        await has_chain(client, daemon, lease)
    end = functools.partial(pull_leases.end_abandoned, client, snapshotter=SNAPSHOTTER)
    assert set(await client.leased_snapshots(old, SNAPSHOTTER)) == set(daemon.chain)

    assert await end() == 0  # of this containerd, as far as can be seen
    now = times.now().timestamp()
    os.utime(daemon.address, (now, now))
    running = await lease_of_pull(client, "3-aaaa", **expires)
    with pytest.raises(pull_leases.BusyError):
        await end()
    await client.delete_lease(running)
    assert await end() == 1
    assert await end() == 0
    left = {lease.id for lease in await client.leases()}
    assert left & {old, without_layers, *of_others} == {without_layers, *of_others}
    assert await client.leased_snapshots(old, SNAPSHOTTER) == []
    assert set(daemon.chain) <= (await client.snapshots(SNAPSHOTTER)).keys()
    await client.delete_leases([without_layers, *of_others])
    assert not set(daemon.chain) & (await client.snapshots(SNAPSHOTTER)).keys()


async def test_a_blob_is_read_as_it_was_written(client: rpc.Client, lease: str) -> None:
    data = unique("data").encode()
    before = datetime.datetime.now(datetime.UTC)
    await client.write(digest_of(data), data, labels={"a": "1"}, lease=lease)
    blob = await client.blob(digest_of(data))

    assert await client.read(digest_of(data)) == data
    assert (blob.digest, blob.size, blob.labels) == (digest_of(data), len(data), {"a": "1"})
    assert abs(blob.created - before) < datetime.timedelta(seconds=60)


async def test_a_blob_that_is_written_again_gets_the_labels_too(
    client: rpc.Client, lease: str
) -> None:
    data = unique("data").encode()
    await client.write(digest_of(data), data, labels={"a": "1"}, lease=lease)
    await client.write(digest_of(data), data, labels={"b": "2"}, lease=lease)

    assert (await client.blob(digest_of(data))).labels == {"a": "1", "b": "2"}


async def test_a_blob_that_is_written_again_keeps_its_repositories(
    client: rpc.Client, lease: str
) -> None:
    data, key = unique("data").encode(), f"{keys.SOURCE}registry.example:5000"
    for repository in ("team/a", "team/b", "team/a"):
        await client.write(digest_of(data), data, labels={key: repository}, lease=lease)
    assert (await client.blob(digest_of(data))).labels == {key: "team/a,team/b"}

    await client.write(digest_of(data), data, labels={key: "long" * 1100}, lease=lease)
    assert (await client.blob(digest_of(data))).labels == {key: "team/a,team/b"}


async def test_labels_of_a_blob_are_set_and_removed(client: rpc.Client, lease: str) -> None:
    digest = await write(client, lease, "", kept="1", changed="1", removed="1")
    await client.label_blob(digest, {"changed": "2", "removed": "", "added": "3"})

    assert (await client.blob(digest)).labels == {"kept": "1", "changed": "2", "added": "3"}


async def test_a_blob_that_is_not_there(client: rpc.Client) -> None:
    digest = digest_of(unique("absent").encode())

    for asked in (client.blob, client.read):
        with pytest.raises(rpc.NotFoundError):
            await asked(digest)
    with pytest.raises(rpc.NotFoundError):
        await client.label_blob(digest, {"a": "1"})


async def test_a_blob_that_is_not_what_its_digest_says_is_refused(
    client: rpc.Client, lease: str
) -> None:
    digest = digest_of(unique("expected").encode())

    with pytest.raises(rpc.StateError):
        await client.write(digest, b"something else", labels={}, lease=lease)
    with pytest.raises(rpc.NotFoundError):
        await client.blob(digest)


async def test_a_stored_layer_is_there_once_it_was_asked_for(
    client: rpc.Client, daemon: Daemon, lease: str
) -> None:
    parent = ""
    for chain_id in daemon.chain:
        key, labels = unique(f"extract {chain_id}"), {keys.SNAPSHOT_REF: chain_id}
        with pytest.raises(rpc.ExistsError):
            await client.prepare(SNAPSHOTTER, key, parent=parent, labels=labels, lease=lease)
        snapshot = await client.stat(SNAPSHOTTER, chain_id)
        assert (snapshot.name, snapshot.parent) == (chain_id, parent)
        parent = chain_id

    known = await client.snapshots(SNAPSHOTTER)
    lower, upper = daemon.chain
    assert (known[lower], known[upper]) == ("", lower)
    assert not [name for name in known if name.startswith("extract")]


async def test_a_layer_that_is_not_stored_is_a_writable_snapshot(
    client: rpc.Client, lease: str
) -> None:
    chain_id = digest_of(unique("layer").encode())
    key = unique("extract")
    await client.prepare(
        SNAPSHOTTER, key, parent="", labels={keys.SNAPSHOT_REF: chain_id}, lease=lease
    )

    assert (await client.snapshots(SNAPSHOTTER))[key] == ""
    with pytest.raises(rpc.NotFoundError):
        await client.stat(SNAPSHOTTER, chain_id)
    with pytest.raises(rpc.ExistsError):
        await client.prepare(SNAPSHOTTER, key, parent="", labels={}, lease=lease)
    await client.remove(SNAPSHOTTER, key)
    assert key not in await client.snapshots(SNAPSHOTTER)


async def test_a_snapshot_is_committed_once_with_its_labels(client: rpc.Client, lease: str) -> None:
    name, keys_of = unique("sha256:layer"), [unique("made"), unique("again")]
    for key in keys_of:
        staged = await client.prepare(SNAPSHOTTER, key, parent="", labels={}, lease=lease)
        assert not staged
    commit = functools.partial(
        client.commit, SNAPSHOTTER, name, parent="", labels={keys.NATIVE_LAYER: "x"}, lease=lease
    )
    await commit(keys_of[0])
    with pytest.raises(rpc.ExistsError):
        await commit(keys_of[1])

    assert (await client.stat(SNAPSHOTTER, name)).parent == ""
    assert (await client.snapshots_with(SNAPSHOTTER, keys.NATIVE_LAYER))[name] == "x"
    with pytest.raises(rpc.NotFoundError):
        await client.stat(SNAPSHOTTER, keys_of[0])


async def test_a_snapshot_that_is_not_there(client: rpc.Client, lease: str) -> None:
    name = unique("absent")

    for asked in (client.stat, client.remove, client.usage):
        with pytest.raises(rpc.NotFoundError):
            await asked(SNAPSHOTTER, name)
    for make in (client.view, functools.partial(client.prepare, labels={})):
        with pytest.raises(rpc.NotFoundError):
            await make(SNAPSHOTTER, unique("key"), parent=name, lease=lease)


async def test_a_snapshot_with_a_child_is_not_removed(
    client: rpc.Client, daemon: Daemon, lease: str
) -> None:
    await has_chain(client, daemon, lease)
    top, key = daemon.chain[-1], unique("child")
    await client.view(SNAPSHOTTER, key, parent=top, lease=lease)

    assert (await client.snapshots(SNAPSHOTTER))[key] == top
    with pytest.raises(rpc.StateError):
        await client.remove(SNAPSHOTTER, top)
    await client.remove(SNAPSHOTTER, key)
    assert (await client.stat(SNAPSHOTTER, top)).name == top


async def has_chain(client: rpc.Client, daemon: Daemon, lease: str) -> None:
    """Have the snapshots of the stored image."""
    parent = ""
    for chain_id in daemon.chain:
        with contextlib.suppress(rpc.ExistsError):
            await client.prepare(
                SNAPSHOTTER,
                unique("x"),
                parent=parent,
                labels={keys.SNAPSHOT_REF: chain_id},
                lease=lease,
            )
        parent = chain_id


async def test_what_only_a_lease_keeps_goes_with_it(client: rpc.Client, daemon: Daemon) -> None:
    lease = await client.create_lease(600)
    await has_chain(client, daemon, lease)
    blob = await write(client, lease, "")
    await collect(client)
    assert (await client.blob(blob)).digest == blob
    assert set(daemon.chain) <= (await client.snapshots(SNAPSHOTTER)).keys()

    await client.delete_lease(lease, collect=True)
    with pytest.raises(rpc.NotFoundError):
        await client.blob(blob)
    assert not set(daemon.chain) & (await client.snapshots(SNAPSHOTTER)).keys()
    await client.delete_lease(lease)


async def test_a_layer_that_is_known_is_kept_by_the_next_lease_too(
    client: rpc.Client, daemon: Daemon
) -> None:
    first, second = await client.create_lease(600), await client.create_lease(600)
    for lease in (first, second):
        await has_chain(client, daemon, lease)
    await client.delete_lease(first, collect=True)

    assert set(daemon.chain) <= (await client.snapshots(SNAPSHOTTER)).keys()
    await client.delete_lease(second, collect=True)
    assert not set(daemon.chain) & (await client.snapshots(SNAPSHOTTER)).keys()


@pytest.mark.parametrize("more", ["", "/another"])
async def test_an_image_keeps_its_blobs_and_its_snapshots(
    client: rpc.Client, daemon: Daemon, more: str
) -> None:
    lease = await client.create_lease(600)
    await has_chain(client, daemon, lease)
    keeps = {f"{keys.GC_SNAPSHOT}{SNAPSHOTTER}{more}": daemon.chain[-1]}
    config = await write(client, lease, "config", **keeps)
    refers = {f"{keys.GC_CONTENT}.config": config}
    manifest = await write(client, lease, {"config": config}, **refers)
    made = image(unique("kept"), manifest)
    await client.create_image(made, lease=lease)
    await client.delete_lease(lease, collect=True)
    for digest in (config, manifest):
        assert (await client.blob(digest)).digest == digest
    assert set(daemon.chain) <= (await client.snapshots(SNAPSHOTTER)).keys()

    await client.delete_image(made.name)
    await collect(client)
    for digest in (config, manifest):
        with pytest.raises(rpc.NotFoundError):
            await client.blob(digest)
    assert not set(daemon.chain) & (await client.snapshots(SNAPSHOTTER)).keys()


async def collect(client: rpc.Client) -> None:
    """Have containerd collect garbage."""
    await client.delete_lease(await client.create_lease(600), collect=True)


@pytest.mark.skipif(
    "named" not in places.CONTAINERDS,
    reason="UIMGACC_CONTAINERD names no folder with a newer containerd, ctr and shim",
)
def test_the_programs_of_the_named_containerd_are_there() -> None:
    for program in ("containerd", "ctr", "containerd-shim-runc-v2"):
        assert (places.CONTAINERDS["named"] / program).exists()
