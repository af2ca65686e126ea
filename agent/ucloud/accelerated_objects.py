"""The objects behind UCloud's actions, in the Kubernetes API.

ImageCaches with a label of ours; the switch in a ConfigMap and the password for UHub
in a Secret, both in the controller's namespace; and the parts of the installation
that `agent.clients.kube.acceleration_switch` turns on and off.
"""

import base64
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agent.clients.kube import acceleration_switch, lease, refusals, rest_client
from agent.clients.registry import credentials
from agent.control.caches import cache_object, cache_state
from agent.model import cache_manifest, caches, keys
from agent.ucloud import accelerated_images, acceleration, protocol

_CONFIG_MAPS = rest_client.Resource(plural="configmaps")
_NAME = "uimgacc-ucloud"
_UHUB = "uimgacc-uhub"
_SECRET_KEY = ".dockerconfigjson"  # noqa: S105 - the name of a field

# Far longer than a Lease lasts: one controller may be taking over from another.
_FRESH_SECONDS = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`hosts` are the registries that the user of UHub is for, `plain_http` those without TLS.

    `insecure` are those whose certificate is not verified. `serves` are the namespaces whose
    pods may have what that user has opened without their own secrets (caches.EVERY: all),
    `named` those that are served instead, also where there is no such user.
    """

    namespace: str
    hosts: Sequence[str] = ("uhub.service.ucloud.cn",)
    plain_http: Sequence[str] = ()
    insecure: Sequence[str] = ()
    serves: Sequence[str] = ("default",)
    named: Sequence[str] = ()


class KubeObjects:
    """See acceleration.Objects."""

    def __init__(
        self,
        api: rest_client.Client,
        switch: acceleration_switch.Switch,
        settings: Settings,
    ) -> None:
        self._api = api
        self._switch = switch
        self._settings = settings
        self._leader = lease.Leasing(api, namespace=settings.namespace, name=keys.CONTROLLER_LEASE)

    async def all(self) -> Sequence[accelerated_images.Accelerated]:
        """See acceleration.Objects; in the order of their names."""
        found = [
            accelerated(body)
            async for page in self._api.pages(
                rest_client.IMAGE_CACHES, labels=f"{keys.UCLOUD_LABEL}=true"
            )
            for body in page.items
        ]
        return sorted(found, key=lambda each: each.name)

    async def create(self, name: str, original: str, target: str) -> None:
        """See acceleration.Objects."""
        settings = self._settings
        has_login = (await self.switch()).has_login
        body = cache_manifest.write(
            cache_manifest.Draft(
                name=name,
                images=[original],
                pull_secrets=[f"{settings.namespace}/{_UHUB}"] if has_login else (),
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
            found = await self._api.get(rest_client.IMAGE_CACHES, name)
            # Whatever new value: build anew what failed.
            again = {
                **body["metadata"]["annotations"],
                keys.REFRESH: str(found["metadata"]["resourceVersion"]),
                keys.TARGET_STAGE: None,
                keys.TARGET_PROBLEM: None,
                keys.TARGET_LAYERS: None,
            }
            # Without a user of UHub now, nothing of the one that there was.
            wanted = {"imagePullSecrets": None, "namespaces": None, **body["spec"]}
            await self._api.patch(
                rest_client.IMAGE_CACHES, name, {"metadata": {"annotations": again}, "spec": wanted}
            )

    async def delete(self, each: accelerated_images.Accelerated) -> None:
        """See acceleration.Objects."""
        with contextlib.suppress(refusals.NotFound):
            await self._api.delete(rest_client.IMAGE_CACHES, each.name, uid=each.uid)

    async def tell(self, each: accelerated_images.Accelerated, *, told: bool) -> None:
        """See acceleration.Objects."""
        await self._note(
            each, {"metadata": {"annotations": {keys.DELETION_REPORTED: "true" if told else None}}}
        )

    async def led(self) -> bool:
        """See acceleration.Objects; by the leader's Lease, also while no controller holds it."""
        current = await self._leader.read()
        return current is not None and self._leader.age(current) < _FRESH_SECONDS

    async def switch(self) -> acceleration.Switch:
        """See acceleration.Objects."""
        try:
            found = await self._api.get(_CONFIG_MAPS, _NAME, namespace=self._settings.namespace)
        except refusals.NotFound:
            return acceleration.Switch()
        data: Mapping[str, str] = found.get("data") or {}
        return acceleration.Switch(
            enabled=data.get("enabled") == "true",
            nfs=data.get("nfsAddr", ""),
            subnet=data.get("subnetId", ""),
            has_login=data.get("hasLogin") == "true",
        )

    async def turn(self, wanted: protocol.Enable | None, *, keep: bool = False) -> None:
        """See acceleration.Objects. The switch itself is written last: what it says is done.

        With `keep`, a login and a subnet that are not given stay as they are.
        """
        if wanted is None:
            await self._switch.off()
            await self._put(_CONFIG_MAPS, _NAME, {"data": {"enabled": "false"}})
            await self._forget_login()
            return
        before = await self.switch() if keep else acceleration.Switch()
        has_login = before.has_login or bool(wanted.username)
        if wanted.username:
            content = credentials.docker_config(
                self._settings.hosts, username=wanted.username, password=wanted.password
            )
            login = {_SECRET_KEY: base64.b64encode(content).decode()}
            body = {"type": "kubernetes.io/dockerconfigjson", "data": login}
            await self._put(rest_client.SECRETS, _UHUB, body)
        elif not has_login:
            await self._forget_login()
        await self._switch.on()
        data = {
            "enabled": "true",
            "nfsAddr": wanted.nfs,
            "subnetId": wanted.subnet or before.subnet,
            "hasLogin": "true" if has_login else "false",
        }
        await self._put(_CONFIG_MAPS, _NAME, {"data": data})

    async def _forget_login(self) -> None:
        with contextlib.suppress(refusals.NotFound):
            await self._api.delete(rest_client.SECRETS, _UHUB, namespace=self._settings.namespace)

    async def _put(
        self, resource: rest_client.Resource, name: str, body: Mapping[str, Any]
    ) -> None:
        namespace = self._settings.namespace
        try:
            await self._api.patch(resource, name, body, namespace=namespace)
        except refusals.NotFound:
            made = {**body, "metadata": {"name": name}}
            await self._api.create(resource, made, namespace=namespace)

    async def login(self) -> bytes | None:
        """The docker config JSON with the user of UHub; None where nobody gave one."""
        if not (await self.switch()).has_login:
            return None
        namespace = self._settings.namespace
        found = await self._api.get(rest_client.SECRETS, _UHUB, namespace=namespace)
        return base64.b64decode(found["data"][_SECRET_KEY])

    async def pushed(self, each: accelerated_images.Accelerated, layers: int) -> None:
        """Note that the other name is there, and have the cache hold it as well."""
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


def is_ours(body: rest_client.Object) -> bool:
    """Whether UCloud's API has made an ImageCache."""
    return (body["metadata"].get("labels") or {}).get(keys.UCLOUD_LABEL) == "true"


def accelerated(body: rest_client.Object) -> accelerated_images.Accelerated:
    """An ImageCache that UCloud's API has made."""
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
        told=annotations.get(keys.DELETION_REPORTED) == "true",
    )
