"""An end for a mkfs.erofs that gets nowhere.

Version 1.8 may spin for ever on a tar that it does not understand, and a build would
hold its Job, its claim and its place in the queue as long. How long a good run takes
is not known beforehand; but it always reads or writes.
"""

import contextlib
import os
import pathlib
import signal
import threading

_SAMPLES = 10


class Watch:
    """Kills process `pid` when it neither reads nor writes for `seconds`, in its context.

    Waiting for input does not count: the builder ends that. Where the kernel does not
    say (no /proc, no right to look), nothing is killed.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self.fired = False
        self.seconds = seconds
        self._process = pathlib.Path(f"/proc/{pid}")
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalling", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        last, still = self._transferred(), 0
        while not self._over.wait(self.seconds / _SAMPLES):
            now = self._transferred()
            still = still + 1 if now == last and not self._waits_for_input() else 0
            last = now
            if still >= _SAMPLES:
                self.fired = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
                return

    def _transferred(self) -> object:
        """What the process has read and written so far, in bytes; never the same if unknown."""
        try:
            lines = (self._process / "io").read_text().splitlines()
        except OSError:
            return object()
        return [line for line in lines if line.startswith(("rchar", "wchar"))]

    def _waits_for_input(self) -> bool:
        # The function of the kernel it sleeps in: pipe_read, or anon_pipe_read since 6.15.
        try:
            return "pipe_read" in (self._process / "wchan").read_text()
        except OSError:
            return True
