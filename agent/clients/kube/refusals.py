"""The errors of requests to the Kubernetes API server.

AgentError
├── TemporaryError
│   ├── Unavailable       no answer, half of one, a redirect, or 5xx
│   ├── TooMany           429; `delay` is its Retry-After
│   ├── Conflict          409: changed meanwhile; read it again, then decide again
│   ├── Gone              410: the server has dropped the changes asked for; list again
│   └── Denied            401, 403: a token or a role may be granted later
└── PermanentError
    ├── NotFound          404
    ├── AlreadyExists     409 of a creation
    └── Invalid           400, 422 and all other faults of the request itself
"""

import dataclasses
from collections.abc import Mapping

import msgspec

from agent import errors

# A broken proxy's answer must not stop a node for an hour.
_RETRY_AFTER_LIMIT = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is not 2xx.

    `request` is method and path, `reason` one of the API's reasons (`Conflict`,
    `Expired`), "" where the answer had none; `text` is for people.
    """

    request: str
    status: int
    reason: str
    text: str

    def __str__(self) -> str:
        code = f"{self.status} {self.reason}".strip()
        return f"{self.request}: {code}: {self.text}" if self.text else f"{self.request}: {code}"


class Unavailable(errors.TemporaryError):
    """The API server does not answer, or cannot; `refusal` is None without an answer."""

    def __init__(
        self, message: str, *, refusal: Refusal | None = None, delay: float | None = None
    ) -> None:
        super().__init__(message, delay=delay)
        self.refusal = refusal


class _Temporary(errors.TemporaryError):
    def __init__(self, refusal: Refusal, *, delay: float | None = None) -> None:
        super().__init__(str(refusal), delay=delay)
        self.refusal = refusal


class _Permanent(errors.PermanentError):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class TooMany(_Temporary):
    """The server is busy and says when to retry."""


class Conflict(_Temporary):
    """The object has changed since it was read, or another writer owns a field."""


class Gone(_Temporary):
    """The server has dropped the changes since a version: list everything again."""


class Denied(_Temporary):
    """The token is not accepted (401), also after it was read again, or lacks the right (403)."""


class NotFound(_Permanent):
    """There is no such object, or no such resource."""


class AlreadyExists(_Permanent):
    """An object of this name exists."""


class Invalid(_Permanent):
    """The server will never accept this request."""


class Status(msgspec.Struct):
    """`meta/v1 Status`: the body of an answer that refuses."""

    code: int = 0
    reason: str = ""
    message: str = ""


def error_of(
    request: str, status: int, body: bytes, headers: Mapping[str, str]
) -> errors.AgentError:
    """The error for an answer; a body that is no Status (a proxy's page) is quoted in part."""
    try:
        parsed = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        parsed = Status(message=" ".join(body[:200].decode(errors="replace").split()))
    refusal = Refusal(request=request, status=status, reason=parsed.reason, text=parsed.message)
    return _of_refusal(refusal, delay=_retry_after(headers.get("Retry-After", "")))


def _of_refusal(refusal: Refusal, *, delay: float | None) -> errors.AgentError:
    status = refusal.status
    if status == 429:
        return TooMany(refusal, delay=delay)
    if status >= 500 or 300 <= status < 400:
        return Unavailable(str(refusal), refusal=refusal, delay=delay)
    if status == 409 and refusal.reason == "AlreadyExists":
        return AlreadyExists(refusal)
    kinds: Mapping[int, type[_Temporary | _Permanent]] = {
        401: Denied,
        403: Denied,
        404: NotFound,
        409: Conflict,
        410: Gone,
    }
    return kinds.get(status, Invalid)(refusal)


def _retry_after(text: str) -> float | None:
    """Seconds. API servers send no dates, and a date would depend on this machine's clock."""
    return min(float(text), _RETRY_AFTER_LIMIT) if text.strip().isdecimal() else None
