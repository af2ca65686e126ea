"""A store whose server is far away: each call that asks a server takes a while, and is counted.

Replaces functions of `os` in this process. The folder is a local one, and nothing is kept
from one call to the next, as a real NFS client does with attributes and names: what is
counted here is the most that it asks.
"""

import collections
import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

_BY_PATH = ("listdir", "mkdir", "open", "rename", "scandir", "stat", "unlink", "utime")
_BY_DESCRIPTOR = ("close", "fsync", "read")


class Distance:
    """Counts the calls for `root` and what is below, and makes each take `seconds` longer."""

    def __init__(self, root: str, seconds: float) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self._root = root
        self._seconds = seconds
        self._lock = threading.Lock()
        self._open: dict[int, set[str]] = {}

    def begin(self) -> None:
        """Replace the functions, for the rest of the process."""
        for name in _BY_PATH:
            setattr(os, name, self._asked(getattr(os, name), self._is_below))
        for name in _BY_DESCRIPTOR:
            setattr(os, name, self._asked(getattr(os, name), self._is_first))

    def _asked(self, function: Callable[..., Any], far: Callable[..., bool]) -> Callable[..., Any]:
        name = function.__name__

        @functools.wraps(function)
        def called(*arguments: Any, **keywords: Any) -> Any:
            if not far(name, arguments[0], keywords.get("dir_fd")):
                return function(*arguments, **keywords)
            with self._lock:
                self.calls[name] += 1
            time.sleep(self._seconds)
            if name == "close":
                with self._lock:
                    del self._open[arguments[0]]
            result = function(*arguments, **keywords)
            if name == "open":
                with self._lock:
                    self._open[result] = set()
            return result

        return called

    def _is_below(self, _name: str, path: Any, folder: int | None) -> bool:
        if folder is not None:
            return folder in self._open
        return not isinstance(path, int) and os.fspath(path).startswith(self._root)

    def _is_first(self, name: str, descriptor: int, _folder: int | None) -> bool:
        """A small file comes with the first read, and it is known by then how large it is."""
        with self._lock:
            done = self._open.get(descriptor)
            if done is None or name in done:
                return False
            done.add(name)
            return True
