"""Another name for an image that a registry has: the same manifest under another tag.

In the same repository that is one request. In another one its blobs must be there
first: the registry mounts them from the first repository where it can, else they
are read and uploaded. OCI distribution-spec v1.1, "Push".
"""

import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import yarl

from agent.clients.registry import distribution
from agent.kits.aio import backoff
from agent.model import images

_MANIFESTS = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
_DEPTH = 3
"""An index of indexes of manifests is the most that anybody makes."""


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    digest: str
    size: int
    urls: Sequence[str] = ()


class _Manifest(msgspec.Struct, frozen=True):
    """What an index (`manifests`) or a manifest (the rest) refers to."""

    manifests: list[_Descriptor] = []
    config: _Descriptor | None = None
    layers: list[_Descriptor] = []


class Client(distribution.Client):
    """A registry's client that writes as well. Use as an async context."""

    async def alias(
        self, source: images.Reference, target: images.Reference
    ) -> distribution.Manifest:
        """Give what `source` stands for the tag of `target`, too; its manifest or index.

        Raises what registry.Client does, and WrongContent for a manifest that is none.
        """
        found = await self.manifest(source)
        if source.name != target.name:
            for part in _parts(found, source):
                await self._copy(part, source, target, depth=1)
        await self._put_manifest(target, found, target.tag)
        return found

    async def layers(self, reference: images.Reference) -> int:
        """How many layers an image has; of an index, its first image."""
        found = _decoded(await self.manifest(reference), reference)
        for _ in range(_DEPTH):
            if not found.manifests:
                break
            manifest = await self.manifest(reference, found.manifests[0].digest)
            found = _decoded(manifest, reference)
        return len(found.layers)

    async def _copy(
        self, part: _Descriptor, source: images.Reference, target: images.Reference, *, depth: int
    ) -> None:
        """Have a blob, or a manifest with all that it refers to, in the other repository."""
        if part.media_type not in _MANIFESTS:
            await self._copy_blob(part, source, target)
            return
        if depth > _DEPTH:
            raise distribution.RequestRefused(f"{source}: indexes within indexes, too deep to copy")
        manifest = await self.manifest(source, part.digest)
        for each in _parts(manifest, source):
            await self._copy(each, source, target, depth=depth + 1)
        await self._put_manifest(target, manifest, part.digest)

    async def _copy_blob(
        self, part: _Descriptor, source: images.Reference, target: images.Reference
    ) -> None:
        query = {}
        if source.registry == target.registry:
            query = {"mount": part.digest, "from": source.repository}
        start = self._url(target, "blobs/uploads/") + _query(query)
        what = f"a place for blob {part.digest}"
        waits = backoff.Backoff(self._options.delays, deadline=self._options.deadline)
        while True:
            # An upload that failed cannot be relied on to go on: each attempt is a new one.
            status, place = await self._write(target, start, what=what, method="POST")
            if status == 201:
                return
            url = yarl.URL(start).join(yarl.URL(place, encoded=True))
            url = url.update_query({"digest": part.digest})
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(part.size),
            }

            def content() -> AsyncIterator[bytes]:
                return self.blob(source, part.digest, part.size)

            try:
                async with self._request(
                    target,
                    str(url),
                    what=f"blob {part.digest}",
                    headers=headers,
                    method="PUT",
                    body=content,
                ):
                    return
            except distribution.Again as again:
                if not await waits.wait(again.delay):
                    raise distribution.RegistryUnreachable(str(url), str(again)) from again

    async def _put_manifest(
        self, target: images.Reference, manifest: distribution.Manifest, name: str
    ) -> None:
        await self._write(
            target,
            self._url(target, f"manifests/{name}"),
            what=f"manifest {name}",
            method="PUT",
            headers={"Content-Type": manifest.media_type},
            body=lambda: manifest.data,
        )

    async def _write(
        self,
        reference: images.Reference,
        url: str,
        *,
        what: str,
        method: str,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
    ) -> tuple[int, str]:
        """A request that changes something, until it is done: (status, Location)."""
        waits = backoff.Backoff(self._options.delays, deadline=self._options.deadline)
        while True:
            try:
                async with self._request(
                    reference, url, what=what, headers=headers or {}, method=method, body=body
                ) as response:
                    return response.status, response.headers.get("Location", "")
            except distribution.Again as again:
                if not await waits.wait(again.delay):
                    raise distribution.RegistryUnreachable(url, str(again)) from again


def _query(parameters: Mapping[str, str]) -> str:
    return f"?{urllib.parse.urlencode(parameters, safe=':/')}" if parameters else ""


def _parts(manifest: distribution.Manifest, source: images.Reference) -> Iterator[_Descriptor]:
    found = _decoded(manifest, source)
    yield from found.manifests
    # Layers with URLs are elsewhere by their licence; no registry has them.
    yield from (each for each in found.layers if not each.urls)
    if found.config is not None:
        yield found.config


def _decoded(manifest: distribution.Manifest, source: images.Reference) -> _Manifest:
    try:
        return msgspec.json.decode(manifest.data, type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise distribution.WrongContent(
            f"the manifest of {source}", expected="an image's manifest", found=str(error)
        ) from error
