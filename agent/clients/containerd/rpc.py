"""containerd over its own socket: content, snapshots, images, leases, events.

Every call has a deadline; what gRPC raises is translated here, and messages are
turned into values. Everything happens in one containerd namespace, the kubelet's
`k8s.io` by default. Calls that make something take the lease that protects it
from garbage collection until an image refers to it.
"""

import contextlib
import datetime
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf import empty_pb2, field_mask_pb2

from agent import errors
from agent._proto.containerd import (
    containers_pb2,
    containers_pb2_grpc,
    content_pb2,
    content_pb2_grpc,
    cri_pb2,
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
    version_pb2_grpc,
)
from agent.clients.containerd import channel, objects
from agent.model import keys, times

CRI_STATUS = "/runtime.v1.RuntimeService/Status"
_CRI_PULL = "/runtime.v1.ImageService/PullImage"
_CHUNK = 1 << 20
_LEASE = "uimgacc-"
"""How the names of all leases of agents begin."""
_LABEL_LIMIT = 4096
"""Characters that containerd takes for a label with its value."""


class NotFoundError(errors.PermanentError):
    """containerd does not have it."""


class ExistsError(errors.PermanentError):
    """containerd has it already."""


class StateError(errors.PermanentError):
    """What is asked for does not go with what is there (a snapshot that has children)."""


class RefusedError(errors.PermanentError):
    """containerd refuses the call, or does not know it."""


class UnavailableError(errors.TemporaryError):
    """containerd or the snapshotter behind it did not answer, or not in time."""


