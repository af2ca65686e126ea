"""Ends a process that hangs: a child process kills it when its event loop sends no more beats.

Why a child, and not `faulthandler.dump_traceback_later(exit=True)`, which the loop would
re-arm. Tried with Python 3.11: faulthandler's thread needs no interpreter lock, so it ends
a process whose loop is stuck, or where another thread keeps that lock, as the child does.
But

- it stops with the process: a stopped process (SIGSTOP, a debugger that has died) hangs
  for ever, and one that is continued after longer than the deadline is ended at once,
  although it works again. The child waits a second time after a pause of both;
- it writes the stacks before it ends the process, and blocks in that write for ever where
  the log's pipe is full because its reader hangs. The child checks first, and does not
  depend on what it writes.

A probe from outside (the kubelet's `exec`) starts a program for each check, a hundred
times what this costs. The child is bare Python that sleeps between beats (4.6 MB PSS); it
ends with its parent.

Only for roles that a kill -9 does not harm. The first process of a PID namespace cannot be
killed from inside; the DaemonSet shares the host's namespace.
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
"""Within the deadline: some may be late without a consequence."""


async def run(seconds: float) -> None:
    """A service: have this process killed when its event loop stands still for `seconds`.

    Before that it writes the stacks of all threads to standard error; `kill -QUIT` does so
    at any time.
    """
    faulthandler.register(signal.SIGQUIT, file=2, all_threads=True)
    while True:
        try:
            await _beat(seconds)
            logger.warning("the watcher has ended; another one is started")
        except OSError as error:
            # Out of processes or memory: no reason to end a process that works.
            logger.warning("no watcher can be started", extra={"reason": str(error)})
            await asyncio.sleep(seconds)


async def _beat(seconds: float) -> None:
    """Start a watcher and send it beats for as long as it lives."""
    sender, receiver = socket.socketpair()
    sender.setblocking(False)
    with sender:
        with receiver:
            arguments = [str(receiver.fileno()), str(os.getpid()), str(seconds)]
            watcher = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond, at the start
                [sys.executable, "-I", "-S", str(_CHILD), *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[receiver.fileno()],
                start_new_session=True,
            )
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    # A watcher that is itself stopped does not read: a full socket needs no beat.
                    with contextlib.suppress(BlockingIOError):
                        sender.send(b".")
                    await asyncio.sleep(seconds / _BEATS)
        finally:
            watcher.kill()
            watcher.wait()
