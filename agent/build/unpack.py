"""The hot path: a layer's blob, as it comes, into a pipe as a tar that mkfs.erofs gets right.

Two threads, so that hashing and decompressing run beside the download and beside
each other: the first hashes and decompresses the blob, the second hashes the tar
and puts it right. They touch only memory and the pipe. All queues are bounded:
memory does not grow with the layer.
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from agent import errors
from agent.build import decompression, limits
from agent.build.bulk import spool
from agent.build.tar import corrections, detours, headers, inheritance, stream
from agent.kits.aio import threads

_BATCH = 1 << 20
_DEPTH = 4
_IOV = 512


Read = Callable[[decompression.Source], Iterator[bytes]]
"""Makes the pieces of a tar of what comes; what it raises ends the unpacking."""


def read_blob(*, compressed: bool) -> Read:
    """Reads the one blob of an image's layer."""
    return functools.partial(decompression.pieces, compressed=compressed)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What is known of a layer before it is unpacked, and what it may take."""

    read: Read
    position: inheritance.Position
    known: corrections.Corrections
    limits: limits.Limits


@dataclasses.dataclass(frozen=True, slots=True)
class Unpacked:
    """What a layer turned out to be."""

    blob_digest: str
    diff_id: str
    tar_size: int
    entries: int
    implied: tuple[bytes, ...]
    has_whiteouts: bool
    corrections: corrections.Corrections
    fault: errors.AgentError | None


class ReaderGone(errors.TemporaryError):
    """The pipe has no reader any more; the reader's exit status says why."""


class _Blob:
    """The blob's bytes as a file to read from; counts and hashes them."""

    def __init__(self, channel: threads.Channel[bytes], on_read: Callable[[], None]) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self._channel = channel
        self._on_read = on_read
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        data = self._rest
        if not data:
            data = self._channel.get() or b""
            if data:
                self._on_read()
            self.digest.update(data)
            self.size += len(data)
        if 0 <= size < len(data):
            data, self._rest = data[:size], data[size:]
        else:
            self._rest = b""
        return data


