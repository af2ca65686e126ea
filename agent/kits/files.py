"""Files that are there as a whole or not at all, also after a power cut."""

import contextlib
import os
import pathlib
import secrets


def sync_folder(folder: pathlib.Path) -> None:
    """Make renames and links in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: pathlib.Path) -> None:
    """Create a folder and its parents durably; an existing one is fine."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def publish(source: pathlib.Path, target: pathlib.Path) -> None:
    """Move a finished file to its place: fsync it, rename it, fsync the folder.

    Both must be on one file system. A file that is there already is replaced.
    """
    descriptor = os.open(source, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    make_folder(target.parent)
    source.rename(target)
    sync_folder(target.parent)


def write(target: pathlib.Path, data: bytes, *, tmp: pathlib.Path | None = None) -> None:
    """Replace a file's content atomically and durably.

    The new content is first written in the folder `tmp` (default: beside the
    target), under a name that no other process uses.
    """
    folder = tmp or target.parent
    make_folder(folder)
    draft = folder / f".{target.name}.{secrets.token_hex(6)}"
    try:
        draft.write_bytes(data)
        publish(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def replace(target: pathlib.Path, data: bytes, *, expected: bytes, tmp: pathlib.Path) -> bool:
    """Replace a file's content, provided that it is still `expected`; whether it was.

    The caller syncs the folder when all of its files are done: until then a power cut may bring
    the old content back. `tmp` is a folder of the same file system.
    """
    draft = tmp / f".{target.name}.{secrets.token_hex(6)}"
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        is_unchanged = target.read_bytes() == expected
        if is_unchanged:
            draft.rename(target)
            return True
    except FileNotFoundError:
        pass
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    draft.unlink(missing_ok=True)
    return False


def time_at(folder: pathlib.Path) -> float:
    """Now, by the clock that stamps files in a folder: on a network file system its server's.

    Only that may be compared with the times of files there: machines' clocks differ. A new
    file in the folder also makes an NFS client read the folder again.
    """
    make_folder(folder)
    probe = folder / f".now.{secrets.token_hex(6)}"
    probe.touch()
    try:
        os.utime(probe)
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def was_written_before(path: pathlib.Path, moment: float) -> bool:
    """Whether a file was last written before a moment of `time_at`; False when it is gone."""
    try:
        return path.stat().st_mtime < moment
    except FileNotFoundError:
        return False
