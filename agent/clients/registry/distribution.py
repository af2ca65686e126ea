"""A registry that speaks the OCI distribution protocol (v1.1) or Docker's (v2).

Nothing that a registry says is believed: manifests are checked against the digest
that was asked for, or against the one that the registry names; blobs are checked
by the reader of the stream (`agent.build.unpack`), which alone
sees all the bytes. Connections that drop, stall, answer 429 or 5xx are tried
again with growing delays until a deadline; a blob goes on where it stopped.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Self

import aiohttp

from agent import errors
from agent.clients.registry import authorized_requests, connections, credentials, failures
from agent.model import digests, images, oci

logger = logging.getLogger(__name__)

MANIFEST_LIMIT = 4 << 20
"""No manifest or index is larger, in bytes (distribution-spec: registries need accept no more)."""

_DIGITS = 20
_FIRST_BYTE = {"Range": "bytes=0-0"}
_ASK_SECONDS = 10.0
"""For a question whose answer only saves work."""

CONFIG_LIMIT = 64 << 20
"""No image config is larger, in bytes; it is read into memory."""

_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index, byte for byte, verified."""

    digest: str
    media_type: str
    data: bytes


class Client:
    """Reads images from registries. Use as an async context."""

    def __init__(
        self, provider: credentials.CredentialProvider, options: connections.Options
    ) -> None:
        self._requests = authorized_requests.Requests(provider, options)
        short = dataclasses.replace(options, deadline=_ASK_SECONDS, on_retry=lambda _: None)
        self._anonymous = authorized_requests.Requests(credentials.Chain(()), short)
        self._asking = asyncio.Lock()
        self._private: set[str] = set()
        """Repositories that give nothing without credentials."""

    async def __aenter__(self) -> Self:
        await self._requests.__aenter__()
        await self._anonymous.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._anonymous.__aexit__(*exc)
        await self._requests.__aexit__(*exc)

    async def manifest(self, reference: images.Reference, digest: str = "") -> Manifest:
        """The manifest or index of a reference, or of a digest in its repository."""
        wanted = digest or reference.version
        url = self._requests.url(reference, f"manifests/{wanted}")
        what = f"manifest {wanted}"
        data, headers = await self._read(
            reference, url, what=what, limit=MANIFEST_LIMIT, headers={"Accept": oci.ACCEPT}
        )
        actual = digests.sha256(data)
        expected = wanted if digests.is_digest(wanted) else ""
        expected = expected or headers.get("Docker-Content-Digest", "")
        if digests.is_digest(expected) and expected != actual:
            raise failures.WrongContent(f"{what} of {reference}", expected=expected, actual=actual)
        media_type = headers.get("Content-Type", "").partition(";")[0].strip()
        return Manifest(actual, media_type, data)

    async def small_blob(self, reference: images.Reference, digest: str) -> bytes:
        """A blob that fits in memory (a config), verified."""
        what = f"blob {digest}"
        url = self._requests.url(reference, f"blobs/{digest}")
        data, _ = await self._read(reference, url, what=what, limit=CONFIG_LIMIT, headers={})
        if (actual := digests.sha256(data)) != digest:
            raise failures.WrongContent(f"{what} of {reference}", expected=digest, actual=actual)
        return data

    async def referrers(self, reference: images.Reference, digest: str) -> Manifest:
        """The index of what refers to a digest in the repository: signatures, for instance.

        Raises ImageUnknown where the registry has no such list (before distribution-spec v1.1).
        """
        url = self._requests.url(reference, f"referrers/{digest}")
        what = f"referrers of {digest}"
        data, _ = await self._read(
            reference, url, what=what, limit=MANIFEST_LIMIT, headers={"Accept": _INDEX}
        )
        return Manifest(digests.sha256(data), _INDEX, data)

    async def blob(
        self, reference: images.Reference, digest: str, size: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob in order, as they come; the caller verifies them.

        A dropped or stalled connection is resumed by a Range request; a registry that
        ignores the range is read again from the start, without handing out twice what
        was handed out. Raises RegistryUnreachable, ImageUnknown, AccessDenied,
        RequestRefused, WrongContent (more or fewer bytes than `size`).
        """
        url = self._requests.url(reference, f"blobs/{digest}")
        done = 0
        waits = self._requests.waits()
        while done < size:
            before = done
            try:
                async with contextlib.aclosing(
                    self._blob_from(reference, url, digest=digest, start=done)
                ) as chunks:
                    async for chunk in chunks:
                        done += len(chunk)
                        if done > size:
                            self._raise_longer(reference, digest, size)
                        yield chunk
                if done < size:
                    raise failures.Again(f"the connection ended after {done} of {size} bytes")  # noqa: TRY301
            except failures.Again as again:
                if done > before:
                    waits = self._requests.waits()
                logger.info(
                    "resuming a blob", extra={"url": url, "offset": done, "reason": str(again)}
                )
                await self._requests.pause(waits, url, again)

    async def gives(self, reference: images.Reference, digest: str) -> bool:
        """Whether the registry gives a blob to who has these credentials: one HEAD.

        Where that is refused, one GET of a single byte: storage to which a registry redirects
        may take nothing but a GET. Raises RegistryUnreachable.
        """
        for method, headers in ("HEAD", {}), ("GET", _FIRST_BYTE):
            try:
                await self._ask(reference, digest, method=method, headers=headers)
            except failures.ImageUnknown:
                break
            except (failures.AccessDenied, failures.RequestRefused):
                continue
            return True
        return False

    async def _ask(
        self, reference: images.Reference, digest: str, *, method: str, headers: Mapping[str, str]
    ) -> None:
        """Ask for a blob until there is an answer; raise what says no."""
        url = self._requests.url(reference, f"blobs/{digest}")
        what = f"blob {digest}"
        waits = self._requests.waits()
        while True:
            try:
                async with self._requests.once(
                    reference, url, what=what, headers=headers, method=method
                ):
                    return
            except failures.Again as again:
                await self._requests.pause(waits, url, again)

    async def is_public(
        self, reference: images.Reference, blob: oci.Descriptor, *, ask: bool
    ) -> bool:
        """Whether a blob that the registry has given is there for everybody.

        It is where it was given without credentials each time. Where credentials were used
        although none are needed, only the registry can say so: with `ask` it is asked for one
        byte without any, once for a repository that refuses. No answer means no, and so does
        one of another size: what answers a stranger may be a page to log in.
        """
        url = self._requests.url(reference, f"blobs/{blob.digest}")
        if self._requests.is_open(url):
            return True
        async with self._asking:
            if not ask or reference.name in self._private:
                return False
            what = f"blob {blob.digest}"
            with contextlib.suppress(failures.Again, errors.AgentError):
                async with self._anonymous.once(
                    reference, url, what=what, headers=_FIRST_BYTE
                ) as response:
                    if _whole_size(response) == blob.size:
                        return True
            self._private.add(reference.name)
            return False

    @staticmethod
    def _raise_longer(reference: images.Reference, digest: str, size: int) -> None:
        raise failures.WrongContent(
            f"blob {digest} of {reference}",
            expected=f"{size} bytes",
            actual="more bytes",
        )

    async def _blob_from(
        self, reference: images.Reference, url: str, *, digest: str, start: int
    ) -> AsyncGenerator[bytes, None]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._requests.once(
            reference, url, what=f"blob {digest}", headers=headers
        ) as response:
            skip = start
            if start and response.status == 206:
                said = response.headers.get("Content-Range", "")
                if not said.startswith(f"bytes {start}-"):
                    raise failures.RequestRefused(
                        f"{url} answers another range than asked for: {said!r}"
                    )
                skip = 0
            with failures.translated(url):
                async for chunk in response.content.iter_any():
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:] if skip else chunk
                    skip = 0

    async def _read(
        self,
        reference: images.Reference,
        url: str,
        *,
        what: str,
        limit: int,
        headers: Mapping[str, str],
    ) -> tuple[bytes, Mapping[str, str]]:
        waits = self._requests.waits()
        while True:
            try:
                async with self._requests.once(
                    reference, url, what=what, headers=headers
                ) as response:
                    with failures.translated(url):
                        data = await failures.read_limited(response, limit)
                    return data, response.headers
            except failures.Again as again:
                logger.info("asking again", extra={"url": url, "reason": str(again)})
                await self._requests.pause(waits, url, again)


def _whole_size(response: aiohttp.ClientResponse) -> int | None:
    """The size of an answer, or of what it is a part of; None where that is not said."""
    if response.status != 206:
        return response.content_length
    size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isdecimal() and len(size) < _DIGITS else None
