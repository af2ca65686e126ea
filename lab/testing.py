"""`python -m lab.testing`: all tests, in two runs side by side.

They wait for real parts most of the time. What runs containers stays in one run: two nodes with
containers of the same name are no good neighbours. Each run is printed whole when it has ended,
and meanwhile how far they are.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

TESTS = pathlib.Path(__file__).parents[1] / "tests"
WITH_CONTAINERS = ("containerd", "guest", "image", "node", "snapshotter")
SAID_SECONDS = 30.0


class Run:
    """One run of pytest over some folders of tests."""

    def __init__(self, name: str, folders: Sequence[str], log: IO[bytes]) -> None:
        self.name = name
        self._log = log
        self._is_printed = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", *(str(TESTS / folder) for folder in folders)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=TESTS.parent,
        )

    def ended(self) -> int | None:
        """Its exit status, None while it runs; what it has written is printed at its end."""
        status = self._process.poll()
        if status is not None and not self._is_printed:
            self._is_printed = True
            print(f"\n== tests {self.name} ==\n{self._text()}", flush=True)
        return status

    @property
    def progress(self) -> str:
        """How far it is."""
        found = re.findall(r"\[ *(\d+)%\]", self._text())
        return f"{self.name}: {found[-1] if found else 0} %"

    def _text(self) -> str:
        return pathlib.Path(self._log.name).read_text(errors="replace")


def main() -> None:
    """Run all; exit with the worst status."""
    folders = sorted(path.name for path in TESTS.iterdir() if any(path.rglob("test_*.py")))
    others = [name for name in folders if name not in WITH_CONTAINERS]
    with tempfile.NamedTemporaryFile() as one, tempfile.NamedTemporaryFile() as other:
        runs = [Run("with containers", WITH_CONTAINERS, one), Run("without", others, other)]
        said = time.monotonic()
        while None in (found := [run.ended() for run in runs]):
            if time.monotonic() - said > SAID_SECONDS:
                said = time.monotonic()
                print(f"tests {', '.join(run.progress for run in runs)}", flush=True)
            time.sleep(0.2)
    sys.exit(max(abs(status or 0) for status in found))


if __name__ == "__main__":
    main()
