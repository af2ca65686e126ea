"""What can go wrong with a registry, and which of it another try may mend.

What the network does, and the statuses that pass, become `Again`, which the retry loop
takes (agent.clients.registry.authorized_requests). All else is an error for the caller: aiohttp's
exceptions end here.
"""

import contextlib
import email.utils
from collections.abc import Iterator, Sequence

import aiohttp

from agent import errors
from agent.model import times

_GOOD = frozenset({200, 201, 202, 204, 206})
_CLIENT_ALERTS = (
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_UNKNOWN_CA",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_UNKNOWN",
)
"""OpenSSL's names of what a server says of the certificate that it was shown."""
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class RegistryUnreachable(errors.TemporaryError):
    """A registry gave no usable answer until the deadline.

    `url` is what was asked for, `reason` the last failure.
    """

    def __init__(self, url: str, reason: str, *, delay: float | None = None) -> None:
        super().__init__(f"no usable answer from {url}: {reason}", delay=delay)
        self.url = url
        self.reason = reason


class ImageUnknown(errors.PermanentError):
    """The registry does not have an image, or a blob of it. `reference` is the image."""

    def __init__(self, reference: str, what: str, *, hosts: str = "") -> None:
        asked = f" (asked: {hosts})" if hosts else ""
        super().__init__(
            f"the registry does not have {what} of {reference}:"
            f" check the spelling of repository and tag{asked}"
        )
        self.reference = reference


class AccessDenied(errors.PermanentError):
    """The registry refuses; `tried` are the sources of the credentials that were tried."""

    def __init__(self, reference: str, status: int, tried: list[str], *, hosts: str = "") -> None:
        asked = f" (asked: {hosts})" if hosts else ""
        means = f"with credentials of {', '.join(tried)}" if tried else "without credentials"
        super().__init__(
            f"the registry refuses {reference} ({status}) {means}:"
            " the image does not exist, or other credentials are needed"
            f" (a docker config JSON with an entry for this registry){asked}"
        )
        self.reference = reference
        self.status = status
        self.tried = tried


class NoHost(errors.PermanentError):
    """No host may be asked for something by what the files of mirrors say.

    `registry` is the one that the image names, `capability` what none of its hosts has.
    """

    def __init__(self, registry: str, capability: str) -> None:
        super().__init__(
            f"no host of {registry} may be asked to {capability}: give one of them that capability"
            " in its hosts.toml"
        )
        self.registry = registry
        self.capability = capability


class RequestRefused(errors.PermanentError):
    """The registry answers with a status that another try would give again."""


class AddressDenied(errors.PermanentError):
    """A host is at an address that no registry may be at: nothing was sent there.

    `host` is that of the URL, `address` what it stands for, `network` the denied one.
    """

    def __init__(self, host: str, address: str, network: str) -> None:
        at = f"{host} is" if host == address else f"{host} is at {address},"
        super().__init__(
            f"{at} in {network}, where builds connect to no registry, redirect or token endpoint:"
            " if it is meant, name the registry in UIMGACC_REGISTRY_ALLOW"
        )
        self.host = host
        self.address = address
        self.network = network


class WrongContent(errors.PermanentError):
    """A registry sent other bytes than it should have. `what` they are, `actual` their digest."""

    def __init__(self, what: str, *, expected: str, actual: str) -> None:
        super().__init__(
            f"the registry sent wrong bytes for {what}: expected {expected}, got {actual};"
            " the image is damaged there, or something in between changes it"
        )
        self.what = what
        self.expected = expected
        self.actual = actual


class Again(Exception):  # noqa: N818 - not an error: a turn of the retry loop
    """Try once more; `delay` is what the registry asked for. It stays within the clients.

    `answered` says that it is a status: the host is there.
    """

    def __init__(self, reason: str, delay: float | None = None, *, answered: bool = True) -> None:
        super().__init__(reason)
        self.delay = delay
        self.answered = answered


