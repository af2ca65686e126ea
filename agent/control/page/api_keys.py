"""The key pairs with which clients may use UCloud's API and the controller's page."""

import pathlib
from collections.abc import Mapping

import msgspec

from agent import errors

_SHORTEST = 16
"""Fewest characters of a private key: nothing else protects the API."""


class KeysError(errors.PermanentError):
    """No key can be checked. Clients see the message, so it quotes nothing from the file.

    `path` is the file, `reason` what is wrong with it.
    """

    def __init__(self, path: pathlib.Path, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason


def _missing(path: pathlib.Path) -> KeysError:
    return KeysError(
        path,
        f"no API keys are installed: {path} is not there. In a cluster it is from the Secret"
        " uimgacc-api (kubectl -n uimgacc-system create secret generic uimgacc-api"
        " --from-file=keys.json), which the kubelet shows to the pod within a minute or two",
        reason="it is not there",
    )


def _damaged(path: pathlib.Path, reason: str) -> KeysError:
    return KeysError(
        path,
        f"the API keys in {path} cannot be used: expected a JSON object that gives each public"
        f" key its private key, of at least {_SHORTEST} characters",
        reason=reason,
    )


class Keys:
    """The key pairs in a local file. It is read for each request, so it may change at any time."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def read(self) -> Mapping[str, str]:
        """The private keys by public key; raise KeysError."""
        try:
            private = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except FileNotFoundError as error:
            raise _missing(self._path) from error
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _damaged(self._path, str(error)) from error
        if not all(len(each) >= _SHORTEST for each in private.values()):
            raise _damaged(self._path, f"a private key has fewer than {_SHORTEST} characters")
        return private
