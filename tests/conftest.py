"""Every test finds the lab's tools (mkfs.erofs >= 1.8 and others) on its PATH."""

import asyncio
import os
import pathlib

import pytest

LAB = pathlib.Path(os.environ.get("UIMGACC_LAB", pathlib.Path(__file__).parents[1] / ".lab"))

os.environ["PATH"] = f"{LAB / 'bin'}{os.pathsep}{os.environ['PATH']}"

# looptime asks every test for its event loop, and asyncio would make one for a test that has
# none and never close it: with warnings as errors that fails the whole run at its end.
asyncio.set_event_loop(None)

_SHARING = ("containerd", "control", "guest", "image")
"""Folders whose tests stay together in one worker: what they set up once takes long."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for pytest-xdist's `--dist loadgroup`: by such a folder, else by file."""
    here = pathlib.Path(__file__).parent
    for item in items:
        file = item.path.relative_to(here)
        name = file.parts[0] if file.parts[0] in _SHARING else str(file)
        item.add_marker(pytest.mark.xdist_group(name))
