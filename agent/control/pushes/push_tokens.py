"""The tokens by which registries prove that they may notify, from a local file.

Registries differ in what they can send: Distribution and Harbor any Authorization header, Quay and
Alibaba's nothing but a URL. So a token stands in the header, as Bearer or as the password of Basic
(what a client makes of https://user:token@host), or as the last part of the path.
"""

import base64
import binascii
import hashlib
import hmac
import pathlib
from collections.abc import Sequence

from agent import errors

_SHORTEST = 16
"""Characters of a token: nothing else protects the endpoint."""
_MOST = 16


class TokensUnusable(errors.PermanentError):
    """No token can be verified; the message is public. `path` is the file."""

    def __init__(self, path: pathlib.Path, reason: str) -> None:
        super().__init__(
            f"the tokens in {path} cannot be used: {reason}. In a cluster they are from the Secret"
            " uimgacc-push (kubectl -n uimgacc-system create secret generic uimgacc-push"
            " --from-literal=token=...), which the kubelet shows to the pod within a minute or two"
        )
        self.path = path


class Tokens:
    """The tokens, one a line: a local file, read for each request, so that they may change."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def read(self) -> Sequence[str]:
        """All of them, the first one for what this controller signs; raise TokensUnusable."""
        try:
            lines = self._path.read_text(encoding="utf-8").split()
        except FileNotFoundError as error:
            raise TokensUnusable(self._path, "the file is not there") from error
        except (OSError, UnicodeDecodeError) as error:
            raise TokensUnusable(self._path, "the file cannot be read") from error
        if not lines or any(len(each) < _SHORTEST for each in lines) or len(lines) > _MOST:
            expected = f"expected 1 to {_MOST} tokens of at least {_SHORTEST} characters"
            raise TokensUnusable(self._path, f"{expected}, one a line")
        return lines


def is_valid(tokens: Sequence[str], *, header: str, path: str) -> bool:
    """Whether an Authorization header or the end of a path has one of the tokens.

    How long that takes depends on no token: hashes of one length are compared, with all of them.
    """
    shown = [each for each in (_of_header(header), path) if each]
    matches = [hmac.compare_digest(_hash(one), _hash(token)) for one in shown for token in tokens]
    return any(matches)


def _of_header(header: str) -> str:
    scheme, _, rest = header.strip().partition(" ")
    if not rest:
        return scheme  # Harbor sends what was typed in, as it is
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        decoded = base64.b64decode(rest, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return decoded.partition(":")[2]


def signature(token: str, body: bytes) -> str:
    """What proves to another controller that one with the token has sent these bytes."""
    return hmac.new(token.encode(), body, hashlib.sha256).hexdigest()


def is_signed(tokens: Sequence[str], body: bytes, shown: str) -> bool:
    """Whether a signature is of these bytes, by one of the tokens."""
    matches = [hmac.compare_digest(_hash(signature(token, body)), _hash(shown)) for token in tokens]
    return any(matches)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
