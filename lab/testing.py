"""`python -m lab.testing`: all tests, in runs of which six go side by side.

They wait for real parts much of the time. What takes long begins first and is divided by modules,
so that no run goes on for minutes when all others have ended. A container that ctr starts has a
name that no other module gives: its cgroup has that name, also on two nodes. Guests are machines
of their own, and have a run of their own. A folder that no run names is tested by the last ones.
The output of each run is printed when it has ended, and meanwhile how far they are.

Where few tests have failed, these are run once more, alone, with nothing beside them. One that
passes then is not a failure, but it is named in the summary with how it failed first: a test must
pass on a busy machine, too. More failures than a few, or one that repeats, are the result.
At the end: which tests took longest, and which were skipped, and what runs those.
"""

import collections
import compileall
import dataclasses
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree

from lab import places

TESTS = places.CHECKOUT / "tests"
STREAMS = {
    "in guests": ("guest",),
    "of clusters": ("control", "kube"),
    "of nodes": ("node",),
    "of containerd": ("containerd", "snapshotter"),
    "of builds": ("build",),
    "of the image": ("image", "properties"),
}
"""Folders of tests that belong together, those first that take longest."""
PARTS = {"of clusters": 3, "of nodes": 3, "of containerd": 2, "of the rest": 3}
"""How many runs the modules of a stream are dealt to, where that is more than one."""
INSIDE = "inside"
"""The folders of tests that a test outside runs."""
NEEDS_API_SERVER = "needs an API server: KUBEBUILDER_ASSETS, see CONTRIBUTING.md"
"""Why a test is skipped that an emulated API server cannot serve."""

