"""Programs that are run to their end: with an input, a deadline and bounded output."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import signal
from collections.abc import Mapping, Sequence

from agent.kits.aio import tasks


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended; of each output, not much more than the limit is there."""

    status: int
    output: bytes
    complaint: bytes

    def last_words(self, characters: int = 300) -> str:
        """The end of what it wrote to its standard error, in one line."""
        return " ".join(self.complaint.decode(errors="replace").split())[-characters:]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long a program may take, in seconds, and how much of each output is kept, in bytes."""

    deadline: float
    output: int = 1 << 20


async def run(
    program: pathlib.Path | str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    bounds: Bounds,
    request: bytes = b"",
) -> Ended:
    """Run a program, with `request` as its input.

    Raises OSError where it cannot be started, TimeoutError at the deadline. It never outlives the
    call, nor does anything that it has started.
    """
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    status = None
    try:
        async with asyncio.timeout(bounds.deadline):
            output, complaint = await _exchange(process, request, bounds.output)
            status = await process.wait()
    finally:
        if status is None:
            # With whatever it has started: a helper of it may hold on to the pipes.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Ended(status, output, complaint)


async def _exchange(
    process: asyncio.subprocess.Process, request: bytes, limit: int
) -> tuple[bytes, bytes]:
    """Write the request and read both outputs."""
    assert process.stdin
    assert process.stdout
    assert process.stderr

    async def write(stdin: asyncio.StreamWriter) -> bytes:
        # One that knows its answer without the question may be gone already.
        with contextlib.suppress(ConnectionError):
            stdin.write(request)
            await stdin.drain()
        stdin.close()
        with contextlib.suppress(ConnectionError):
            await stdin.wait_closed()
        return b""

    _, output, complaint = await tasks.together(
        write(process.stdin), _read(process.stdout, limit), _read(process.stderr, limit)
    )
    return output, complaint


async def _read(stream: asyncio.StreamReader, limit: int) -> bytes:
    """All that comes, of which not much more than the limit is kept."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        if len(kept) <= limit:
            kept += chunk
    return bytes(kept)
