"""Logs as one JSON object a line on stderr, written by a thread of their own.

The event loop only puts a record into a bounded queue: a stuck pipe (a container
runtime that reads no more) costs log lines, never the loop. What is given as
`extra=` becomes fields.
"""

import contextlib
import datetime
import json
import logging
import logging.handlers
import queue
import sys
from collections.abc import Iterator
from typing import Any

_BOUND = 10_000
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Formatter(logging.Formatter):
    """Turns a record into one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _OWN)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Handler(logging.handlers.QueueHandler):
    """Drops lines while the log is not read: the roles go on without it."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


@contextlib.contextmanager
def to_stderr(level: int = logging.INFO) -> Iterator[None]:
    """Log to stderr for the time of the context; what is in the queue is written at its end."""
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(Formatter())
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(_BOUND)
    listener = logging.handlers.QueueListener(waiting, output)
    root = logging.getLogger()
    handler = _Handler(waiting)
    root.addHandler(handler)
    root.setLevel(level)
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        listener.stop()
