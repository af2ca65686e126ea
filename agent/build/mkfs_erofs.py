"""mkfs.erofs: finding it, and one run of it."""

import asyncio
import asyncio.subprocess
import contextlib
import dataclasses
import errno
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import AsyncIterator

from agent import errors
from agent.build import mkfs_stall
from agent.build.bulk import extents
from agent.kits import units
from agent.model import digests, records
from agent.model.erofs import mkfs_release

_PIPE = 1 << 20
_CLUSTER = 64 << 10
"""The most bytes that are compressed as one, after compression."""
_STALLED_SECONDS = 600.0
_FULL = ("no space left", "enospc", "disk quota exceeded")
_NO_MEMORY = ("cannot allocate memory", "enomem", "out of memory")


class MkfsMissing(errors.PermanentError):
    """There is no mkfs.erofs. `command` is what was tried."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"mkfs.erofs cannot be run ({command}: {reason}): {mkfs_release.ADVICE}")
        self.command = command


class MkfsTooOld(errors.PermanentError):
    """mkfs.erofs is too old. `version` is its version."""

    def __init__(self, command: str, version: str) -> None:
        super().__init__(
            f"{command} is of erofs-utils {version}, which is too old: {mkfs_release.ADVICE}"
        )
        self.version = version


class ConversionFailed(errors.PermanentError):
    """mkfs.erofs failed on a layer. `diff_id` is the layer, `reason` what mkfs.erofs said."""

    def __init__(self, diff_id: str, reason: str) -> None:
        super().__init__(f"mkfs.erofs failed on layer {diff_id}: {reason}")
        self.diff_id = diff_id
        self.reason = reason


class MemoryExceeded(errors.PermanentError):
    """mkfs.erofs needs more memory than it may have. `diff_id` is the layer."""

    def __init__(self, diff_id: str) -> None:
        super().__init__(
            f"mkfs.erofs needs more memory than it may have for layer {diff_id}, which has very"
            " many files, or very large ones: give builders more memory"
        )
        self.diff_id = diff_id


class ConversionStalled(errors.TemporaryError):
    """mkfs.erofs got nowhere with a layer. `diff_id` is the layer."""

    def __init__(self, diff_id: str, seconds: float) -> None:
        super().__init__(
            f"mkfs.erofs neither read nor wrote for {seconds:g} s on layer {diff_id} and was"
            " killed: see whether the store answers, else try another erofs-utils"
        )
        self.diff_id = diff_id


class DiskFull(errors.PermanentError):
    """No room where mkfs.erofs works. `folder` is that place."""

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"no space left in {folder} ({_free(folder)} free), which must hold a layer and its"
            " files uncompressed while it is built: free some space, or set TMPDIR to use another"
            " folder"
        )
        self.folder = folder


@dataclasses.dataclass(frozen=True, slots=True)
class Mkfs:
    """A mkfs.erofs that can be used: how it is called, and its version."""

    command: str
    version: str

    def toolchain(self, compression: str) -> records.Toolchain:
        """What the layer's record says about its making."""
        own = [] if compression == "none" else [extents.TOOLCHAIN]
        return records.Toolchain(version=self.version, options=[*options(compression), *own])


def options(compression: str) -> list[str]:
    """The options that determine the bytes, apart from the UUID."""
    common = ["--tar=f", "--aufs", "--quiet", "-Enoinline_data", "-b4096", "-T0", "--mkfs-time"]
    common += ["--sort=none"]
    if compression == "none":
        return common
    return [*common, f"-z{compression}", f"-C{_CLUSTER}"]


async def find(command: str) -> Mkfs:
    """Ask a mkfs.erofs for its version; raise MkfsMissing or MkfsTooOld."""
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            "-V",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise MkfsMissing(command, error.strerror or str(error)) from error
    output, _ = await process.communicate()
    release = mkfs_release.parse(output.decode(errors="replace"))
    if release is None:
        raise MkfsMissing(command, f"answers {output[:200]!r} to -V")
    if not release.builds_layers:
        raise MkfsTooOld(command, str(release))
    return Mkfs(command, str(release))


@contextlib.asynccontextmanager
async def running(
    mkfs: Mkfs, draft: pathlib.Path, *, diff_id: str, compression: str, scratch: pathlib.Path
) -> AsyncIterator["Run"]:
    """A mkfs.erofs that waits for a tar; killed when the context is left before its end."""
    reading, writing = _pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *killed_with_builder(),
            mkfs.command,
            *options(compression),
            f"-U{uuid.uuid5(uuid.NAMESPACE_URL, f'erofs:blobs/{diff_id}')}",
            str(draft),
            stdin=reading,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
    except OSError as error:
        os.close(writing)
        raise MkfsMissing(mkfs.command, error.strerror or str(error)) from error
    finally:
        os.close(reading)
    with mkfs_stall.Watch(process.pid, _STALLED_SECONDS) as watch:
        run = Run(process, writing, watch, diff_id=diff_id, draft=draft, scratch=scratch)
        try:
            yield run
        finally:
            await run.kill()


class Run:
    """One run: write the tar to `pipe`, then `wait`. The writer closes `pipe`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        pipe: int,
        watch: mkfs_stall.Watch,
        *,
        diff_id: digests.DiffID | str,
        draft: pathlib.Path,
        scratch: pathlib.Path,
    ) -> None:
        self.pipe = pipe
        self._process = process
        self._watch = watch
        self._diff_id = diff_id
        self._draft = draft
        self._scratch = scratch

    async def wait(self) -> None:
        """Wait for the end.

        Raises ConversionFailed, ConversionStalled, MemoryExceeded and DiskFull.
        """
        _, said = await self._process.communicate()
        status = self._process.returncode
        if status == 0:
            return
        if self._watch.fired:
            raise ConversionStalled(str(self._diff_id), self._watch.seconds)
        text = said.decode(errors="replace").strip()
        if any(sign in text.lower() for sign in _FULL) or self._is_full():
            raise DiskFull(str(self._draft.parent))
        if any(sign in text.lower() for sign in _NO_MEMORY):
            raise MemoryExceeded(str(self._diff_id))
        if status is not None and status < 0:
            text = f"killed by signal {-status} (out of memory?) {text}"
        reason = " / ".join(text.splitlines()[-3:]) or f"exit status {status}"
        raise ConversionFailed(str(self._diff_id), reason)

    async def kill(self) -> None:
        """End it if it still runs."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def _is_full(self) -> bool:
        """mkfs.erofs does not always say so; less than 1 MiB left is full."""
        for folder in (self._draft.parent, self._scratch):
            with contextlib.suppress(OSError):
                space = os.statvfs(folder)
                if space.f_bavail * space.f_frsize < 1 << 20:
                    return True
        return False


def killed_with_builder() -> list[str]:
    """What to put before a command so that it is killed when this process is.

    mkfs.erofs 1.8 does not end by itself when the tar breaks off within a file: it
    reads nothing, for ever, with a processor to itself. util-linux has had setpriv
    for long; where it is missing, only a `kill -9` of the builder shows the difference.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    # Beyond the limit for pipes of this user the smaller one does as well.
    with contextlib.suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
    return reading, writing


def _free(folder: str) -> str:
    try:
        space = os.statvfs(folder)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return units.size(space.f_bavail * space.f_frsize)
