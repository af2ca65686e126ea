"""What a builder reports while it works: one small file in the store that it replaces.

A builder has no access to the API. The controller makes the file before it makes
the Job: an NFS client goes on believing for a while that a file is not there, but
asks the server for one that it knows each time it is opened.
"""

import re
from typing import Annotated

import msgspec

from agent.model import records

_JOB = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a build ended: the record of the Ready cache, or the reason why there is none."""

    cache: records.CacheRecord | None = None
    reason: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How far a build is.

    `percent` never goes back. `images` are those that are done, `step` says what is
    done at the moment. `result` is there at the end.
    """

    percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    images: list[str] = []
    step: str = ""
    result: Result | None = None


# Made in the one thread that imports; see agent.model.records.
_REPORT = msgspec.json.Decoder(Report)


def is_job(text: str) -> bool:
    """Whether a string may be the name of a Job, and so of a report's file."""
    return _JOB.fullmatch(text) is not None


def encode(report: Report) -> bytes:
    """The bytes of the file."""
    return msgspec.json.encode(report)


def decode(data: bytes, name: str) -> Report:
    """Read a report; raise RecordError where it is none."""
    try:
        return _REPORT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise records.RecordError(name, str(error)) from error
