# ruff: noqa: N802 - the methods have the names of the wire
"""A containerd on a Unix socket with the services that the agent uses, and a snapshotter behind it.

It keeps the two records of a snapshot apart, as the real one does: its own, and
the snapshotter's (`backend`). `log` has the calls in their order.
"""

import asyncio
import contextlib
import datetime
import hashlib
import pathlib
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
from google.protobuf import empty_pb2

from agent._proto.containerd import (
    containers_pb2,
    containers_pb2_grpc,
    content_pb2,
    content_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    images_pb2,
    images_pb2_grpc,
    introspection_pb2,
    introspection_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
    types_pb2,
    version_pb2,
    version_pb2_grpc,
)
from agent.model import keys

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Fake:
    """What it holds may be read and changed by a test at any time."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.leases: dict[str, str] = {}
        self.leased: dict[str, set[tuple[str, ...]]] = {}
        """What each lease keeps: ("blob", digest) or ("snapshot", snapshotter, key)."""
        self.ended: list[str] = []
        self.blobs: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.born: dict[str, datetime.datetime] = {}
        self.images: dict[str, images_pb2.Image] = {}
        self.snapshots: dict[tuple[str, str], tuple[str, str]] = {}
        """(snapshotter, key) -> (parent, kind)"""
        self.labels: dict[str, dict[str, str]] = {}
        """Of snapshots, by their keys."""
        self.cache: pathlib.Path | None = None
        """The folder in which a snapshotter finds layers by itself, as containerd 2.4's has it."""
        self.backend: set[tuple[str, str]] = set()
        self.served: set[str] = set()
        """Chain IDs that are in the store."""
        self.inodes: dict[str, int] = {}
        self.containers: list[containers_pb2.Container] = []
        self.plugins: list[introspection_pb2.Plugin] = []
        self.pid = 1
        self.now = START
        self.stale: set = set()
        """Snapshots with the name of a collected child: only the collector can remove them."""
        self.listeners: list[asyncio.Queue] = []
        self.down = False
        self.server: grpc.aio.Server | None = None

    def tick(self, seconds: float = 1) -> None:
        """Let time pass."""
        self.now += datetime.timedelta(seconds=seconds)

    def stamp(self, message, moment: datetime.datetime | None = None) -> None:
        message.FromDatetime(moment or self.now)

    def announce(self, topic: str, name: str) -> None:
        event = events_pb2.ImageEvent(name=name)
        for listener in self.listeners:
            envelope = events_pb2.Envelope(topic=topic, namespace="k8s.io")
            envelope.event.value = event.SerializeToString()
            listener.put_nowait(envelope)

    def add_image(
        self, name: str, target: str, *, labels: dict[str, str] | None = None, media: str = ""
    ) -> None:
        descriptor = types_pb2.Descriptor(media_type=media, digest=target, size=1)
        self.images[name] = images_pb2.Image(name=name, target=descriptor, labels=labels or {})

    def add_blob(self, digest: str, data: bytes = b"", labels: dict[str, str] | None = None):
        self.blobs[digest] = (data, labels or {})
        self.born[digest] = self.now

    def add_snapshot(self, snapshotter: str, key: str, parent: str = "") -> None:
        self.snapshots[snapshotter, key] = (parent, "committed")
        self.backend.add((snapshotter, key))
        self.born[key] = self.now

    def lose_backend(self, snapshotter: str = "uimgacc") -> None:
        self.backend = {entry for entry in self.backend if entry[0] != snapshotter}

    def keep(self, lease: str, kind: str, *name: str) -> None:
        """Have a lease keep a blob or a snapshot that was made under it."""
        self.leased.setdefault(lease, set()).add((kind, *name))

    def collect(self) -> None:
        """Forget what no image, container or lease keeps, as containerd's collector does."""
        kept: set[tuple[str, ...]] = set()
        todo = [("blob", image.target.digest) for image in self.images.values()]
        todo += [("snapshot", each.snapshotter, each.snapshot_key) for each in self.containers]
        todo += [entry for lease in self.leases for entry in self.leased.get(lease, ())]
        while todo:
            entry = todo.pop()
            if entry not in kept:
                kept.add(entry)
                todo += self._references(*entry)
        for digest in [each for each in self.blobs if ("blob", each) not in kept]:
            del self.blobs[digest]
        for known in [each for each in self.snapshots if ("snapshot", *each) not in kept]:
            del self.snapshots[known]
            self.backend.discard(known)
            self.stale.discard(known)

    def _references(self, kind: str, *name: str) -> Iterator[tuple[str, ...]]:
        """What a blob or a snapshot keeps."""
        if kind == "snapshot":
            parent, _ = self.snapshots.get((name[0], name[1]), ("", ""))
            if parent:
                yield ("snapshot", name[0], parent)
            return
        for label, value in self.blobs.get(name[0], (b"", {}))[1].items():
            if label.startswith(keys.GC_SNAPSHOT):
                # What follows a slash makes several references possible.
                snapshotter = label.removeprefix(keys.GC_SNAPSHOT).partition("/")[0]
                yield ("snapshot", snapshotter, value)
            elif label.startswith(keys.GC_CONTENT):
                yield ("blob", value)

    async def start(self, address: pathlib.Path) -> None:
        self.server = grpc.aio.server()
        service = Services(self)
        for add in (
            containers_pb2_grpc.add_ContainersServicer_to_server,
            content_pb2_grpc.add_ContentServicer_to_server,
            events_pb2_grpc.add_EventsServicer_to_server,
            images_pb2_grpc.add_ImagesServicer_to_server,
            introspection_pb2_grpc.add_IntrospectionServicer_to_server,
            leases_pb2_grpc.add_LeasesServicer_to_server,
            version_pb2_grpc.add_VersionServicer_to_server,
        ):
            add(service, self.server)
        snapshots_pb2_grpc.add_SnapshotsServicer_to_server(Snapshots(self), self.server)
        self.server.add_insecure_port(f"unix://{address}")
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
            self.server = None


