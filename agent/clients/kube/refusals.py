"""What the Kubernetes API server answers when it does not do what was asked.

AgentError
├── TemporaryError
│   ├── Unavailable       no answer, half of one, or 5xx
│   ├── TooMany           429; `delay` is its Retry-After
│   ├── Conflict          409: changed meanwhile; read it again, then decide again
│   ├── Gone              410: the changes asked for are no longer known; list again
│   └── Denied            401, 403: a token or a role may yet come
└── PermanentError
    ├── NotFound          404
    ├── AlreadyExists     409 of a creation
    └── Invalid           400, 422 and what else is the request's own fault
"""

import dataclasses
from collections.abc import Mapping

import msgspec

from agent import errors

# What a broken proxy says must not blind a node for an hour.
_PATIENCE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is none of 2xx.

    `request` is method and path, `reason` one of the API's own words (`Conflict`,
    `Expired`), "" where the answer had none; `text` is for people.
    """

    request: str
    status: int
    reason: str
    text: str

    def __str__(self) -> str:
        named = f"{self.status} {self.reason}".strip()
        return f"{self.request}: {named}: {self.text}" if self.text else f"{self.request}: {named}"


class Unavailable(errors.TemporaryError):
    """The API server does not answer, or cannot; `refusal` is None where nothing came."""

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
    """The server is busy and says when to come again."""


class Conflict(_Temporary):
    """The object has changed since it was read, or another writer owns a field."""


class Gone(_Temporary):
    """The server has forgotten the changes since a version: everything must be listed again."""


class Denied(_Temporary):
    """The token is not accepted (401), also read anew, or may not do this (403)."""


class NotFound(_Permanent):
    """There is no such object, or no such resource."""


class AlreadyExists(_Permanent):
    """An object of this name is there."""


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
        told = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = Status(message=" ".join(body[:200].decode(errors="replace").split()))
    refusal = Refusal(request=request, status=status, reason=told.reason, text=told.message)
    return _of_refusal(refusal, delay=_retry_after(headers.get("Retry-After", "")))


def _of_refusal(refusal: Refusal, *, delay: float | None) -> errors.AgentError:
    status = refusal.status
    if status == 429:
        return TooMany(refusal, delay=delay)
    if status >= 500:
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
    """Seconds. API servers send no dates, which other clocks would make something else of."""
    return min(float(text), _PATIENCE_SECONDS) if text.strip().isdecimal() else None
