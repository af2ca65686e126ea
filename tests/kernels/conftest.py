"""What runs on the kernels of Debian's releases (lab.kernels), each emulated: `make kernels`.

The tests themselves are in `inside/`, and those of the unit tests that mount something; pytest
runs once more in each machine. A machine takes several minutes, so they run one after the other,
and not at all unless UIMGACC_KERNELS names some: `6.1,7.2`, or `all`.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from lab.kernels import emulator, packages
from tests.guest import conftest as guests

KERNELS = os.environ.get("UIMGACC_KERNELS", "")
PATIENCE = {
    # Ours are for real machines.
    "UIMGACC_PATIENCE": "8",
    "UIMGACC_LOOKUP_SECONDS": "20",
    "UIMGACC_STORE_SECONDS": "20",
    "UIMGACC_MOUNT_SECONDS": "60",
    "UIMGACC_CONTAINERD_SECONDS": "60",
}

collect_ignore = [] if "UIMGACC_GUEST" in os.environ else ["inside"]

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Boot a kernel and run tests there, by their names; what they said.

    `prepare` is called before that, where it is done at all.
    """

    def run(
        name: str,
        tests: Sequence[str],
        *,
        told: str = "",
        prepare: Callable[[], object] = lambda: None,
    ) -> str:
        kernel = next(each for each in packages.KERNELS if each.name == name)
        if KERNELS != "all" and name not in KERNELS.split(","):
            pytest.skip("emulated machines take minutes: make kernels")
        if os.geteuid() != 0 or not kernel.is_there:
            pytest.skip("needs root, and what `python -m lab.kernels.packages` gathers")
        subprocess.run([sys.executable, "-m", "compileall", "-q", "agent", "lab", "tests"])
        prepare()
        machine = emulator.Machine(tmp_path / "machine", kernel, told=told)
        machine.folder.mkdir()
        unused = [*guests.UNUSED, "--timeout=1200"]
        command = [sys.executable, "-m", "pytest", "-x", "-s", "-ra", *unused, *tests]
        try:
            machine.start(command, UIMGACC_GUEST="kernels", UIMGACC_KERNEL=name, **PATIENCE)
            status, output = machine.wait(2400)
        finally:
            machine.close()
        sys.stdout.write(output)
        assert status == 0, output
        return output

    return run
