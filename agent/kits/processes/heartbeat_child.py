"""The child's side of agent.kits.processes.heartbeat: kill the parent when it sends no more beats.

Started as `python -I -S heartbeat_child.py SOCKET_FD PARENT SECONDS`. It ends when its
parent does: the socket reads as closed.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time

_SECOND_THOUGHT = 5.0
"""After a pause of the whole container this process may wake before its parent. So the parent is
killed only if it also sends no beat in this time, while this process is awake."""
_LAST_WORDS = 1.0


def watch(beats: socket.socket, parent: int, seconds: float) -> None:
    """Return when the parent has ended, by itself or because it was killed."""
    doubted = False
    while True:
        beats.settimeout(min(seconds, _SECOND_THOUGHT) if doubted else seconds)
        try:
            if not beats.recv(4096):
                return
        except TimeoutError:
            if doubted:
                end(parent, seconds)
                return
            doubted = True
        else:
            doubted = False


def end(parent: int, seconds: float) -> None:
    """Have the parent write where it hangs, if it can, and kill it."""
    fields = f'"level": "error", "message": "the process hangs: killed", "seconds": {seconds:g}'
    with contextlib.suppress(OSError):
        # The log's reader may hang, or be gone. A pipe that is writable has room for a line.
        if select.select([], [2], [], 0)[1]:
            os.write(2, f'{{{fields}, "pid": {parent}}}\n'.encode())
    for number, pause in ((signal.SIGQUIT, _LAST_WORDS), (signal.SIGKILL, 0.0)):
        # A parent that has ended meanwhile is not the parent any more; its number may be reused.
        if os.getppid() == parent:
            os.kill(parent, number)
            time.sleep(pause)


def main() -> None:
    """Watch until the parent has ended."""
    descriptor, parent, seconds = sys.argv[1:4]
    with socket.socket(fileno=int(descriptor)) as beats:
        watch(beats, int(parent), float(seconds))


if __name__ == "__main__":
    main()