_ERRORS: dict[grpc.StatusCode, type[errors.AgentError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: StateError,
    grpc.StatusCode.INVALID_ARGUMENT: RefusedError,
    grpc.StatusCode.UNIMPLEMENTED: RefusedError,
    grpc.StatusCode.PERMISSION_DENIED: RefusedError,
    grpc.StatusCode.OUT_OF_RANGE: RefusedError,
}


class Client:
    """A connection to one containerd, as an async context.

    `address` is the path of its socket. `deadline`, in seconds, is each call's;
    a call that misses it raises UnavailableError, as does one that cannot connect.
    """

    def __init__(self, address: str, *, namespace: str = "k8s.io", deadline: float = 10.0) -> None:
        self.address = address
        self.namespace = namespace
        self._deadline = deadline
        self._held_leases: set[str] = set()

    async def __aenter__(self) -> "Client":
        opened = channel.to_socket(self.address)
        self._channel = opened
        self._containers = channel.stub(containers_pb2_grpc.ContainersStub, opened)
        self._content = channel.stub(content_pb2_grpc.ContentStub, opened)
        self._events = channel.stub(events_pb2_grpc.EventsStub, opened)
        self._images = channel.stub(images_pb2_grpc.ImagesStub, opened)
        self._introspection = channel.stub(introspection_pb2_grpc.IntrospectionStub, opened)
        self._leases = channel.stub(leases_pb2_grpc.LeasesStub, opened)
        self._snapshots = channel.stub(snapshots_pb2_grpc.SnapshotsStub, opened)
        self._version = channel.stub(version_pb2_grpc.VersionStub, opened)
        self._cri_status: Any = opened.unary_unary(
            CRI_STATUS,
            request_serializer=cri_pb2.StatusRequest.SerializeToString,
            response_deserializer=cri_pb2.StatusResponse.FromString,
        )
        self._cri_pull: Any = opened.unary_unary(
            _CRI_PULL,
            request_serializer=cri_pb2.PullImageRequest.SerializeToString,
            response_deserializer=cri_pb2.PullImageResponse.FromString,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()

    # Who is there.

    async def process(self) -> objects.Process:
        """Which containerd answers."""
        answer = await self._call(self._introspection.Server, empty_pb2.Empty(), "ask who it is")
        return objects.Process(answer.uuid, answer.pid)

    async def version(self) -> str:
        """The version, as containerd writes it: `1.7.24~ds1` or `v2.1.9`."""
        answer = await self._call(self._version.Version, empty_pb2.Empty(), "ask its version")
        return str(answer.version)

    async def plugin(self, kind: str, id_: str) -> objects.Plugin | None:
        """A plugin of the configuration; None when there is none."""
        request = introspection_pb2.PluginsRequest(filters=[f'type=="{kind}",id=="{id_}"'])
        answer = await self._call(self._introspection.Plugins, request, "list plugins")
        for plugin in answer.plugins:
            if (plugin.type, plugin.id) == (kind, id_):
                return objects.plugin(plugin)
        return None

    async def runtime_handlers(self) -> frozenset[str]:
        """The runtime handlers of the CRI plugin, the default one under its name.

        containerd 1.7 names them only in its configuration, which the verbose
        status has as JSON.
        """
        request = cri_pb2.StatusRequest(verbose=True)
        answer = await self._call(self._cri_status, request, "ask the CRI plugin's status")
        names = {handler.name for handler in answer.runtime_handlers if handler.name}
        with contextlib.suppress(ValueError):
            names.update(objects.runtime_tables(answer.info))
        return frozenset(names)

    async def handler_snapshotter(self, handler: str) -> str:
        """The snapshotter that a runtime handler has of its own; "" where it has none."""
        request = cri_pb2.StatusRequest(verbose=True)
        answer = await self._call(self._cri_status, request, "ask the CRI plugin's status")
        with contextlib.suppress(ValueError):
            return str(objects.runtime_tables(answer.info).get(handler, {}).get("snapshotter", ""))
        return ""

    async def maps_ids(self, handler: str) -> bool:
        """Whether the CRI plugin starts pods in user namespaces under a runtime handler.

        containerd 2.0 and newer say so, where its runtime can (runc 1.2 and newer); the kubelet
        refuses such pods otherwise.
        """
        answer = await self._call(self._cri_status, cri_pb2.StatusRequest(), "ask the CRI's status")
        able = {each.name for each in answer.runtime_handlers if each.features.user_namespaces}
        return handler in able

    async def pull(self, name: str, *, handler: str, deadline: float) -> None:
        """Have the CRI plugin pull an image for the snapshotter of a runtime handler.

        "" is the default one. Without credentials: the kubelet's are its own.
        containerd 1.7 to 2.2 look for the handler in the sandbox's annotation only.
        """
        annotations = {keys.RUNTIME_HANDLER: handler} if handler else {}
        request = cri_pb2.PullImageRequest(
            image=cri_pb2.ImageSpec(image=name, runtime_handler=handler),
            sandbox_config=cri_pb2.PodSandboxConfig(annotations=annotations),
        )
        with _translated(f"pull {name}"):
            await self._cri_pull(request, timeout=deadline)

    # Leases.

    async def create_lease(self, seconds: float) -> str:
        """Make a lease that ends by itself after so many seconds; its ID."""
        lease = f"{_LEASE}{secrets.token_hex(12)}"
        ends = times.now() + datetime.timedelta(seconds=seconds)
        labels = {keys.GC_EXPIRE: times.stamp(ends)}
        request = leases_pb2.CreateRequest(id=lease, labels=labels)
        self._held_leases.add(lease)
        try:
            await self._call(self._leases.Create, request, "create a lease")
        except BaseException:
            self._held_leases.discard(lease)
            raise
        return lease

    async def renew_lease(self, name: str, seconds: float) -> str:
        """Make a lease of a name that is always the same; one that is there begins anew. Its ID.

        No caller holds it: it ends by itself, or when an agent finds old leases.
        """
        lease = f"{_LEASE}{name}"
        ends = times.now() + datetime.timedelta(seconds=seconds)
        request = leases_pb2.CreateRequest(id=lease, labels={keys.GC_EXPIRE: times.stamp(ends)})
        try:
            await self._call(self._leases.Create, request, "create a lease")
        except ExistsError:
            await self.delete_lease(lease)
            await self._call(self._leases.Create, request, "create a lease")
        return lease

    async def end_lease(self, name: str) -> None:
        """End a lease that `renew_lease` has made; one that is gone is fine."""
        await self.delete_lease(f"{_LEASE}{name}")

    async def delete_lease(self, lease: str, *, collect: bool = False) -> None:
        """End a lease; `collect` waits for a garbage collection. One that is gone is fine."""
        self._held_leases.discard(lease)
        request = leases_pb2.DeleteRequest(id=lease, sync=collect)
        with contextlib.suppress(NotFoundError):
            await self._call(self._leases.Delete, request, "delete a lease")

    async def delete_old_leases(self) -> int:
        """End the leases of agents that no agent holds any more; return how many.

        An agent that was killed has left them, or this one, where containerd was away when a
        lease was to be ended. A lease expires by itself, but only after minutes, and protects
        an unfinished registration until then.
        """
        leases = await self.leases()
        old = [lease.id for lease in leases if lease.id.startswith(_LEASE)]
        return await self.delete_leases([id_ for id_ in old if id_ not in self._held_leases])

    async def delete_leases(self, leases: Sequence[str]) -> int:
        """End leases, and wait for one garbage collection; how many."""
        for number, lease in enumerate(leases, 1):
            await self.delete_lease(lease, collect=number == len(leases))
        return len(leases)

    async def leases(self) -> Sequence[objects.Lease]:
        """All leases, also those of other clients of containerd."""
        answer = await self._call(self._leases.List, leases_pb2.ListRequest(), "list leases")
        return [objects.lease(each) for each in answer.leases]

    async def leased_snapshots(self, lease: str, snapshotter: str) -> Sequence[str]:
        """The snapshots of a snapshotter that a lease keeps; none where the lease is gone."""
        request = leases_pb2.ListResourcesRequest(id=lease)
        try:
            answer = await self._call(
                self._leases.ListResources, request, "list what a lease keeps"
            )
        except NotFoundError:
            return []
        kind = f"snapshots/{snapshotter}"
        return [resource.id for resource in answer.resources if resource.type == kind]

    # Content.

    async def blob(self, digest: str) -> objects.Blob:
        """What is known of a blob; raises NotFoundError."""
        request = content_pb2.InfoRequest(digest=digest)
        answer = await self._call(self._content.Info, request, f"look up blob {digest}")
        return objects.blob(answer.info)

    async def read(self, digest: str) -> bytes:
        """A blob's bytes: a manifest or a config, not a layer. Raises NotFoundError."""
        request = content_pb2.ReadContentRequest(digest=digest)
        with _translated(f"read blob {digest}"):
            answers = self._content.Read(request, timeout=self._deadline, metadata=self._metadata())
            return b"".join([answer.data async for answer in answers])

    async def write(
        self, digest: str, data: bytes, *, labels: Mapping[str, str], lease: str
    ) -> None:
        """Put a small blob into the content store; one that is there gets the labels, too.

        Its repositories (keys.SOURCE) are then added to those that it has.
        """
        # A name of its own: two writers of one ref would wait for each other.
        ref = f"uimgacc-{secrets.token_hex(8)}-{digest}"
        starts = range(0, max(len(data), 1), _CHUNK)
        requests = [
            content_pb2.WriteContentRequest(
                action=content_pb2.COMMIT if start == starts[-1] else content_pb2.WRITE,
                ref=ref,
                total=len(data),
                expected=digest,
                offset=start,
                data=data[start : start + _CHUNK],
                labels=dict(labels),
            )
            for start in starts
        ]
        try:
            with _translated(f"write blob {digest}"):
                answers = self._content.Write(
                    iter(requests), timeout=self._deadline, metadata=self._metadata(lease)
                )
                async for _ in answers:
                    pass
        except ExistsError:
            if any(key.startswith(keys.SOURCE) for key in labels):
                present = await self.blob(digest)
                labels = {key: _added(key, value, present.labels) for key, value in labels.items()}
            if labels:
                await self.label_blob(digest, labels, lease=lease)

    async def label_blob(self, digest: str, labels: Mapping[str, str], *, lease: str = "") -> None:
        """Set these labels of a blob ("": remove it), leave its others alone; NotFoundError."""
        request = content_pb2.UpdateRequest(
            info=content_pb2.Info(digest=digest, labels=dict(labels)),
            update_mask=field_mask_pb2.FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        await self._call(self._content.Update, request, f"label blob {digest}", lease=lease)

    # Snapshots.

    async def stat(self, snapshotter: str, name: str) -> objects.Snapshot:
        """A snapshot, where both containerd and the snapshotter know it; else NotFoundError."""
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=name)
        answer = await self._call(self._snapshots.Stat, request, f"look up snapshot {name}")
        return objects.snapshot(answer.info)

    async def prepare(
        self, snapshotter: str, key: str, *, parent: str, labels: Mapping[str, str], lease: str
    ) -> bool:
        """Make a writable snapshot; raises ExistsError where the labels' target is ready.

        Returns whether the snapshotter has put a layer into it by itself: containerd 2.4 does so
        with what it has in a cache, and then mounts it read-only.
        """
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=snapshotter, key=key, parent=parent, labels=dict(labels)
        )
        answer = await self._call(
            self._snapshots.Prepare, request, f"prepare a snapshot on {parent}", lease=lease
        )
        return bool(answer.mounts) and "ro" in answer.mounts[-1].options

    async def commit(
        self,
        snapshotter: str,
        name: str,
        key: str,
        *,
        parent: str,
        labels: Mapping[str, str],
        lease: str,
    ) -> None:
        """Make a snapshot that was prepared on nothing a layer on `parent`; raises ExistsError.

        A snapshotter with the capability `rebase` takes a parent here.
        """
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=snapshotter, name=name, key=key, parent=parent, labels=dict(labels)
        )
        await self._call(self._snapshots.Commit, request, f"commit snapshot {name}", lease=lease)

    async def view(self, snapshotter: str, key: str, *, parent: str, lease: str) -> None:
        """Make a read-only snapshot, which has everything below it mounted."""
        request = snapshots_pb2.ViewSnapshotRequest(snapshotter=snapshotter, key=key, parent=parent)
        await self._call(self._snapshots.View, request, f"view snapshot {parent}", lease=lease)

    async def remove(self, snapshotter: str, key: str) -> None:
        """Remove a snapshot from containerd; raises NotFoundError, StateError (has children)."""
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        await self._call(self._snapshots.Remove, request, f"remove snapshot {key}")

    async def usage(self, snapshotter: str, name: str) -> int:
        """How many inodes a snapshot takes on the local disk; raises NotFoundError."""
        request = snapshots_pb2.UsageRequest(snapshotter=snapshotter, key=name)
        answer = await self._call(self._snapshots.Usage, request, f"measure snapshot {name}")
        return int(answer.inodes)

    async def snapshots(self, snapshotter: str) -> Mapping[str, str]:
        """All snapshots of a snapshotter that both it and containerd know: name -> parent."""
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
        with _translated("list snapshots"):
            pages = self._snapshots.List(request, timeout=self._deadline, metadata=self._metadata())
            return {info.name: info.parent async for page in pages for info in page.info}

    async def snapshots_with(self, snapshotter: str, label: str) -> Mapping[str, str]:
        """The snapshots of a snapshotter that have a label: name -> the label's value."""
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
        with _translated("list snapshots"):
            pages = self._snapshots.List(request, timeout=self._deadline, metadata=self._metadata())
            infos = [info async for page in pages for info in page.info]
        return {info.name: info.labels[label] for info in infos if label in info.labels}

    async def containers(self) -> Sequence[objects.Container]:
        """All containers, sandboxes among them."""
        request = containers_pb2.ListContainersRequest()
        answer = await self._call(self._containers.List, request, "list containers")
        return [objects.container(container) for container in answer.containers]

    # Images.

    async def image(self, name: str) -> objects.Image | None:
        """An image record; None when there is none of this name."""
        request = images_pb2.GetImageRequest(name=name)
        try:
            answer = await self._call(self._images.Get, request, f"look up image {name}")
        except NotFoundError:
            return None
        return objects.image(answer.image)

    async def images(self) -> Sequence[objects.Image]:
        """All image records."""
        answer = await self._call(self._images.List, images_pb2.ListImagesRequest(), "list images")
        return [objects.image(image) for image in answer.images]

    async def create_image(self, image: objects.Image, *, lease: str = "") -> None:
        """Create an image record; raises ExistsError."""
        request = images_pb2.CreateImageRequest(image=objects.image_message(image))
        await self._call(self._images.Create, request, f"create image {image.name}", lease=lease)

    async def update_image(self, image: objects.Image, *paths: str, lease: str = "") -> None:
        """Update an image record, or only the fields that `paths` name (`labels.<key>`).

        containerd announces it, and the CRI plugin looks at the image again, even
        where nothing has changed. Raises NotFoundError.
        """
        request = images_pb2.UpdateImageRequest(
            image=objects.image_message(image), update_mask=field_mask_pb2.FieldMask(paths=paths)
        )
        await self._call(self._images.Update, request, f"update image {image.name}", lease=lease)

    async def delete_image(self, name: str) -> None:
        """Delete an image record; one that is gone is fine."""
        request = images_pb2.DeleteImageRequest(name=name)
        with contextlib.suppress(NotFoundError):
            await self._call(self._images.Delete, request, f"delete image {name}")

    async def image_events(self) -> AsyncIterator[objects.ImageEvent]:
        """Image records as they are created or updated, from now on.

        Ends with UnavailableError when containerd does; there is no other end.
        """
        filters = [
            f'namespace=={self.namespace},topic=="{topic}"'
            for topic in ("/images/create", "/images/update")
        ]
        request = events_pb2.SubscribeRequest(filters=filters)
        with _translated("follow events"):
            async for envelope in self._events.Subscribe(request):
                yield objects.ImageEvent(
                    events_pb2.ImageEvent.FromString(envelope.event.value).name
                )
        raise UnavailableError("containerd ended the stream of events")

    def _metadata(self, lease: str = "") -> tuple[tuple[str, str], ...]:
        pairs = (("containerd-namespace", self.namespace),)
        return (*pairs, ("containerd-lease", lease)) if lease else pairs

    async def _call(self, method: Any, request: Any, what: str, *, lease: str = "") -> Any:
        with _translated(what):
            return await method(request, timeout=self._deadline, metadata=self._metadata(lease))


def _added(key: str, value: str, present: Mapping[str, str]) -> str:
    """The value of a label of a blob that is there: repositories are added to those it has."""
    if not key.startswith(keys.SOURCE) or not present.get(key):
        return value
    joined = ",".join(dict.fromkeys([*present[key].split(","), value]))
    return joined if len(key) + len(joined) <= _LABEL_LIMIT else present[key]


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate gRPC's errors; `what` completes "containerd cannot ...".

    An unknown code is containerd's for what went wrong inside: worth another try.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        kind = _ERRORS.get(error.code(), UnavailableError)
        raise kind(f"containerd cannot {what}: {error.details() or error.code().name}") from error
