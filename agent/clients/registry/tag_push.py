"""Another name for an image that a registry has: the same manifest under another tag.

In the same repository that is one request. In another one its blobs must be there
first: the registry mounts them from the first repository where it can, else they
are read and uploaded. OCI distribution-spec v1.1, "Push".
"""

import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import yarl

from agent.clients.registry import authorized_requests, distribution, failures
from agent.clients.registry.mirrors import registry_host
from agent.model import images, oci


class Client(distribution.Client):
    """A registry's client that writes as well. Use as an async context."""

    async def alias(
        self, source: images.Reference, target: images.Reference
    ) -> distribution.Manifest:
        """Push the manifest or index of `source` under the tag of `target`; it is returned.

        Raises what distribution.Client does, and WrongContent for a manifest that is none.
        """
        top = await self.manifest(source)
        if source.name != target.name:
            for part in _parts(_parsed(top, source)):
                await self._copy(part, source, target, depth=1)
        await self._put_manifest(target, top, target.tag)
        return top

    async def layers(self, reference: images.Reference) -> int:
        """How many layers an image has; of an index, its first image."""
        parsed = _parsed(await self.manifest(reference), reference)
        for _ in range(oci.MAX_INDEXES):
            if isinstance(parsed, oci.Manifest) or not parsed.manifests:
                break
            manifest = await self.manifest(reference, parsed.manifests[0].digest)
            parsed = _parsed(manifest, reference)
        return len(parsed.layers) if isinstance(parsed, oci.Manifest) else 0

    async def _copy(
        self,
        part: oci.Descriptor,
        source: images.Reference,
        target: images.Reference,
        *,
        depth: int,
    ) -> None:
        """Have a blob, or a manifest with all that it refers to, in the other repository."""
        if part.media_type not in oci.INDEX_TYPES | oci.MANIFEST_TYPES:
            await self._copy_blob(part, source, target)
            return
        if depth > oci.MAX_INDEXES:
            raise failures.RequestRefused(f"{source}: indexes within indexes, too deep to copy")
        manifest = await self.manifest(source, part.digest)
        for each in _parts(_parsed(manifest, source)):
            await self._copy(each, source, target, depth=depth + 1)
        await self._put_manifest(target, manifest, part.digest)

    async def _copy_blob(
        self, part: oci.Descriptor, source: images.Reference, target: images.Reference
    ) -> None:
        query = {}
        if source.registry == target.registry:
            query = {"mount": part.digest, "from": source.repository}
        endpoint = await self._pushed_to(target)
        start = endpoint.url("blobs/uploads/" + _query(query))
        what = f"a place for blob {part.digest}"
        waits = self._requests.waits()
        while True:
            # An upload that failed cannot be relied on to go on: each attempt is a new one.
            status, place = await self._write(endpoint, start, what=what, method="POST")
            if status == 201:
                return
            url = authorized_requests.url_of(place, base=yarl.URL(start))
            url = url.update_query({"digest": part.digest})
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(part.size),
            }

            def content() -> AsyncIterator[bytes]:
                return self.blob(source, part.digest, part.size)

            try:
                async with self._requests.once(
                    endpoint,
                    str(url),
                    what=f"blob {part.digest}",
                    headers=headers,
                    method="PUT",
                    body=content,
                ):
                    return
            except failures.Again as again:
                await self._requests.pause(waits, str(url), again)

    async def _put_manifest(
        self, target: images.Reference, manifest: distribution.Manifest, name: str
    ) -> None:
        endpoint = await self._pushed_to(target)
        await self._write(
            endpoint,
            endpoint.url(f"manifests/{name}"),
            what=f"manifest {name}",
            method="PUT",
            headers={"Content-Type": manifest.media_type},
            body=lambda: manifest.data,
        )

    async def _pushed_to(self, target: images.Reference) -> registry_host.Endpoint:
        """The first host that may be pushed to, as in containerd."""
        return (await self._requests.endpoints(target, registry_host.Capability.PUSH))[0]

    async def _write(
        self,
        endpoint: registry_host.Endpoint,
        url: str,
        *,
        what: str,
        method: str,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
    ) -> tuple[int, str]:
        """A request that changes something, until it is done: (status, Location)."""
        waits = self._requests.waits()
        while True:
            try:
                async with self._requests.once(
                    endpoint, url, what=what, headers=headers or {}, method=method, body=body
                ) as response:
                    return response.status, response.headers.get("Location", "")
            except failures.Again as again:
                await self._requests.pause(waits, url, again)


def _query(parameters: Mapping[str, str]) -> str:
    return f"?{urllib.parse.urlencode(parameters, safe=':/')}" if parameters else ""


def _parts(parsed: oci.Index | oci.Manifest) -> Iterator[oci.Descriptor]:
    """What a manifest or index refers to, except layers that lie elsewhere by their licence."""
    if isinstance(parsed, oci.Index):
        yield from parsed.manifests
    else:
        yield from (layer for layer in parsed.layers if not layer.urls)
        yield parsed.config


def _parsed(manifest: distribution.Manifest, source: images.Reference) -> oci.Index | oci.Manifest:
    try:
        return oci.parse(manifest.data, manifest.media_type)
    except oci.UnsupportedImage as error:
        raise failures.WrongContent(
            f"the manifest of {source}", expected="an image's manifest", actual=error.what
        ) from error
