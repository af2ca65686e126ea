"""What node set-up did to which file, kept beside containerd's configuration.

Written before the first file changes, so a crash at any point can be undone.
"""

import hashlib

import msgspec

from agent import errors

FOLDER = "uimgacc-setup"
NAME = "journal.json"


class JournalError(errors.PermanentError):
    """The journal cannot be read; `path` is it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: damaged ({reason}); move it away and run node-setup again")
        self.path = path


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One file: the name of its backup (None: it did not exist), digests of what was written.

    There are several digests where node set-up ran several times, or was
    interrupted: a file with any of them is as node set-up left it.
    """

    path: str
    backup: str | None
    written: list[str] = msgspec.field(name="ours")


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """All changes; `drop_in` is the path that was put into `imports`, if any."""

    changes: list[Change]
    format: int = 1


def digest(data: bytes) -> str:
    """The digest by which a file's content is recognised."""
    return hashlib.sha256(data).hexdigest()


def encode(journal: Journal) -> bytes:
    """The journal's file."""
    return msgspec.json.format(msgspec.json.encode(journal), indent=1) + b"\n"


def decode(data: bytes, path: str) -> Journal:
    """Read a journal; raise JournalError where that is not one."""
    try:
        decoded = msgspec.json.decode(data, type=Journal)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise JournalError(path, str(error)) from error
    if decoded.format != 1:
        raise JournalError(path, f"format {decoded.format}")
    return decoded