@contextlib.asynccontextmanager
async def running(address: pathlib.Path) -> AsyncIterator[Fake]:
    """A fake that listens at `address`."""
    fake = Fake()
    await fake.start(address)
    try:
        yield fake
    finally:
        await fake.stop()


def lease_of(context) -> str:
    pairs = dict(context.invocation_metadata())
    assert pairs["containerd-namespace"] == "k8s.io"
    return pairs.get("containerd-lease", "")


async def missing(context, what: str):
    await context.abort(grpc.StatusCode.NOT_FOUND, f"{what}: not found")


async def exists(context, what: str):
    await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{what}: already exists")


class Services:
    """Everything but the snapshots; the method names of the services do not collide but for
    Create, Delete, Update and List, which are told apart by their message."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    async def Server(self, _request, _context):
        return introspection_pb2.ServerResponse(uuid="u", pid=self.fake.pid)

    async def Plugins(self, _request, _context):
        return introspection_pb2.PluginsResponse(plugins=self.fake.plugins)

    async def Version(self, _request, _context):
        return version_pb2.VersionResponse(version="fake")

    async def Info(self, request, context):
        if request.digest not in self.fake.blobs:
            await missing(context, request.digest)
        data, labels = self.fake.blobs[request.digest]
        info = content_pb2.Info(digest=request.digest, size=len(data), labels=labels)
        self.fake.stamp(info.created_at, self.fake.born[request.digest])
        return content_pb2.InfoResponse(info=info)

    async def Read(self, request, context):
        if request.digest not in self.fake.blobs:
            await missing(context, request.digest)
        yield content_pb2.ReadContentResponse(data=self.fake.blobs[request.digest][0])

    async def Write(self, requests, context):
        written = b""
        async for request in requests:
            assert lease_of(context) in self.fake.leases
            if request.expected in self.fake.blobs:
                self.fake.keep(lease_of(context), "blob", request.expected)
                await exists(context, request.expected)
            assert request.offset == len(written)
            written += request.data
            if request.action == content_pb2.COMMIT:
                assert request.total == len(written)
                if f"sha256:{hashlib.sha256(written).hexdigest()}" != request.expected:
                    reason = "unexpected commit digest"
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
                self.fake.add_blob(request.expected, written, dict(request.labels))
                self.fake.keep(lease_of(context), "blob", request.expected)
                self.fake.log.append(f"write {request.expected}")
            yield content_pb2.WriteContentResponse(action=request.action)

    async def Subscribe(self, request, _context):
        assert all(text.startswith("namespace==k8s.io,topic==") for text in request.filters)
        queue: asyncio.Queue = asyncio.Queue()
        self.fake.listeners.append(queue)
        while True:
            yield await queue.get()

    async def Get(self, request, context):
        if request.name not in self.fake.images:
            await missing(context, request.name)
        return images_pb2.GetImageResponse(image=self.fake.images[request.name])

    async def List(self, request, _context):
        if isinstance(request, containers_pb2.ListContainersRequest):
            return containers_pb2.ListContainersResponse(containers=self.fake.containers)
        if isinstance(request, leases_pb2.ListRequest):
            answer = leases_pb2.ListResponse()
            for lease, expires in self.fake.leases.items():
                labels = {keys.GC_EXPIRE: expires} if expires else {}
                made = answer.leases.add(id=lease, labels=labels)
                self.fake.stamp(made.created_at, self.fake.born[lease])
            return answer
        return images_pb2.ListImagesResponse(images=self.fake.images.values())

    async def ListResources(self, request, context):
        if request.id not in self.fake.leases:
            await missing(context, request.id)
        self.fake.log.append(f"resources {request.id}")
        answer = leases_pb2.ListResourcesResponse()
        for kind, *owner, name in self.fake.leased.get(request.id, ()):
            types = {"snapshot": "snapshots", "blob": "content"}
            answer.resources.add(id=name, type="/".join((types[kind], *owner)))
        return answer

    async def Create(self, request, context):
        if isinstance(request, leases_pb2.CreateRequest):
            if request.id in self.fake.leases:
                await exists(context, request.id)
            self.fake.leases[request.id] = request.labels[keys.GC_EXPIRE]
            self.fake.born[request.id] = datetime.datetime.now(datetime.UTC)
            return leases_pb2.CreateResponse()
        name = request.image.name
        if name in self.fake.images:
            await exists(context, name)
        self.fake.images[name] = request.image
        self.fake.log.append(f"create {name}")
        self.fake.announce("/images/create", name)
        return images_pb2.CreateImageResponse(image=request.image)

    async def Update(self, request, context):
        if isinstance(request, content_pb2.UpdateRequest):
            if request.info.digest not in self.fake.blobs:
                await missing(context, request.info.digest)
            _, labels = self.fake.blobs[request.info.digest]
            for path in request.update_mask.paths:
                key = path.removeprefix("labels.")
                labels[key] = request.info.labels[key]
                if not labels[key]:
                    del labels[key]
            return content_pb2.UpdateResponse()
        name = request.image.name
        if name not in self.fake.images:
            await missing(context, name)
        image = self.fake.images[name]
        for path in request.update_mask.paths or ("target", "labels"):
            if path == "target":
                image.target.CopyFrom(request.image.target)
            elif path == "labels":
                image.labels.clear()
                image.labels.update(request.image.labels)
            else:
                key = path.removeprefix("labels.")
                image.labels[key] = request.image.labels[key]
                if not image.labels[key]:
                    del image.labels[key]
        self.fake.log.append(f"update {name}")
        self.fake.announce("/images/update", name)
        return images_pb2.UpdateImageResponse(image=image)

    async def Delete(self, request, context):
        if isinstance(request, leases_pb2.DeleteRequest):
            self.fake.leases.pop(request.id, None)
            self.fake.leased.pop(request.id, None)
            self.fake.ended.append(request.id)
            if request.sync:
                self.fake.collect()
            return empty_pb2.Empty()
        if self.fake.images.pop(request.name, None) is None:
            await missing(context, request.name)
        self.fake.log.append(f"delete {request.name}")
        return empty_pb2.Empty()


class Snapshots(snapshots_pb2_grpc.SnapshotsServicer):
    """containerd's snapshots service, with its own record in front of the snapshotter's."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    async def Stat(self, request, context):
        entry = (request.snapshotter, request.key)
        if self.fake.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the snapshotter is away")
        if entry not in self.fake.snapshots or entry not in self.fake.backend:
            await missing(context, request.key)
        info = snapshots_pb2.Info(name=request.key, parent=self.fake.snapshots[entry][0])
        self.fake.stamp(info.created_at, self.fake.born[request.key])
        return snapshots_pb2.StatSnapshotResponse(info=info)

    async def List(self, request, context):
        if self.fake.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the snapshotter is away")
        known = [entry for entry in self.fake.snapshots if entry in self.fake.backend]
        for of, key in known:
            if of == request.snapshotter:
                parent, labels = self.fake.snapshots[of, key][0], self.fake.labels.get(key)
                info = snapshots_pb2.Info(name=key, parent=parent, labels=labels)
                yield snapshots_pb2.ListSnapshotsResponse(info=[info])

    async def Usage(self, request, context):
        if (request.snapshotter, request.key) not in self.fake.snapshots:
            await missing(context, request.key)
        return snapshots_pb2.UsageResponse(inodes=self.fake.inodes.get(request.key, 0))

    async def Prepare(self, request, context):
        await self._make(request, context, "prepare")
        mount = types_pb2.Mount(type="overlay")
        if self._is_cached(request):
            mount = types_pb2.Mount(type="erofs", options=["ro", "loop"])
        return snapshots_pb2.PrepareSnapshotResponse(mounts=[mount])

    def _is_cached(self, request) -> bool:
        """As the erofs snapshotter of 2.4: by the label, where there is no parent."""
        digits = request.labels.get(keys.SNAPSHOT_DIFF_ID, "").removeprefix("sha256:")
        if self.fake.cache is None or request.parent or not digits:
            return False
        return (self.fake.cache / "sha256" / digits[:2] / f"{digits}.erofs").exists()

    async def Commit(self, request, context):
        assert lease_of(context) in self.fake.leases
        name, entry = request.snapshotter, (request.snapshotter, request.key)
        if (name, request.name) in self.fake.snapshots:
            await exists(context, request.name)
        if entry not in self.fake.snapshots:
            await missing(context, request.key)
        parent, _ = self.fake.snapshots.pop(entry)
        self.fake.backend.discard(entry)
        if request.parent and (name, request.parent) not in self.fake.backend:
            await missing(context, request.parent)
        self.fake.add_snapshot(name, request.name, request.parent or parent)
        self.fake.labels[request.name] = dict(request.labels)
        self.fake.keep(lease_of(context), "snapshot", name, request.name)
        self.fake.log.append(f"commit {request.name}")
        return empty_pb2.Empty()

    async def View(self, request, context):
        await self._make(request, context, "view")
        return snapshots_pb2.ViewSnapshotResponse()

    async def _make(self, request, context, what: str) -> None:
        assert lease_of(context) in self.fake.leases
        name, parent = request.snapshotter, request.parent
        target = request.labels.get(keys.SNAPSHOT_REF, "")
        self.fake.log.append(f"{what} {target or parent}")
        if self.fake.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the snapshotter is away")
        if target and (name, target) in self.fake.snapshots:
            self.fake.keep(lease_of(context), "snapshot", name, target)
            await exists(context, target)
        if (name, request.key) in self.fake.snapshots:
            await exists(context, request.key)
        if parent and {(name, parent)} - self.fake.backend:
            await missing(context, parent)
        if target in self.fake.served:
            self.fake.add_snapshot(name, target, parent)
            self.fake.keep(lease_of(context), "snapshot", name, target)
            await exists(context, target)
        self.fake.add_snapshot(name, request.key, parent)
        self.fake.keep(lease_of(context), "snapshot", name, request.key)

    async def Remove(self, request, context):
        entry = (request.snapshotter, request.key)
        if entry not in self.fake.snapshots:
            await missing(context, request.key)
        name = request.snapshotter
        parents = {parent for (of, _), (parent, _) in self.fake.snapshots.items() if of == name}
        if request.key in parents or entry in self.fake.stale:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "cannot remove snapshot with child"
            )
        del self.fake.snapshots[entry]
        self.fake.backend.discard(entry)
        self.fake.log.append(f"remove {request.key}")
        return empty_pb2.Empty()
