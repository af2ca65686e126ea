"""The image caches of UCloud's API, as ImageCache objects with a label of their own.

What the API needs to remember of an image, its other name and whether that is pushed, is in
annotations of the object.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object, cache_state
from agent.model import cache_manifest, caches, keys
from agent.ucloud import accelerated_images, activation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the image caches are built, and for whom.

    `plain_http` are registries without TLS, `insecure` those whose certificate is not verified.
    `serves` are the namespaces whose pods may have, without secrets of their own, what the
    login for UHub has opened (caches.EVERY: all). `named` are served instead where they are
    set, also without a login.
    """

    plain_http: Sequence[str] = ()
    insecure: Sequence[str] = ()
    serves: Sequence[str] = ("default",)
    named: Sequence[str] = ()


class ImageObjects:
    """See actions.Images; `namespace` has the Secret with the login for UHub."""

    def __init__(
        self,
        api: rest_client.Client,
        switch: activation.Activation,
        *,
        namespace: str,
        settings: Settings | None = None,
    ) -> None:
        self._api = api
        self._activation = switch
        self._namespace = namespace
        self._settings = settings or Settings()

    async def all(self) -> Sequence[accelerated_images.Accelerated]:
        """See actions.Images; in the order of their names."""
        images = [
            accelerated(body)
            async for page in self._api.pages(
                rest_client.IMAGE_CACHES, labels=f"{keys.UCLOUD_LABEL}=true"
            )
            for body in page.items
        ]
        return sorted(images, key=lambda each: each.name)

    async def create(self, name: str, original: str, target: str) -> None:
        """See actions.Images."""
        settings = self._settings
        has_login = (await self._activation.read()).has_login
        body = cache_manifest.write(
            cache_manifest.Draft(
                name=name,
                images=[original],
                pull_secrets=[f"{self._namespace}/{activation.UHUB}"] if has_login else (),
                namespaces=settings.named or (settings.serves if has_login else ()),
                size_gib=caches.SIZE_MAX,
                plain_http=settings.plain_http,
                insecure=settings.insecure,
                labels={keys.UCLOUD_LABEL: "true"},
                annotations={keys.ORIGINAL_IMAGE: original, keys.TARGET_IMAGE: target},
            )
        )
        try:
            await self._api.create(rest_client.IMAGE_CACHES, body)
        except refusals.AlreadyExists:
            present = await self._api.get(rest_client.IMAGE_CACHES, name)
            again = {
                **body["metadata"]["annotations"],
                # Any new value: what failed is built again.
                keys.REFRESH: str(present["metadata"]["resourceVersion"]),
                keys.TARGET_STAGE: None,
                keys.TARGET_PROBLEM: None,
                keys.TARGET_LAYERS: None,
            }
            # Without a login now, nothing of an earlier one stays.
            wanted = {"imagePullSecrets": None, "namespaces": None, **body["spec"]}
            await self._api.patch(
                rest_client.IMAGE_CACHES, name, {"metadata": {"annotations": again}, "spec": wanted}
            )

    async def delete(self, each: accelerated_images.Accelerated) -> None:
        """See actions.Images."""
        with contextlib.suppress(refusals.NotFound):
            await self._api.delete(rest_client.IMAGE_CACHES, each.name, uid=each.uid)

    async def mark_reported(self, each: accelerated_images.Accelerated, *, reported: bool) -> None:
        """See actions.Images."""
        await self._note(
            each,
            {"metadata": {"annotations": {keys.DELETION_REPORTED: "true" if reported else None}}},
        )

    async def pushed(self, each: accelerated_images.Accelerated, layers: int) -> None:
        """Note that the other name is pushed, and let the cache hold it as well."""
        annotations = {
            keys.TARGET_STAGE: accelerated_images.Stage.PUSHED.value,
            keys.TARGET_PROBLEM: None,
            keys.TARGET_LAYERS: str(layers),
        }
        body = {
            "metadata": {"annotations": annotations},
            "spec": {"images": [each.original, each.target]},
        }
        await self._note(each, body)

    async def failed(self, each: accelerated_images.Accelerated, problem: str) -> None:
        """Note why the other name cannot be pushed."""
        annotations = {
            keys.TARGET_STAGE: accelerated_images.Stage.FAILED.value,
            keys.TARGET_PROBLEM: problem[:1024],
        }
        await self._note(each, {"metadata": {"annotations": annotations}})

    async def _note(self, each: accelerated_images.Accelerated, body: Mapping[str, Any]) -> None:
        with contextlib.suppress(refusals.NotFound):  # deleted meanwhile
            await self._api.patch(rest_client.IMAGE_CACHES, each.name, body)


def is_of_ucloud(body: rest_client.Object) -> bool:
    """Whether an ImageCache was created by UCloud's API."""
    return (body["metadata"].get("labels") or {}).get(keys.UCLOUD_LABEL) == "true"


def accelerated(body: rest_client.Object) -> accelerated_images.Accelerated:
    """Read an ImageCache that UCloud's API has created."""
    cache = cache_object.parse(body)
    annotations: Mapping[str, str] = body["metadata"].get("annotations") or {}
    stage = annotations.get(keys.TARGET_STAGE, "")
    known = {each.value for each in accelerated_images.Stage}
    layers = annotations.get(keys.TARGET_LAYERS, "")
    return accelerated_images.Accelerated(
        name=cache.key.name,
        uid=cache.uid,
        original=annotations.get(keys.ORIGINAL_IMAGE, ""),
        target=annotations.get(keys.TARGET_IMAGE, ""),
        stage=accelerated_images.Stage(stage if stage in known else ""),
        problem=annotations.get(keys.TARGET_PROBLEM, ""),
        layers=int(layers) if layers.isascii() and layers.isdigit() else 0,
        state=cache.state,
        built=cache.state.phase is cache_state.Phase.READY
        and cache.state.build.spec == cache.spec_hash,
        plain_http=frozenset(cache.request.plain_http_registries if cache.request else ()),
        insecure=frozenset(cache.request.insecure_registries if cache.request else ()),
        failed=cache.state.build.failed == cache.spec_hash,
        deleted=cache.deleted,
        reported=annotations.get(keys.DELETION_REPORTED) == "true",
    )
