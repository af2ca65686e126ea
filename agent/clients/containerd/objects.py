"""What containerd keeps, as values: images, blobs, snapshots, containers, plugins.

Each is made of the message that containerd sends by the function of its name; only
image records are also written. The calls are in agent.clients.containerd.rpc.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from agent._proto.containerd import images_pb2, types_pb2


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptor:
    """What an image record points to: a manifest or an index; `size` in bytes."""

    media_type: str
    digest: str
    size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image record: a name for a target."""

    name: str
    target: Descriptor
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob in the content store; `created` is when this namespace got it."""

    digest: str
    size: int
    created: datetime.datetime
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot as containerd knows it; `created` of a committed one: when it was."""

    name: str
    parent: str
    created: datetime.datetime
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease, which keeps what was made under it until it is deleted or expires."""

    id: str
    created: datetime.datetime
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """A container's record: which snapshot it uses, and the name of its image."""

    id: str
    snapshotter: str
    snapshot_key: str
    image: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """Which containerd answers: `uuid` is the installation's, `pid` the process's."""

    uuid: str
    pid: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin that containerd has loaded; `error` is "" where it works.

    `capabilities` are those that containerd believes it to have.
    """

    kind: str
    id: str
    exports: Mapping[str, str]
    error: str
    capabilities: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class ImageEvent:
    """An image record was created or updated."""

    name: str


def image(message: Any) -> Image:
    """An image record; the generated messages have no types."""
    target = Descriptor(message.target.media_type, message.target.digest, message.target.size)
    return Image(name=message.name, target=target, labels=dict(message.labels))


def image_message(record: Image) -> images_pb2.Image:
    """An image record as containerd wants it."""
    target = types_pb2.Descriptor(
        media_type=record.target.media_type,
        digest=record.target.digest,
        size=record.target.size,
    )
    return images_pb2.Image(name=record.name, target=target, labels=dict(record.labels))


def blob(message: Any) -> Blob:
    """A blob of the content store."""
    return Blob(
        digest=message.digest,
        size=message.size,
        created=_moment(message.created_at),
        labels=dict(message.labels),
    )


def snapshot(message: Any) -> Snapshot:
    """A snapshot."""
    return Snapshot(
        name=message.name,
        parent=message.parent,
        created=_moment(message.created_at),
        labels=dict(message.labels),
    )


def lease(message: Any) -> Lease:
    """A lease."""
    return Lease(id=message.id, created=_moment(message.created_at), labels=dict(message.labels))


def container(message: Any) -> Container:
    """A container's record."""
    return Container(
        message.id,
        message.snapshotter,
        message.snapshot_key,
        message.image,
        dict(message.labels),
    )


def plugin(message: Any) -> Plugin:
    """A plugin; one that could not start has an `init_err`."""
    return Plugin(
        kind=message.type,
        id=message.id,
        exports=dict(message.exports),
        error=message.init_err.message if message.HasField("init_err") else "",
        capabilities=frozenset(message.capabilities),
    )


def runtime_tables(info: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """The runtime handlers of the CRI plugin, each with its settings, of its verbose status.

    The status has the plugin's configuration as JSON. Raises ValueError where that names none.
    """
    try:
        tables = json.loads(info.get("config", ""))["containerd"]["runtimes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("the CRI status shows no runtime handlers") from error
    if not isinstance(tables, dict):
        raise ValueError("the CRI status shows no runtime handlers")  # noqa: TRY004 - as above
    return {name: table for name, table in tables.items() if isinstance(table, dict)}


def _moment(stamp: Any) -> datetime.datetime:
    moment: datetime.datetime = stamp.ToDatetime(tzinfo=datetime.UTC)
    return moment
