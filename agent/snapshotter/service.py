"""The gRPC side: containerd.services.snapshots.v1.Snapshots.

Turns messages into calls of agent.snapshotter.snapshots and its errors into status
codes; containerd looks at nothing but the code (and, for a few classes, at the end
of the message). An exception that is no AgentError would land verbatim in a pod's
events, so each is caught here, logged, and answered as Internal.
"""

import asyncio
import functools
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf import empty_pb2, timestamp_pb2

from agent import errors
from agent._proto.containerd import snapshots_pb2, snapshots_pb2_grpc, types_pb2
from agent.metrics import snapshotter_metrics
from agent.mounts import overlay
from agent.snapshotter import metadata, snapshots, state_db

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")

_CODES: dict[type[errors.AgentError], grpc.StatusCode] = {
    snapshots.ReadyError: grpc.StatusCode.ALREADY_EXISTS,
    metadata.ExistsError: grpc.StatusCode.ALREADY_EXISTS,
    metadata.NotFoundError: grpc.StatusCode.NOT_FOUND,
    metadata.StateError: grpc.StatusCode.FAILED_PRECONDITION,
    metadata.InvalidError: grpc.StatusCode.INVALID_ARGUMENT,
}

_Handler = Callable[[Any, Any, Any], Awaitable[Response]]

_AT_ONCE = 256
"""Requests at a time that may need the store, a mount or many files. More wait for their turn,
within the deadlines that containerd gave them: to refuse one would fail a pull or a pod's start.
Requests that need only the database do not wait behind them: containerd holds locks around some."""

_REQUESTS = 4096
"""Requests at a time, with those that wait; one more is answered RESOURCE_EXHAUSTED. A node with
hundreds of pods does not come near; what waits takes about 20 KB each."""

_LIST_SECONDS = snapshotter_metrics.SNAPSHOT_REQUEST.labels("List")


async def _abort(service: "Service", context: Any, method: str, error: Exception) -> NoReturn:
    """End a call with the status that an error stands for."""
    if isinstance(error, errors.AgentError):
        code = _CODES.get(type(error), grpc.StatusCode.UNAVAILABLE)
    elif isinstance(error, sqlite3.Error):
        service.database.report(error)
        code = grpc.StatusCode.UNAVAILABLE
    elif isinstance(error, OSError):
        code = grpc.StatusCode.UNAVAILABLE
    else:
        code = grpc.StatusCode.INTERNAL
    if not isinstance(error, errors.AgentError):
        logger.error("a request failed", extra={"method": method}, exc_info=error)
    await context.abort(code, f"uimgacc: {error}")
    raise AssertionError("abort does not return")


def _unary(handler: _Handler[Response]) -> _Handler[Response]:
    """Time a method and translate what it raises."""
    method = handler.__name__
    seconds = snapshotter_metrics.SNAPSHOT_REQUEST.labels(method)

    @functools.wraps(handler)
    async def call(self: "Service", request: Any, context: Any) -> Response:
        started = time.perf_counter()
        try:
            return await handler(self, request, context)
        except Exception as error:  # noqa: BLE001 - the gRPC boundary
            await _abort(self, context, method, error)
        finally:
            seconds.observe(time.perf_counter() - started)

    return call


def _in_turn(handler: _Handler[Response]) -> _Handler[Response]:
    """Let at most `_AT_ONCE` requests of such methods work at a time."""

    @functools.wraps(handler)
    async def call(self: "Service", request: Any, context: Any) -> Response:
        async with self.turns:
            return await handler(self, request, context)

    return call


def _time(nanoseconds: int) -> timestamp_pb2.Timestamp:
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)


def _info(snapshot: metadata.Snapshot) -> snapshots_pb2.Info:
    return snapshots_pb2.Info(
        name=snapshot.name,
        parent=snapshot.parent,
        kind=snapshot.kind,  # type: ignore[arg-type]  # the numbers are the same
        created_at=_time(snapshot.created),
        updated_at=_time(snapshot.updated),
        labels=snapshot.labels,
    )


def _mounts(mounts: list[overlay.Mount]) -> list[types_pb2.Mount]:
    return [
        types_pb2.Mount(type=mount.kind, source=mount.source, options=mount.options)
        for mount in mounts
    ]


