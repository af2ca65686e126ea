"""A registry that speaks the OCI distribution protocol (v1.1) or Docker's (v2).

Nothing that a registry says is believed: manifests are checked against the digest
that was asked for, or against the one that the registry names; blobs are checked
by the reader of the stream (`agent.build.unpack`), which alone sees all the bytes. The same
holds for mirrors, which are asked before the registry where files say so
(agent.clients.registry.mirrors); names stay those of the registry. Connections that drop,
stall, answer 429 or 5xx are tried again with growing delays until a deadline; a blob goes on
where it stopped.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Self, TypeVar

import aiohttp

from agent import errors
from agent.clients.registry import (
    authorized_requests,
    connections,
    credentials,
    failures,
    host_rounds,
)
from agent.clients.registry.mirrors import registry_host
from agent.model import digests, images, oci

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Capability = registry_host.Capability

MANIFEST_LIMIT = 4 << 20
"""No manifest or index is larger, in bytes (distribution-spec: registries need accept no more)."""

_DIGEST = "Docker-Content-Digest"
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
    """Reads images from registries, and from the hosts that stand for them. An async context."""

    def __init__(
        self, provider: credentials.CredentialProvider, options: connections.Options
    ) -> None:
        self._requests = authorized_requests.Requests(provider, options)
        short = dataclasses.replace(options, deadline=_ASK_SECONDS, on_retry=lambda _: None)
        self._anonymous = authorized_requests.Requests(credentials.Chain(()), short)
        self._standing = host_rounds.Standing()
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
        what = f"manifest {wanted}"
        expected = wanted if digests.is_digest(wanted) else ""

        capability = _Capability.PULL if expected else _Capability.PULL | _Capability.RESOLVE
        rounds = await self._rounds(reference, f"manifests/{wanted}", what, capability)

        def checked(data: bytes, headers: Mapping[str, str]) -> Manifest:
            if rounds.has_others and not data.lstrip().startswith(b"{"):
                # A page to log in, say: another host may have the image.
                raise failures.WrongContent(
                    f"{what} of {reference}", expected="a manifest", actual="no JSON"
                )
            actual = digests.sha256(data)
            named = expected or headers.get(_DIGEST, "")
            if digests.is_digest(named) and named != actual:
                raise failures.WrongContent(f"{what} of {reference}", expected=named, actual=actual)
            media_type = headers.get("Content-Type", "").partition(";")[0].strip()
            return Manifest(actual, media_type, data)

        accept = {"Accept": oci.ACCEPT}
        return await self._read(rounds, checked, limit=MANIFEST_LIMIT, headers=accept)

    async def digest(self, reference: images.Reference) -> str:
        """What a tag stands for, as the first host that answers says: one HEAD.

        Where it answers none, or names no digest in it, the manifest is read.
        """
        rest, what = f"manifests/{reference.version}", f"manifest {reference.version}"
        capability = _Capability.PULL | _Capability.RESOLVE
        rounds = await self._rounds(reference, rest, what, capability)
        said = ""
        async for endpoint in rounds:
            with rounds.noted(endpoint):
                said = await self._head(rounds, endpoint)
                break
        return said or (await self.manifest(reference)).digest

    async def _head(self, rounds: host_rounds.Rounds, endpoint: registry_host.Endpoint) -> str:
        """The digest in the answer of a host to a HEAD; "" where there is none."""
        url = endpoint.url(rounds.rest)
        try:
            async with self._requests.once(
                endpoint,
                url,
                what=rounds.what,
                headers={"Accept": oci.ACCEPT},
                method="HEAD",
                patience=rounds.patience,
            ) as response:
                said = response.headers.get(_DIGEST, "")
                return said if digests.is_digest(said) else ""
        except failures.RequestRefused:
            return ""

    async def small_blob(self, reference: images.Reference, digest: str) -> bytes:
        """A blob that fits in memory (a config), verified."""
        what = f"blob {digest}"

        def checked(data: bytes, _: Mapping[str, str]) -> bytes:
            if (actual := digests.sha256(data)) != digest:
                raise failures.WrongContent(
                    f"{what} of {reference}", expected=digest, actual=actual
                )
            return data

        rounds = await self._rounds(reference, f"blobs/{digest}", what, _Capability.PULL)
        return await self._read(rounds, checked, limit=CONFIG_LIMIT, headers={})

    async def referrers(self, reference: images.Reference, digest: str) -> Manifest:
        """The index of what refers to a digest in the repository: signatures, for instance.

        Raises ImageUnknown where the registry has no such list (before distribution-spec v1.1).
        """
        what = f"referrers of {digest}"

        def checked(data: bytes, _: Mapping[str, str]) -> Manifest:
            return Manifest(digests.sha256(data), _INDEX, data)

        rest = f"referrers/{digest}"
        endpoints = await self._requests.endpoints(reference, _Capability.PULL)
        # Files from before containerd 2.2 do not know the capability: where those that have it do
        # not answer, who is believed about tags is believed about such a list.
        able = [each for each in endpoints if _Capability.REFERRERS in each.host.capabilities]
        able += [
            each
            for each in endpoints
            if _Capability.RESOLVE in each.host.capabilities and each not in able
        ]
        if not able:
            raise failures.ImageUnknown(str(reference), what)
        rounds = host_rounds.Rounds(
            self._requests, self._standing, able, reference=reference, rest=rest, what=what
        )
        return await self._read(rounds, checked, limit=MANIFEST_LIMIT, headers={"Accept": _INDEX})

    async def blob(
        self, reference: images.Reference, digest: str, size: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob in order, as they come; the caller verifies them.

        A dropped or stalled connection is resumed by a Range request, where there are several
        hosts at the next one; a host that ignores the range is read again from the start, without
        handing out twice what was handed out. Raises RegistryUnreachable, ImageUnknown,
        AccessDenied, RequestRefused, WrongContent (more or fewer bytes than `size`).
        """
        rounds = await self._rounds(
            reference, f"blobs/{digest}", f"blob {digest}", _Capability.PULL
        )
        done = 0
        if not size:
            return
        async for endpoint in rounds:
            before = done
            with rounds.noted(endpoint):
                async with contextlib.aclosing(
                    self._blob_from(rounds, endpoint, digest=digest, start=done, size=size)
                ) as chunks:
                    async for chunk in chunks:
                        if not done - before:
                            rounds.gave(endpoint)
                        done += len(chunk)
                        if done > size:
                            self._raise_longer(reference, digest, size)
                        yield chunk
                if done < size:
                    raise failures.Again(f"the connection ended after {done} of {size} bytes")
            if done >= size:
                return
            if done > before:
                rounds.progressed()
            logger.info("resuming a blob", extra={"blob": digest, "offset": done})

    def distrust(self, reference: images.Reference, digest: str) -> bool:
        """Note that a blob which was read has wrong bytes: its hosts are asked last from now on.

        Return whether another host is left that has not given it wrongly.
        """
        wrong = self._standing.distrust_givers((reference.name, f"blobs/{digest}"))
        return any(
            each.url("") not in wrong
            for each in self._requests.known_endpoints(reference, _Capability.PULL)
        )

    async def gives(self, reference: images.Reference, digest: str) -> bool:
        """Whether the registry gives a blob to who has these credentials: one HEAD.

        Where that is refused, one GET of a single byte: storage to which a registry redirects
        may take nothing but a GET. Raises RegistryUnreachable.
        """
        rounds = await self._rounds(
            reference, f"blobs/{digest}", f"blob {digest}", _Capability.PULL
        )
        try:
            async for endpoint in rounds:
                with rounds.noted(endpoint):
                    await self._ask(rounds, endpoint, digest)
                    rounds.gave(endpoint)
                    return True
        except (failures.ImageUnknown, failures.AccessDenied, failures.RequestRefused):
            return False
        raise AssertionError  # the rounds end by an answer alone

    async def _ask(
        self, rounds: host_rounds.Rounds, endpoint: registry_host.Endpoint, digest: str
    ) -> None:
        """Ask a host for a blob; raise what says no."""
        url, what = endpoint.url(f"blobs/{digest}"), f"blob {digest}"
        try:
            async with self._requests.once(
                endpoint, url, what=what, headers={}, method="HEAD", patience=rounds.patience
            ):
                return
        except (failures.AccessDenied, failures.RequestRefused):
            pass
        async with self._requests.once(
            endpoint, url, what=what, headers=_FIRST_BYTE, patience=rounds.patience
        ):
            return

    async def is_public(
        self, reference: images.Reference, blob: oci.Descriptor, *, ask: bool
    ) -> bool:
        """Whether a blob that the registry has given is there for everybody.

        It is where it was given without credentials each time, by the registry itself: a mirror may
        give to everybody what the registry gives to that mirror alone. Where credentials were used
        although none are needed, or a mirror gave it, only the registry can say so: with `ask` it
        is asked for one byte without any, once for a repository that refuses. No answer means no,
        and so does one of another size: what answers a stranger may be a page to log in.
        """
        rest = f"blobs/{blob.digest}"
        givers = self._standing.givers((reference.name, rest))
        endpoints = await self._requests.endpoints(reference, _Capability.PULL)
        own = [each for each in endpoints if each.is_own]
        if all(each.is_own for each in givers) and any(
            self._requests.is_open(each.url(rest)) for each in own
        ):
            return True
        # Not with the certificate or the header that are written for it.
        own = [each for each in own if not each.host.is_known_by_more]
        async with self._asking:
            if not ask or not own or reference.name in self._private:
                return False
            what = f"blob {blob.digest}"
            with contextlib.suppress(failures.Again, errors.AgentError):
                async with self._anonymous.once(
                    own[0], own[0].url(rest), what=what, headers=_FIRST_BYTE, patience=_ASK_SECONDS
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

    async def _rounds(
        self,
        reference: images.Reference,
        rest: str,
        what: str,
        capability: registry_host.Capability,
    ) -> host_rounds.Rounds:
        endpoints = await self._requests.endpoints(reference, capability)
        return host_rounds.Rounds(
            self._requests, self._standing, endpoints, reference=reference, rest=rest, what=what
        )

    async def _blob_from(
        self,
        rounds: host_rounds.Rounds,
        endpoint: registry_host.Endpoint,
        *,
        digest: str,
        start: int,
        size: int,
    ) -> AsyncGenerator[bytes, None]:
        url = endpoint.url(f"blobs/{digest}")
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._requests.once(
            endpoint, url, what=f"blob {digest}", headers=headers, patience=rounds.patience
        ) as response:
            skip = start
            if start and response.status == 206:
                said = response.headers.get("Content-Range", "")
                if not said.startswith(f"bytes {start}-"):
                    raise failures.RequestRefused(
                        f"{url} answers another range than asked for: {said!r}"
                    )
                skip = 0
            promised = _whole_size(response)
            if rounds.has_others and promised not in (None, size):
                # Before a byte of it is handed out: another host may have the blob.
                raise failures.WrongContent(
                    f"blob {digest}", expected=f"{size} bytes", actual=f"{promised} bytes"
                )
            with failures.translated(url):
                async for chunk in response.content.iter_any():
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:] if skip else chunk
                    skip = 0

    async def _read(
        self,
        rounds: host_rounds.Rounds,
        checked: Callable[[bytes, Mapping[str, str]], T],
        *,
        limit: int,
        headers: Mapping[str, str],
    ) -> T:
        """Read what fits into memory from the first host whose answer passes the check."""
        async for endpoint in rounds:
            with rounds.noted(endpoint):
                url = endpoint.url(rounds.rest)
                async with self._requests.once(
                    endpoint, url, what=rounds.what, headers=headers, patience=rounds.patience
                ) as response:
                    with failures.translated(url):
                        data = await failures.read_limited(response, limit)
                    return checked(data, response.headers)
        raise AssertionError  # the rounds end by an answer alone


def _whole_size(response: aiohttp.ClientResponse) -> int | None:
    """The size of an answer, or of what it is a part of; None where that is not said."""
    if response.status != 206:
        return response.content_length
    size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isdecimal() and len(size) < _DIGITS else None
