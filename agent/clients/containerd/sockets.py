"""Questions to the sockets of containerd and of the snapshotter, for a person's doctor.

One connection a question, each with its deadline; nothing is kept open. The agent asks
the snapshotter the same way: a process that only accepts connections may hang, and one
that only answers on old ones may accept no more.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf import empty_pb2, message

from agent import errors
from agent._proto.containerd import cri_pb2, introspection_pb2, snapshots_pb2, version_pb2
from agent.clients.containerd import objects, rpc
from agent.model import keys

Answer = TypeVar("Answer", bound=message.Message)

_STAT = "/containerd.services.snapshots.v1.Snapshots/Stat"
_MISSING = "uimgacc-doctor"
"""The name of a snapshot that does not exist: the answer needs the database, and no more."""
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


class SocketError(errors.TemporaryError):
    """A socket does not answer, or with an error; `address` is it, `reason` what happened.

    `code` is gRPC's, None where it was not gRPC that failed.
    """

    def __init__(self, address: str, reason: str, *, code: grpc.StatusCode | None = None) -> None:
        super().__init__(f"{address}: {reason}")
        self.address = address
        self.reason = reason
        self.code = code


class SilentError(SocketError):
    """A process listens there, and has not answered in time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plugin:
    """A snapshotter that a running containerd has loaded; `problem` is "" where it works."""

    name: str
    root: str
    problem: str


def version(address: str, *, deadline: float) -> str:
    """The version of the containerd that listens there; raise SocketError."""
    method = "/containerd.services.version.v1.Version/Version"
    answer = _ask(address, method, empty_pb2.Empty(), version_pb2.VersionResponse, deadline)
    return answer.version


def snapshot_plugin(address: str, name: str, *, deadline: float) -> Plugin | None:
    """A snapshotter plugin of the running containerd; None when it has not loaded it."""
    method = "/containerd.services.introspection.v1.Introspection/Plugins"
    request = introspection_pb2.PluginsRequest(filters=[f"id=={name}"])
    answer = _ask(address, method, request, introspection_pb2.PluginsResponse, deadline)
    for plugin in answer.plugins:
        if plugin.id == name and plugin.type == keys.SNAPSHOTTER_PLUGINS:
            root = plugin.exports.get("root", "")
            return Plugin(name=name, root=root, problem=plugin.init_err.message)
    return None


def runtime_snapshotters(address: str, *, deadline: float) -> Mapping[str, str]:
    """The runtime handlers of the running CRI plugin, with the snapshotter of each."""
    request = cri_pb2.StatusRequest(verbose=True)
    answer = _ask(address, rpc.CRI_STATUS, request, cri_pb2.StatusResponse, deadline)
    try:
        tables = objects.runtime_tables(answer.info)
    except ValueError as error:
        raise SocketError(address, str(error)) from error
    return {name: str(table.get("snapshotter", "")) for name, table in tables.items()}


def snapshotter_answers(address: str, name: str, *, deadline: float) -> None:
    """Ask a snapshotter for a snapshot that does not exist; raise SocketError for silence."""
    request = snapshots_pb2.StatSnapshotRequest(snapshotter=name, key=_MISSING)
    try:
        _ask(address, _STAT, request, snapshots_pb2.StatSnapshotResponse, deadline)
    except SocketError as error:
        if error.code is not grpc.StatusCode.NOT_FOUND:
            raise


async def wait_snapshotter(address: str, name: str, *, deadline: float) -> None:
    """As `snapshotter_answers`, in an event loop."""
    request = snapshots_pb2.StatSnapshotRequest(snapshotter=name, key=_MISSING)
    async with grpc.aio.insecure_channel(f"unix://{address}", _OWN_CONNECTION) as channel:
        call: Any = channel.unary_unary(
            _STAT,
            request_serializer=snapshots_pb2.StatSnapshotRequest.SerializeToString,
            response_deserializer=snapshots_pb2.StatSnapshotResponse.FromString,
        )
        try:
            await call(request, timeout=deadline)
        except grpc.RpcError as error:
            problem = _error_of(address, error)
            if problem.code is not grpc.StatusCode.NOT_FOUND:
                raise problem from error


def _ask(
    address: str, method: str, request: message.Message, answer: type[Answer], deadline: float
) -> Answer:
    with contextlib.closing(grpc.insecure_channel(f"unix://{address}")) as channel:
        call: grpc.UnaryUnaryMultiCallable[message.Message, Answer] = channel.unary_unary(
            method,
            request_serializer=lambda asked: asked.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=deadline)
        except grpc.RpcError as error:
            raise _error_of(address, error) from error


def _error_of(address: str, error: grpc.RpcError) -> SocketError:
    # What a call raises is a grpc.Call, too; the library's types do not say so.
    code = getattr(error, "code", lambda: None)()
    details = getattr(error, "details", lambda: None)() or str(error)
    kind = SilentError if code is grpc.StatusCode.DEADLINE_EXCEEDED else SocketError
    return kind(address, " ".join(str(details).split()), code=code)
