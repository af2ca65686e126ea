"""The child's side of agent.kits.processes.workers: one blocking operation at a time.

Started as `python -I -S worker_child.py SOCKET_FD FOLDER MODULE`: without
site-packages it needs 8 MB and 15 ms. MODULE (found below FOLDER) has a dict
OPERATIONS of the functions that may be called. Messages are marshal, preceded by
their length in 4 bytes; both sides are the same interpreter.

The child ends when its parent does: the socket reads as closed, or cannot be written.
"""

import contextlib
import importlib
import marshal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

LENGTH = struct.Struct("<I")


def receive(connection: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes; b"" when the parent is gone."""
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            return b""
        parts += part
    return bytes(parts)


def answer(operations: Mapping[str, Callable[..., Any]], request: bytes) -> bytes:
    """Reply ("ok", result), ("os", errno, text, file) or ("error", kind, text)."""
    name, arguments = marshal.loads(request)  # noqa: S302 - from our own parent only
    reply: tuple[Any, ...]
    try:
        reply = ("ok", operations[name](*arguments))
    except OSError as error:
        reply = ("os", error.errno or 0, error.strerror or str(error), str(error.filename or ""))
    except Exception as error:  # noqa: BLE001 - a process boundary: the parent raises it again
        reply = ("error", type(error).__name__, str(error))
    return marshal.dumps(reply)


def main() -> None:
    """Serve until the parent closes the socket."""
    descriptor, folder, module = sys.argv[1:4]
    if folder not in sys.path:
        sys.path.insert(0, folder)
    operations = importlib.import_module(module).OPERATIONS
    parent_gone = contextlib.suppress(BrokenPipeError, ConnectionResetError)
    with socket.socket(fileno=int(descriptor)) as connection, parent_gone:
        while header := receive(connection, LENGTH.size):
            reply = answer(operations, receive(connection, LENGTH.unpack(header)[0]))
            connection.sendall(LENGTH.pack(len(reply)) + reply)


if __name__ == "__main__":
    # The folder of this file holds modules with general names: it must not be searched.
    sys.path[:] = [entry for entry in sys.path if not entry.endswith("/processes")]
    main()
