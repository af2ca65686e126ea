"""Reads a container's log, runs a command in it, and asks a port of its pod, by the API server.

Each is bounded in bytes, and in time by the client's deadline. Errors are those of
agent.clients.kube.refusals, and CommandFailed.

Commands go by the WebSocket subprotocol v4.channel.k8s.io (Kubernetes 1.30 and newer have it):
binary messages whose first byte is the channel: 1 stdout, 2 stderr, 3 a Status at the end.
"""

import dataclasses
from collections.abc import Sequence

import aiohttp
import msgspec

from agent import errors
from agent.clients.kube import refusals, rest_client

_PROTOCOL = "v4.channel.k8s.io"
_STDOUT, _STDERR, _END = 1, 2, 3
_OF_ERRORS = 500


class CommandFailed(errors.TemporaryError):
    """A command in a container ended with a failure; `stderr` is what it printed."""

    def __init__(self, pod: str, reason: str, stderr: str) -> None:
        super().__init__(f"a command in {pod}: {reason}: {stderr}" if stderr else reason)
        self.pod = pod
        self.stderr = stderr


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of a pod; `pod` and `namespace` are its names."""

    namespace: str
    pod: str
    name: str


class _End(msgspec.Struct):
    """The Status at the end of a command."""

    status: str = ""
    message: str = ""


async def log(
    client: rest_client.Client,
    container: Container,
    *,
    lines: int,
    limit: int,
    previous: bool = False,
) -> bytes:
    """The last lines of a container's log, at most `limit` bytes of them."""
    query = {"container": container.name, "tailLines": str(lines), "limitBytes": str(limit)}
    if previous:
        query["previous"] = "true"
    path = rest_client.PODS.path(container.pod, namespace=container.namespace, subresource="log")
    return (await client.text(path, query))[:limit]


async def page(
    client: rest_client.Client, *, namespace: str, pod: str, port: int, path: str
) -> bytes:
    """What a pod answers on a port that it opens for others."""
    proxy = rest_client.PODS.path(f"{pod}:{port}", namespace=namespace, subresource="proxy")
    return await client.text(f"{proxy}/{path}")


async def output_of(
    client: rest_client.Client, container: Container, command: Sequence[str], *, limit: int
) -> bytes:
    """What a command in a container prints; raise CommandFailed, also where it prints more."""
    path = rest_client.PODS.path(container.pod, namespace=container.namespace, subresource="exec")
    query = [("container", container.name), ("stdout", "true"), ("stderr", "true")]
    query += [("command", each) for each in command]
    printed, complaints = bytearray(), bytearray()
    async with client.websocket(path, query, protocol=_PROTOCOL) as socket:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == _STDOUT:
                printed += data
            elif channel == _STDERR:
                complaints += data[:_OF_ERRORS]
            elif channel == _END:
                _finish(container.pod, data, bytes(complaints))
                return bytes(printed)
            if len(printed) > limit:
                raise CommandFailed(container.pod, f"it printed more than {limit} bytes", "")
    raise refusals.Unavailable(f"a command in {container.pod}: the connection ended before it did")


def _finish(pod: str, status: bytes, complaints: bytes) -> None:
    """Raise CommandFailed where the command did not end well."""
    try:
        end = msgspec.json.decode(status, type=_End)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refusals.Unavailable(f"a command in {pod}: no Status at its end") from error
    if end.status != "Success":
        text = complaints[:_OF_ERRORS].decode(errors="replace").strip()
        raise CommandFailed(pod, end.message or "it failed", text)