class DeniedSocketError(OSError):
    """No socket is made for an address of a denied network (agent.clients.registry.connections)."""

    def __init__(self, address: str, network: str) -> None:
        super().__init__(f"{address} is in {network}, which is denied")
        self.address = address
        self.network = network


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what the network does into Again, and what stays so into a permanent error."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise RequestRefused(
            f"the certificate of {url} is not trusted ({error.certificate_error}):"
            " name its authority's file, or allow this registry as insecure"
        ) from error
    except aiohttp.ClientSSLError as error:
        _refuse_for_certificate(url, error.os_error)
        problem = getattr(error.os_error, "reason", None) or error.os_error
        raise RequestRefused(
            f"{url} does not speak TLS ({problem}): allow plain HTTP for this registry if meant"
            " (an ImageCache's annotation uimgacc.io/plain-http-registry, a command's --plain-http)"
        ) from error
    except aiohttp.ClientOSError as error:
        _refuse_for_certificate(url, error.__cause__)
        raise _again(error) from error
    except aiohttp.InvalidURL as error:
        raise RequestRefused(f"not a URL: {error}") from error
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise _again(error) from error


def _again(error: Exception) -> Exception:
    """What a failure of the network means."""
    denied = getattr(error, "os_error", None)
    if isinstance(denied, DeniedSocketError):
        return AddressDenied(str(getattr(error, "host", "")), denied.address, denied.network)
    return Again(str(error) or type(error).__name__, answered=False)


def _refuse_for_certificate(url: str, error: BaseException | None) -> None:
    """Raise RequestRefused where a server ends a connection for the certificate of its client.

    With TLS 1.3 it does so after the handshake, so the error is one of reading.
    """
    reason = str(getattr(error, "reason", None) or "")
    if any(word in reason for word in _CLIENT_ALERTS):
        raise RequestRefused(
            f"{url} wants another certificate of its client, or one at all ({reason}):"
            " name it and its key in the host's `client` (docs/install/mirrors.md)"
        ) from error


def check_passing(response: aiohttp.ClientResponse) -> None:
    """Raise Again for a status that may pass."""
    if response.status in _RETRIED:
        raise Again(f"status {response.status}", _retry_after(response))


def check_status(
    response: aiohttp.ClientResponse, reference: str, *, what: str, tried: list[str]
) -> None:
    """Raise what a status means for an image's `what`, unless it is a success."""
    status = response.status
    if status in _GOOD:
        return
    check_passing(response)
    if status == 404:
        raise ImageUnknown(reference, what)
    if status == 403:
        raise AccessDenied(reference, status, tried)
    raise RequestRefused(f"{response.url} answers {status} {response.reason}")


async def read_limited(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body of a response; raise RequestRefused where it is longer than `limit` bytes."""
    parts = bytearray()
    async for chunk in response.content.iter_any():
        parts += chunk
        if len(parts) > limit:
            raise RequestRefused(f"{response.url} is larger than {limit} bytes")
    return bytes(parts)


def in_short(error: Exception) -> str:
    """Why one of several hosts does not give something."""
    if isinstance(error, ImageUnknown):
        return "does not have it (404)"
    if isinstance(error, AccessDenied):
        tried = f" with credentials of {', '.join(error.tried)}" if error.tried else ""
        return f"refuses ({error.status}){tried}"
    if isinstance(error, RegistryUnreachable):
        return error.reason
    return str(error)


def of_all(
    reference: str, what: str, reasons: Sequence[tuple[str, errors.AgentError]]
) -> errors.AgentError:
    """One error for those of several hosts, none of which is worth another try."""
    hosts = "; ".join(f"{host}: {in_short(error)}" for host, error in reasons)
    refusals = [error for _, error in reasons if isinstance(error, AccessDenied)]
    plain = [error for _, error in reasons if isinstance(error, (AccessDenied, ImageUnknown))]
    if len(plain) < len(reasons):
        return RequestRefused(f"no host gave {what} of {reference}: {hosts}")
    if refusals:
        tried = [source for each in refusals for source in each.tried]
        return AccessDenied(reference, refusals[-1].status, tried, hosts=hosts)
    return ImageUnknown(reference, what, hosts=hosts)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """The seconds that a Retry-After asks for: a number, or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, (when - times.now()).total_seconds())
    return None
