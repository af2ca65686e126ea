"""What runs in guests (lab.guest), each a machine with an NFS client, server and node of its own.

The tests themselves are in `inside/`; pytest runs once more in each guest, for one file
of them. The guests run side by side: most of their time is spent waiting for outages.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from lab import places
from lab.guest import machine

SCENARIOS = ("mounting", "outage", "boot", "idle", "daemonset", "verity")

PLUGINS = (
    "cacheprovider",  # there is no place for a cache
    *("hypothesispytest", "kmock", "looptime_chronometers", "looptime_plugin"),
    "looptime_timeproxies",
)
UNUSED = [word for plugin in PLUGINS for word in ("-p", f"no:{plugin}")]
"""Plugins that no test in a guest uses. Their imports take seconds there."""

collect_ignore = [] if "UIMGACC_GUEST" in os.environ else ["inside"]


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest) -> Iterator[dict[str, machine.Machine]]:
    """The guests of all tests that were selected, at work since the first of these asked."""
    if os.geteuid() != 0:
        pytest.skip("needs root to boot a guest over the machine's own root")
    if not machine.UML.exists():
        pytest.skip("there is no User Mode Linux for this machine")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="guests"))
    selected = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {each.params.get("scenario") for each in selected if each is not None}
    running = {}
    try:
        for name in [name for name in SCENARIOS if name in wanted]:
            if name == "daemonset":
                make_image()  # while the others are at work
            running[name] = machine.Machine(folder / name)
            (folder / name).mkdir()
            file = f"tests/guest/inside/test_{name}.py"
            running[name].start(
                [sys.executable, "-m", "pytest", "-x", "-s", "--tb=short", *UNUSED, file],
                UIMGACC_GUEST=name,
            )
        yield running
    finally:
        for guest in running.values():
            guest.close()
        shutil.rmtree(folder)


def make_image() -> None:
    """Have our container image, made anew if anything of it changed."""
    command = [sys.executable, "-m", "lab.image"]
    done = subprocess.run(command, cwd=places.CHECKOUT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