_TOGETHER = 6
_PROGRESS_SECONDS = 30.0
_SLOWEST = 10
_REPEATED = 5
"""At most so many failed tests are run once more."""
_FAILURE_LINES = 40
_HOW_TO_RUN = (
    "They run with `KUBEBUILDER_ASSETS=DIR make test`, where DIR has etcd and kube-apiserver "
    "(envtest's convention)."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One test of a finished run: how long it took with its fixtures, why it was skipped, and how
    it failed."""

    name: str
    seconds: float
    skipped: str = ""
    failure: str = ""


class Run:
    """One run of pytest over some tests: folders, or tests by their node IDs.

    Its files are in `folder`.
    """

    def __init__(self, name: str, tests: Sequence[str], folder: pathlib.Path) -> None:
        self.name = name
        self._log = folder / "log"
        self._report = folder / "report.xml"
        self._cache = folder / "cache"
        self._is_printed = False
        folder.mkdir()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pytest", "-q", f"--junit-xml={self._report}"),
                    *("-o", f"cache_dir={self._cache}", *tests),
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

    @property
    def failed(self) -> list[str] | None:
        """Node IDs of the tests that failed; None where something else than tests went wrong."""
        if (status := self.status()) == 0:
            return []
        try:
            failed = list(json.loads((self._cache / "v/cache/lastfailed").read_text()))
        except FileNotFoundError:
            return None
        # A file that could not be read has failed as a whole, and no test of it.
        return failed if status == 1 and all("::" in each for each in failed) else None

    def _text(self) -> str:
        return self._log.read_text(errors="replace")


def read(report: str) -> list[Case]:
    """The tests of a report in JUnit's format, as pytest writes it."""
    cases = []
    for element in ElementTree.fromstring(report).iter("testcase"):
        skipped = element.find("skipped")
        reason = "" if skipped is None else skipped.get("message") or ""
        failures = [*element.iter("failure"), *element.iter("error")]
        text = "\n".join(each.text or each.get("message") or "" for each in failures)
        name = f"{element.get('classname', '').removeprefix('tests.')}.{element.get('name')}"
        cases.append(Case(name, float(element.get("time", 0)), reason, text))
    return cases


def shares(streams: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """What each run tests, by its name: folders, or modules where a stream has several runs."""
    found = {}
    for name, folders in streams.items():
        parts = PARTS.get(name, 1)
        if parts == 1:
            found[name] = [str(TESTS / folder) for folder in folders]
            continue
        modules = [path for each in folders for path in (TESTS / each).rglob("test_*.py")]
        # What runs inside of a guest, or of a kernel of its own, is not collected outside.
        inside = {path for path in modules if INSIDE in path.relative_to(TESTS).parts}
        outside = sorted(str(path) for path in modules if path not in inside)
        # pytest would run all tests where it is given none.
        for part in range(min(parts, len(outside))):
            found[f"{name} ({part + 1} of {parts})"] = outside[part::parts]
    return found


def finish(runs: Iterable[Run]) -> list[Run]:
    """Wait until all runs have ended. Those of a generator are started here, six at a time."""
    printed = time.monotonic()
    rest, begun = iter(runs), list[Run]()
    while True:
        # A list, not a generator: each run is asked, and prints what it has written at its end.
        going = [run for run in begun if run.status() is None]
        going += itertools.islice(rest, _TOGETHER - len(going))
        if not going:
            return begun
        begun += [run for run in going if run not in begun]
        if time.monotonic() - printed > _PROGRESS_SECONDS:
            printed = time.monotonic()
            print(f"tests {', '.join(run.progress for run in going)}", flush=True)
        time.sleep(0.2)


def repeat(runs: Sequence[Run], folder: pathlib.Path) -> list[Case] | None:
    """Run once more what has failed in the runs. None where something has failed for good.

    Else the tests that passed only the second time, with their first failures.
    """
    failed: list[str] = []
    for run in runs:
        if run.failed is None:
            return None
        failed += run.failed
    if not failed or len(failed) > _REPEATED:
        return None if failed else []
    again = Run("that failed, once more", failed, folder)
    finish([again])
    first = [case for run in runs for case in run.cases if case.failure]
    # What a module leaves behind is its last test's failure, also where that test is skipped.
    skipped = {case.name for case in again.cases if case.skipped}
    if again.status() != 0 or skipped - {case.name for case in first if case.skipped}:
        return None
    return first if len(again.cases) == len(failed) else None


def summary(cases: Iterable[Case], unstable: Sequence[Case] = ()) -> str:
    """The slowest tests, how many were skipped for which reason, and the unstable ones."""
    cases = list(cases)
    slowest = sorted(cases, key=lambda case: case.seconds, reverse=True)[:_SLOWEST]
    lines = [f"== the {len(slowest)} slowest of {len(cases)} tests =="]
    lines += [f"{case.seconds:6.1f} s  {case.name}" for case in slowest]
    skipped = collections.Counter(case.skipped for case in cases if case.skipped)
    lines.append(f"== {skipped.total()} tests were skipped ==")
    lines += [f"{number:6}    {reason}" for reason, number in skipped.most_common()]
    if skipped[NEEDS_API_SERVER]:
        lines.append(f"{skipped[NEEDS_API_SERVER]} of them need an API server. {_HOW_TO_RUN}")
    if unstable:
        lines.append(f"== {len(unstable)} unstable: failed first, passed alone ==")
    for case in unstable:
        end = case.failure.splitlines()[-_FAILURE_LINES:]
        lines += [case.name, *(f"    {line}" for line in end)]
    return "\n".join(lines)


def compile_modules() -> None:
    """Compile what the tests start hundreds of times.

    Many of these processes cannot keep what they compile: guests have the checkout read-only,
    controllers and builders are another user's, and PYTHONDONTWRITEBYTECODE may be set.
    """
    for package in ("agent", "lab"):
        compileall.compile_dir(places.CHECKOUT / package, quiet=1)


def main() -> None:
    """Run all; exit with 1 where something has failed for good."""
    folders = sorted(path.name for path in TESTS.iterdir() if any(path.rglob("test_*.py")))
    named = {folder for stream in STREAMS.values() for folder in stream}
    streams = STREAMS | {"of the rest": [name for name in folders if name not in named]}
    started = time.monotonic()
    compile_modules()
    with tempfile.TemporaryDirectory(prefix="uimgacc-tests-") as name:
        folder = pathlib.Path(name)
        runs = finish(Run(each, tests, folder / each) for each, tests in shares(streams).items())
        unstable = repeat(runs, folder / "again")
        print(summary((case for run in runs for case in run.cases), unstable or ()))
    print(f"all tests took {time.monotonic() - started:.0f} s")
    sys.exit(unstable is None)


if __name__ == "__main__":
    main()
