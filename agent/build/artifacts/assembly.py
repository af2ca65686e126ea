"""One tar of all files of an artifact, made while its blobs come, one after another.

Each file gets a header of its own, tars are unpacked and their entries given new headers, so that
nothing but names, types, permissions, owners and times of an artifact reaches the image: no
device, no xattr, no setuid bit. Every blob is compared with its digest at its end, before the tar
has one.
"""

import hashlib
from collections.abc import Iterator

from agent import errors
from agent.build import decompression, limits
from agent.build.artifacts import packed_files
from agent.build.tar import headers
from agent.model.artifacts import artifact_files, file_tree

_PIECE = 1 << 20
_BLOCK = 512
_MODES = 0o777


class WrongBlob(errors.PermanentError):
    """A blob does not have the bytes that the artifact names. Both are digests."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"expected {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


class UnusableFile(errors.PermanentError):
    """A file of an artifact cannot be in an image. `path` is as the artifact names it."""

    def __init__(self, path: bytes, fault: errors.AgentError) -> None:
        super().__init__(f"{file_tree.show(path)!r}: {fault}")
        self.path = path
        self.fault = fault


class _Part:
    """One blob of those that come; counts and hashes it."""

    def __init__(self, source: decompression.Source, size: int) -> None:
        self._source = source
        self._left = size
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        count = min(self._left, _PIECE if size < 0 else size)
        data = self._source.read(count) if count else b""
        self._digest.update(data)
        self._left -= len(data)
        return data

    def finish(self, expected: str) -> None:
        """Read the rest; raise WrongBlob."""
        while self.read():
            pass
        actual = f"sha256:{self._digest.hexdigest()}"
        if actual != expected:
            raise WrongBlob(expected, actual)


class Assembly:
    """The tar of one artifact, for one pass and one thread. What is unpacked is counted."""

    def __init__(self, layer: artifact_files.Layer, bounds: limits.Limits) -> None:
        self._files = layer.files
        self._account = limits.Account(bounds)
        self._tree = file_tree.Tree()

    def pieces(self, source: decompression.Source) -> Iterator[bytes]:
        """The tar in pieces of about 1 MiB at most.

        Raises WrongBlob, UnusableFile and limits.TooMuch, as soon as it is known.
        """
        for file in self._files:
            part = _Part(source, file.blob.size)
            try:
                yield from self._packed(file, part) if file.is_tar else self._plain(file, part)
            except (
                file_tree.UnsafePath,
                headers.LayerTarError,
                decompression.DamagedBlob,
                packed_files.NotAFile,
            ) as error:
                # Damage on the way is worth another try; what is wrong in itself is not.
                part.finish(file.blob.digest)
                raise UnusableFile(file.path, error) from error
            part.finish(file.blob.digest)
        yield bytes(2 * _BLOCK)

    def _plain(self, file: artifact_files.File, part: _Part) -> Iterator[bytes]:
        entry = headers.Entry(
            kind=b"0",
            name=file.path,
            mode=file.mode,
            uid=file.uid,
            gid=file.gid,
            size=file.blob.size,
            mtime=file.mtime,
            mtime_ns=file.mtime_ns,
        )
        yield _folders(self._tree.add_file(file.path)) + entry.encode(file.path)
        while data := part.read(_PIECE):
            yield data
        yield bytes(-file.blob.size % _BLOCK)

    def _packed(self, file: artifact_files.File, part: _Part) -> Iterator[bytes]:
        unpacked = decompression.pieces(part, compressed=file.is_compressed)
        tar = packed_files.Reader(self._counted(unpacked))
        while (entry := tar.next()) is not None:
            path = packed_files.place(entry, file)
            missing = self._add(path, entry, file.within)
            entry.mode &= _MODES
            entry.xattrs = []
            # The root is as containerd makes it.
            own = entry.encode(path) if path else b""
            yield _folders(missing) + own
            yield from tar.data()

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._account.read(len(piece))
            yield piece

    def _add(self, path: bytes, entry: headers.Entry, within: bytes) -> list[bytes]:
        if entry.kind == b"5":
            return self._tree.add_folder(path)
        if not path:
            raise file_tree.UnsafePath(entry.name, "has no name")
        if entry.kind == b"2":
            return self._tree.add_symlink(path, entry.link, within=within)
        if entry.kind == b"1":
            entry.link = packed_files.link_target(entry, path)
            self._tree.require_file(entry.link, path)
        return self._tree.add_file(path)


def _folders(paths: list[bytes]) -> bytes:
    """Headers of directories that nothing names."""
    return b"".join(headers.Entry(b"5", path, 0o755, 0, 0, 0, 0).encode(path) for path in paths)
