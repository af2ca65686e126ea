"""The archive of a bug report: files within bounds, redacted, and a list of them.

All of it is in memory until it is written: a credential that is met in the last file is taken out
of the first one as well.
"""

import dataclasses
import gzip
import io
import json
import os
import pathlib
import tarfile
from typing import Any

from agent.cli.bugreport import redaction

MANIFEST = "manifest.json"
FILE_LIMIT = 1 << 20
TOTAL_LIMIT = 24 << 20
"""Bytes of one file, and of all, before they are compressed."""


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    """A file, and how many bytes there were before it was cut to its end."""

    data: bytes
    whole: int


class Archive:
    """Takes files, and notes of what is missing; `folder` is what all is in, when unpacked."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._redactor = redaction.Redactor()
        self._files: dict[str, _File] = {}
        self._missing: dict[str, str] = {}
        self.size = 0

    def add_text(self, name: str, data: bytes) -> None:
        """Add a text, such as a log: its end, where it is too long."""
        kept = data[-self._room() :] if self._room() else b""
        text = self._redactor.text(kept.decode(errors="replace"))
        self._add(name, text.encode(), whole=len(data))

    def add_object(self, name: str, value: Any) -> None:
        """Add a value of JSON."""
        data = json.dumps(self._redactor.value(value), indent=1, ensure_ascii=False).encode()
        if len(data) > self._room():
            self.miss(name, f"{len(data)} bytes are more than there is room for")
            return
        self._add(name, data, whole=len(data))

    def add_json(self, name: str, data: bytes) -> None:
        """Add what a program has printed as JSON; as a text where it is none."""
        try:
            value = json.loads(data)
        except ValueError:
            self.add_text(name, data)
        else:
            self.add_object(name, value)

    def miss(self, name: str, why: str) -> None:
        """Note what could not be read, and why."""
        self._missing[name] = self._redactor.text(why)

    @property
    def missing(self) -> dict[str, str]:
        """What is not there, and why."""
        return dict(self._missing)

    @property
    def files(self) -> list[str]:
        """The names of the files, without the list of them."""
        return list(self._files)

    def write(self, path: pathlib.Path, *, about: dict[str, Any]) -> int:
        """Write it, for its owner to read only; its size in bytes. Raises OSError."""
        data = self._packed(about)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return len(data)

    def _room(self) -> int:
        return max(0, min(FILE_LIMIT, TOTAL_LIMIT - self.size))

    def _add(self, name: str, data: bytes, *, whole: int) -> None:
        if not data and whole:
            self.miss(name, "the report has no room for it")
            return
        self._files[name] = _File(data, whole)
        self.size += len(data)

    def _packed(self, about: dict[str, Any]) -> bytes:
        files = {name: self._redactor.known(file.data) for name, file in self._files.items()}
        listed = [
            {"name": name, "bytes": len(data), "wasBytes": self._files[name].whole}
            for name, data in sorted(files.items())
        ]
        manifest = {**about, "files": listed, "missing": self._missing}
        text = json.dumps(self._redactor.value(manifest), indent=1, ensure_ascii=False)
        files[MANIFEST] = self._redactor.known(text.encode())
        packed = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w") as tar,
        ):
            for name, data in sorted(files.items()):
                member = tarfile.TarInfo(f"{self._folder}/{name}")
                member.size, member.mode = len(data), 0o600
                tar.addfile(member, io.BytesIO(data))
        return packed.getvalue()
