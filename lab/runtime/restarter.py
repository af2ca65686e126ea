"""What systemd is to node set-up: somebody who restarts containerd when asked to."""

import pathlib
import threading

from lab.runtime import containerds


class Restarter:
    """Restarts a containerd whenever the file `wanted` is there; the file goes when it is done.

    `restarts` counts.
    """

    def __init__(self, containerd: containerds.Containerd, wanted: pathlib.Path) -> None:
        self.restarts = 0
        self._containerd = containerd
        self._wanted = wanted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="restarter")

    @property
    def command(self) -> str:
        """For a shell: ask for a restart, and return when it is done, as `systemctl restart`."""
        return f"touch {self._wanted}; while test -e {self._wanted}; do sleep 0.05; done"

    def start(self) -> None:
        """Begin to look for the file."""
        self._thread.start()

    def close(self) -> None:
        """End; a restart that is under way ends first."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            if self._wanted.exists():
                self._containerd.restart()
                self.restarts += 1
                self._wanted.unlink()
