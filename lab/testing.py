"""`python -m lab.testing`: all tests, in two runs side by side.

They wait for real parts most of the time. What runs containers stays in one run: two nodes with
containers of the same name are no good neighbours. Each run is printed whole, as it ends.
"""

import concurrent.futures
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parents[1] / "tests"
WITH_CONTAINERS = ("containerd", "guest", "image", "node", "snapshotter")


def main() -> None:
    """Run all; exit with the worst status."""
    folders = sorted(path.name for path in TESTS.iterdir() if any(path.rglob("test_*.py")))
    others = [name for name in folders if name not in WITH_CONTAINERS]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, names) for names in (WITH_CONTAINERS, others)]
        for ended in concurrent.futures.as_completed(runs):
            print(ended.result().stdout, flush=True)
    sys.exit(max(ended.result().returncode for ended in runs))


def run(folders: list[str] | tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    """One run of pytest over some folders of tests."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--durations=10",
            *(TESTS / name for name in folders),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        cwd=TESTS.parent,
    )


if __name__ == "__main__":
    main()
