"""A gRPC channel to containerd's socket, with the options that an agent of long life needs."""

from typing import Any

import grpc.aio

# containerd reads at most 16 MiB in one message, and answers with at most as much.
_MESSAGE_LIMIT = 16 << 20

_OPTIONS = (
    # A restarted containerd is found again at once; the socket is on this machine. An attempt to
    # connect has gRPC's own 20 s: `min_reconnect_backoff_ms` would bound the attempt, not the
    # pause, and a containerd on a busy node needs longer for its first frame than for a call.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Keep the connection through quiet hours: the next pod should not wait for one.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.enable_http_proxy", 0),
    # Else the path of the socket would be the name of the server, which containerd may refuse.
    ("grpc.default_authority", "localhost"),
    # Channels with equal arguments share a connection; a new client wants a new one.
    ("grpc.use_local_subchannel_pool", 1),
)


def to_socket(address: str) -> grpc.aio.Channel:
    """A channel to the socket at a path; it connects with the first call."""
    return grpc.aio.insecure_channel(f"unix://{address}", options=_OPTIONS)


def stub(kind: Any, channel: grpc.aio.Channel) -> Any:
    """A generated stub on a channel; the generated code has no types."""
    return kind(channel)
