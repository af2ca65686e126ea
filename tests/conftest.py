"""What holds for every test: the lab's tools are on its PATH, and it leaves nothing behind."""

import asyncio
import inspect
import os
import pathlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest

from lab import places, processes
from tests import leaks

# mkfs.erofs >= 1.8 and others.
os.environ["PATH"] = f"{places.BIN}{os.pathsep}{os.environ['PATH']}"
leaks.mark_run()

# No test speaks to a server of the Internet. The system's authorities would cost each process
# 20 ms and more, for each context of TLS: a tenth of all the time of the tests' processors.
os.environ["SSL_CERT_FILE"] = os.devnull

# looptime asks every test for its event loop, and asyncio would make one for a test that has
# none and never close it: with warnings as errors that fails the whole run at its end.
asyncio.set_event_loop(None)


@pytest.fixture(scope="session", autouse=True)
def run_folders(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """The folders in which this run makes files: pytest's own, and that of `tempfile`.

    The second one is this run's alone, so that mounts below it are not another run's, and has a
    short name: the path of a Unix socket ends at 107 bytes.
    """
    own = tmp_path_factory.getbasetemp()  # before `tempfile` has another folder
    folder = pathlib.Path(tempfile.mkdtemp(prefix="t"))
    folder.chmod(0o755)  # builders run as another user
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        yield own, folder
    processes.unmount_below(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def _no_orphans(run_folders: tuple[pathlib.Path, pathlib.Path]) -> Iterator[None]:
    """No process of the module's tests outlives its parent."""
    with leaks.orphans_checked():
        yield


@pytest.fixture
async def _no_tasks() -> AsyncIterator[None]:
    yield
    await leaks.wait_for_tasks()


@pytest.fixture(autouse=True)
def _no_leaks(
    request: pytest.FixtureRequest, run_folders: tuple[pathlib.Path, pathlib.Path]
) -> Iterator[None]:
    """A test leaves no task, child process or mount behind. Set up first, it ends last."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_no_tasks")
    if "UIMGACC_GUEST" in os.environ or request.node.get_closest_marker("guest"):
        # A guest is a machine that is switched off after its tests, and what is left goes with it.
        yield
        return
    with leaks.checked(*run_folders):
        yield