class Service(snapshots_pb2_grpc.SnapshotsServicer):
    """Serves one Snapshotter; `database` takes note of errors that a restart repairs."""

    def __init__(self, served: snapshots.Snapshotter, database: state_db.Database) -> None:
        self._served = served
        self.database = database
        self.turns = asyncio.Semaphore(_AT_ONCE)

    @_unary
    @_in_turn
    async def Prepare(  # noqa: N802 - gRPC's names
        self, request: snapshots_pb2.PrepareSnapshotRequest, context: Any
    ) -> snapshots_pb2.PrepareSnapshotResponse:
        """Snapshots.Prepare."""
        mounts = await self._served.prepare(request.key, request.parent, dict(request.labels))
        return snapshots_pb2.PrepareSnapshotResponse(mounts=_mounts(mounts))

    @_unary
    @_in_turn
    async def View(  # noqa: N802
        self, request: snapshots_pb2.ViewSnapshotRequest, context: Any
    ) -> snapshots_pb2.ViewSnapshotResponse:
        """Snapshots.View."""
        mounts = await self._served.view(request.key, request.parent, dict(request.labels))
        return snapshots_pb2.ViewSnapshotResponse(mounts=_mounts(mounts))

    @_unary
    @_in_turn
    async def Mounts(  # noqa: N802
        self, request: snapshots_pb2.MountsRequest, context: Any
    ) -> snapshots_pb2.MountsResponse:
        """Snapshots.Mounts."""
        mounts = await self._served.mounts(request.key)
        return snapshots_pb2.MountsResponse(mounts=_mounts(mounts))

    @_unary
    async def Commit(  # noqa: N802
        self, request: snapshots_pb2.CommitSnapshotRequest, context: Any
    ) -> empty_pb2.Empty:
        """Snapshots.Commit; a parent (api >= 1.10) comes only to those that advertise rebase."""
        await self._served.commit(request.name, request.key, dict(request.labels))
        return empty_pb2.Empty()

    @_unary
    async def Remove(  # noqa: N802
        self, request: snapshots_pb2.RemoveSnapshotRequest, context: Any
    ) -> empty_pb2.Empty:
        """Snapshots.Remove."""
        await self._served.remove(request.key)
        return empty_pb2.Empty()

    @_unary
    async def Stat(  # noqa: N802
        self, request: snapshots_pb2.StatSnapshotRequest, context: Any
    ) -> snapshots_pb2.StatSnapshotResponse:
        """Snapshots.Stat."""
        return snapshots_pb2.StatSnapshotResponse(info=_info(self._served.stat(request.key)))

    @_unary
    async def Update(  # noqa: N802
        self, request: snapshots_pb2.UpdateSnapshotRequest, context: Any
    ) -> snapshots_pb2.UpdateSnapshotResponse:
        """Snapshots.Update."""
        snapshot = await self._served.update(
            request.info.name, dict(request.info.labels), list(request.update_mask.paths)
        )
        return snapshots_pb2.UpdateSnapshotResponse(info=_info(snapshot))

    async def List(  # noqa: N802
        self, request: snapshots_pb2.ListSnapshotsRequest, context: Any
    ) -> AsyncIterator[snapshots_pb2.ListSnapshotsResponse]:
        """Snapshots.List."""
        started = time.perf_counter()
        try:
            async for page in self._served.walk(list(request.filters)):
                yield snapshots_pb2.ListSnapshotsResponse(info=[_info(one) for one in page])
        except Exception as error:  # noqa: BLE001 - the gRPC boundary
            await _abort(self, context, "List", error)
        finally:
            _LIST_SECONDS.observe(time.perf_counter() - started)

    @_unary
    @_in_turn
    async def Usage(  # noqa: N802
        self, request: snapshots_pb2.UsageRequest, context: Any
    ) -> snapshots_pb2.UsageResponse:
        """Snapshots.Usage."""
        size, inodes = await self._served.usage(request.key)
        return snapshots_pb2.UsageResponse(size=size, inodes=inodes)

    @_unary
    async def Cleanup(  # noqa: N802
        self, request: snapshots_pb2.CleanupRequest, context: Any
    ) -> empty_pb2.Empty:
        """Snapshots.Cleanup."""
        await self._served.cleanup()
        return empty_pb2.Empty()


async def serve(service: Service, address: str, *, grace: float) -> None:
    """Serve on the Unix socket `address` until cancelled, then let calls end for `grace` seconds.

    The caller holds the root's lock, so a socket file that is there is a dead one's.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", 16 << 20),
            ("grpc.max_send_message_length", 16 << 20),
            # Of more than 1000 that the event loop has not seen yet, gRPC refuses some by chance.
            ("grpc.server.max_pending_requests", _REQUESTS),
            ("grpc.server.max_pending_requests_hard_limit", 2 * _REQUESTS),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=_REQUESTS,
    )
    snapshots_pb2_grpc.add_SnapshotsServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"unix://{address}")
    os.chmod(address, 0o600)  # who may write to it is root on this node
    await server.start()
    logger.info("serving", extra={"address": address})
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(grace)
