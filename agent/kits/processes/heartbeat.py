"""An end for a process that hangs: a child of it that kills it when no more beats come.

The event loop sends the beats. A thread could watch it as well, but sleeps with the
process when that is stopped, and waits with it for the interpreter's lock; a probe from
outside (the kubelet's `exec`) starts a program for each look, a hundred times what this
costs. The child is bare Python, asleep between beats; it ends with its parent.

Only for roles that a kill -9 harms in nothing. The first process of a PID namespace
cannot be killed from inside; our DaemonSet shares the host's.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys

from agent.kits.processes import heartbeat_child

logger = logging.getLogger(__name__)

_CHILD = pathlib.Path(heartbeat_child.__file__)
_BEATS = 6
"""In the time that the loop may stand still: some may be late without a consequence."""


async def run(seconds: float) -> None:
    """A service: have this process killed when its loop stands still for `seconds`.

    Its last words are the stacks of all threads, on standard error; `kill -QUIT` shows
    them at any time.
    """
    faulthandler.register(signal.SIGQUIT, file=2, all_threads=True)
    while True:
        try:
            await _beat(seconds)
            logger.warning("the watcher has ended; another one takes over")
        except OSError as error:
            # Out of processes or memory: no reason to end what works.
            logger.warning("nobody watches this process", extra={"reason": str(error)})
            await asyncio.sleep(seconds)


async def _beat(seconds: float) -> None:
    """Start a watcher and send it beats for as long as it lives."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        with theirs:
            arguments = [str(theirs.fileno()), str(os.getpid()), str(seconds)]
            watcher = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond, at the start
                [sys.executable, "-I", "-S", str(_CHILD), *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    # A watcher that is itself stopped does not read: what is full needs no more.
                    with contextlib.suppress(BlockingIOError):
                        ours.send(b".")
                    await asyncio.sleep(seconds / _BEATS)
        finally:
            watcher.kill()
            watcher.wait()
