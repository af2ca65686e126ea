"""Ends a process whose clean stop takes too long."""

import asyncio
import contextlib
import os
import threading


class Watchdog:
    """Ends the process when stopping takes too long. Only for roles that this does not harm."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, _bite)
        self._timer.daemon = True

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()

    def start(self) -> None:
        """Count from now, if not already."""
        with contextlib.suppress(RuntimeError):
            self._timer.start()

    async def run(self, stop: asyncio.Event) -> None:
        """Count from the moment at which the process is asked to stop."""
        await stop.wait()
        self.start()
        await asyncio.Event().wait()


def _bite() -> None:
    os.write(2, b'{"level": "error", "message": "stopping takes too long: killed"}\n')
    os._exit(1)