async def unpack(
    chunks: AsyncIterator[bytes],
    pipe: int,
    layer: Layer,
    *,
    bulk: spool.Spool,
    on_bytes: Callable[[int], None],
    on_write: Callable[[int], None],
) -> Unpacked:
    """Write a layer's tar, put right, to a pipe, and close that; returns what it was.

    The data of the files that `bulk` takes go there.

    The caller compares the digests, then looks at `fault`: a blob that cannot be
    unpacked is read to its end all the same, because damage on the way is worth
    another try and a bad image is not. `on_bytes` gets the number of bytes as they arrive,
    `on_write`, in another thread, before they are written.

    Raises ReaderGone, limits.TooMuch, and what `chunks`, `on_write` and the layer's `read` raise.
    """
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(_DEPTH)
    packed: threads.Channel[bytes] = threads.Channel(_DEPTH + 1)
    tar: threads.Channel[bytes] = threads.Channel(_DEPTH)

    def taken() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(room.release)

    blob = _Blob(packed, taken)
    account = limits.Account(layer.limits)
    normaliser = stream.Normaliser(
        layer.position.inherited.get,
        layer.known,
        is_bottom=layer.position.is_bottom,
        account=account,
        diverted=bulk.diverted,
    )

    def count(size: int) -> None:
        account.write(size, blob.size)
        on_write(size)

    work = _Normalising(tar, Outlet(pipe, bulk, count), normaliser, account)
    first = threads.start("decompress", _decompress, blob, tar, layer.read)
    second = threads.start("normalise", work.run, packed)
    for future in (first, second):
        _wake_feed(future, packed, room)
    try:
        await _feed(chunks, packed, room, on_bytes)
        fault = await first
        fault = await second or fault
    except threads.Closed:
        # One thread gave up: the pipe has no reader any more, or the layer takes too much.
        with contextlib.suppress(threads.Closed):
            await first
        await second
        raise
    finally:
        packed.abort()
        tar.abort()
    return Unpacked(
        blob_digest=f"sha256:{blob.digest.hexdigest()}",
        diff_id=f"sha256:{work.digest.hexdigest()}",
        tar_size=work.size,
        entries=normaliser.entries,
        implied=tuple(normaliser.implied),
        has_whiteouts=normaliser.has_whiteouts,
        corrections=work.corrections,
        fault=fault,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Identified:
    """What a blob is, and what it unpacks to; nothing of it is kept."""

    blob_digest: str
    diff_id: str
    tar_size: int
    fault: errors.AgentError | None


def drop(piece: bytes) -> None:
    """Keep nothing of a blob."""


async def identify(
    chunks: AsyncIterator[bytes],
    *,
    compressed: bool,
    limit: int | None,
    on_bytes: Callable[[int], None],
    keep: Callable[[bytes], None] = drop,
) -> Identified:
    """Read a layer's blob for its digests; raises what `chunks` and `keep` raise.

    What it unpacks to, a tar or an EROFS image, is given to `keep` in another thread. Of more
    than `limit` bytes (None: any number) no more is read, and it gets no diff ID. The blob is
    read to its end, as in `unpack`.
    """
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(_DEPTH)
    packed: threads.Channel[bytes] = threads.Channel(_DEPTH + 1)

    def taken() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(room.release)

    work = threads.start("identify", _identify, _Blob(packed, taken), compressed, limit, keep)
    _wake_feed(work, packed, room)
    try:
        with contextlib.suppress(threads.Closed):
            await _feed(chunks, packed, room, on_bytes)
        return await work
    finally:
        packed.abort()


def _identify(
    blob: _Blob, compressed: bool, limit: int | None, keep: Callable[[bytes], None]
) -> Identified:
    digest = hashlib.sha256()
    size = 0
    fault: errors.AgentError | None = None
    try:
        for piece in decompression.pieces(blob, compressed=compressed):
            size += len(piece)
            if limit is not None and size > limit:
                break
            digest.update(piece)
            keep(piece)
    except decompression.DamagedBlob as error:
        fault = error
    while blob.read():
        pass
    diff_id = f"sha256:{digest.hexdigest()}" if limit is None or size <= limit else ""
    return Identified(f"sha256:{blob.digest.hexdigest()}", diff_id, size, fault)


def _wake_feed(
    future: "asyncio.Future[Any]", packed: threads.Channel[bytes], room: asyncio.Semaphore
) -> None:
    """Have `_feed` end when a thread fails: nothing is taken from its channel any more."""

    def ended(future: "asyncio.Future[Any]") -> None:
        # When one failure ends everything, the others' are not looked at.
        if not future.cancelled() and future.exception() is not None:
            packed.abort()
            room.release()

    future.add_done_callback(ended)


async def _feed(
    chunks: AsyncIterator[bytes],
    channel: threads.Channel[bytes],
    room: asyncio.Semaphore,
    on_bytes: Callable[[int], None],
) -> None:
    batch: list[bytes] = []
    size = 0
    async for chunk in chunks:
        batch.append(chunk)
        size += len(chunk)
        if size >= _BATCH:
            await room.acquire()
            channel.put(b"".join(batch))
            on_bytes(size)
            batch, size = [], 0
    if batch:
        await room.acquire()
        channel.put(b"".join(batch))
        on_bytes(size)
    channel.close()


def _decompress(blob: _Blob, tar: threads.Channel[bytes], read: Read) -> errors.AgentError | None:
    fault = None
    try:
        for piece in read(blob):
            tar.put(piece)
    except decompression.DamagedBlob as error:
        fault = error
    except threads.Closed:
        pass  # The tar is at fault; the other thread says so.
    tar.close()
    while blob.read():
        pass
    return fault


class _Normalising:
    """The second thread's work."""

    def __init__(
        self,
        tar: threads.Channel[bytes],
        pipe: "Outlet",
        normaliser: stream.Normaliser,
        account: limits.Account,
    ) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self.corrections = corrections.NONE
        self._normaliser = normaliser
        self._account = account
        self._tar = tar
        self._pipe = pipe

    def run(self, compressed: threads.Channel[bytes]) -> errors.AgentError | None:
        """Do it; a fault of the tar is returned.

        A pipe without a reader ends everything, and so does a layer that takes too much.
        """
        try:
            while (piece := self._tar.get()) is not None:
                self._account.read(len(piece))
                self.digest.update(piece)
                self.size += len(piece)
                self._pipe.write(self._normaliser.feed(piece))
            self._pipe.write(self._normaliser.finish())
            self.corrections = self._normaliser.corrections()
        except headers.LayerTarError as error:
            self._tar.abort()
            return error
        except BrokenPipeError as error:
            compressed.abort()
            self._tar.abort()
            raise ReaderGone("mkfs.erofs ended before the tar did") from error
        except errors.PermanentError:
            compressed.abort()
            self._tar.abort()
            raise
        finally:
            self._pipe.close()
        return None


class Outlet:
    """The ways to mkfs.erofs and to the spool; `on_write` gets the number of bytes before each."""

    def __init__(self, descriptor: int, bulk: spool.Spool, on_write: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._bulk = bulk
        self._on_write = on_write
        self._views: list[memoryview] = []
        self._of_file = self._of_padding = 0

    def write(self, spans: stream.Spans) -> None:
        """Write all of some spans."""
        for span in spans:
            if isinstance(span, detours.Detour):
                self._bulk.begin(span)
                self._of_file, self._of_padding = span.size, span.padding
                continue
            view = memoryview(span)
            if self._of_file or self._of_padding:
                view = self._divert(view)
            if view:
                self._views.append(view)
                if len(self._views) == _IOV:
                    self._flush()
        self._flush()

    def _divert(self, view: memoryview) -> memoryview:
        """Take what is of a large file; the rest."""
        own, view = view[: self._of_file], view[self._of_file :]
        if own:
            self._on_write(len(own))
            self._bulk.write(own)
            self._of_file -= len(own)
            if not self._of_file:
                self._bulk.end()
        padding = min(self._of_padding, len(view)) if not self._of_file else 0
        self._of_padding -= padding
        return view[padding:]

    def _flush(self) -> None:
        views, self._views = self._views, []
        if views:
            self._on_write(sum(len(view) for view in views))
        while views:
            count = os.writev(self._descriptor, views)
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if views:
                views[0] = views[0][count:]

    def close(self) -> None:
        """Close the pipe: the tar is at its end."""
        os.close(self._descriptor)
