"""`python -m lab.testing`: all tests, in three runs side by side.

They wait for real parts much of the time. What runs containers stays in one run: two nodes with
containers of the same name disturb each other. Guests are machines of their own, and have a run
of their own. The output of each run is printed when it has ended, and meanwhile how far they are.
At the end: which tests took longest, and which were skipped, and what runs those.
"""

import collections
import compileall
import dataclasses
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from lab import places

TESTS = places.CHECKOUT / "tests"
GUESTS = ("guest",)
WITH_CONTAINERS = ("containerd", "image", "node", "snapshotter")
NEEDS_API_SERVER = "needs an API server: KUBEBUILDER_ASSETS, see CONTRIBUTING.md"
"""Why a test is skipped that an emulated API server cannot serve."""

_PROGRESS_SECONDS = 30.0
_SLOWEST = 10
_HOW_TO_RUN = (
    "They run with `KUBEBUILDER_ASSETS=DIR make test`, where DIR has etcd and kube-apiserver "
    "(envtest's convention)."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One test of a finished run: how long it took with its fixtures, and why it was skipped."""

    name: str
    seconds: float
    skipped: str = ""


class Run:
    """One run of pytest over some folders of tests; its files are in `folder`."""

    def __init__(self, name: str, tests: Sequence[str], folder: pathlib.Path) -> None:
        self.name = name
        self._log = folder / "log"
        self._report = folder / "report.xml"
        self._is_printed = False
        folder.mkdir()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pytest", "-q", f"--junit-xml={self._report}"),
                    *(str(TESTS / each) for each in tests),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=TESTS.parent,
            )

    def status(self) -> int | None:
        """Its exit status, None while it runs; what it has written is printed at its end."""
        status = self._process.poll()
        if status is not None and not self._is_printed:
            self._is_printed = True
            print(f"\n== tests {self.name} ==\n{self._text()}", flush=True)
        return status

    @property
    def progress(self) -> str:
        """How far it is."""
        percentages = re.findall(r"\[ *(\d+)%\]", self._text())
        return f"{self.name}: {percentages[-1] if percentages else 0} %"

    @property
    def cases(self) -> list[Case]:
        """The tests of a run that has ended; none where it did not get to its report."""
        return read(self._report.read_text()) if self._report.exists() else []

    def _text(self) -> str:
        return self._log.read_text(errors="replace")


def read(report: str) -> list[Case]:
    """The tests of a report in JUnit's format, as pytest writes it."""
    cases = []
    for element in ElementTree.fromstring(report).iter("testcase"):
        skipped = element.find("skipped")
        reason = "" if skipped is None else skipped.get("message", "")
        name = f"{element.get('classname', '').removeprefix('tests.')}.{element.get('name')}"
        cases.append(Case(name, float(element.get("time", 0)), reason))
    return cases


def summary(cases: Iterable[Case]) -> str:
    """The slowest tests, and how many were skipped for which reason."""
    cases = list(cases)
    slowest = sorted(cases, key=lambda case: case.seconds, reverse=True)[:_SLOWEST]
    lines = [f"== the {len(slowest)} slowest of {len(cases)} tests =="]
    lines += [f"{case.seconds:6.1f} s  {case.name}" for case in slowest]
    skipped = collections.Counter(case.skipped for case in cases if case.skipped)
    lines.append(f"== {skipped.total()} tests were skipped ==")
    lines += [f"{number:6}    {reason}" for reason, number in skipped.most_common()]
    if skipped[NEEDS_API_SERVER]:
        lines.append(f"{skipped[NEEDS_API_SERVER]} of them need an API server. {_HOW_TO_RUN}")
    return "\n".join(lines)


def compile_modules() -> None:
    """Compile what the tests start hundreds of times.

    Many of these processes cannot keep what they compile: guests have the checkout read-only,
    controllers and builders are another user's, and PYTHONDONTWRITEBYTECODE may be set.
    """
    for package in ("agent", "lab"):
        compileall.compile_dir(places.CHECKOUT / package, quiet=1)


def main() -> None:
    """Run all; exit with the worst status."""
    folders = sorted(path.name for path in TESTS.iterdir() if any(path.rglob("test_*.py")))
    others = [name for name in folders if name not in (*GUESTS, *WITH_CONTAINERS)]
    started = time.monotonic()
    compile_modules()
    with tempfile.TemporaryDirectory(prefix="uimgacc-tests-") as name:
        folder = pathlib.Path(name)
        runs = [
            Run("in guests", GUESTS, folder / "guests"),
            Run("with containers", WITH_CONTAINERS, folder / "with"),
            Run("without", others, folder / "without"),
        ]
        printed = started
        while None in (statuses := [run.status() for run in runs]):
            if time.monotonic() - printed > _PROGRESS_SECONDS:
                printed = time.monotonic()
                print(f"tests {', '.join(run.progress for run in runs)}", flush=True)
            time.sleep(0.2)
        print(summary(case for run in runs for case in run.cases))
    print(f"all tests took {time.monotonic() - started:.0f} s")
    sys.exit(max(abs(status or 0) for status in statuses))


if __name__ == "__main__":
    main()
