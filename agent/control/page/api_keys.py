"""The pairs of keys that may use UCloud's API and the controller's page."""

import pathlib
from collections.abc import Mapping

import msgspec

from agent import errors


class KeysError(errors.PermanentError):
    """The file of keys cannot be used. `path` is it."""

    def __init__(self, path: pathlib.Path, reason: str) -> None:
        super().__init__(f"{path}: expected a JSON object, private by public key: {reason}")
        self.path = path


class Keys:
    """The pairs of keys that may ask: a local file, read anew each time, so that it may change."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def read(self) -> Mapping[str, str]:
        """The private keys by public key; raise KeysError."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise KeysError(self._path, str(error)) from error
        if not all(len(private) >= 16 for private in found.values()):
            raise KeysError(self._path, "a private key has less than 16 characters")
        return found
