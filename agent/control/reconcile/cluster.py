"""The controller's reads and writes in the API server, one method each.

Each may be repeated: what was done before is no error. Steps and upkeep call them.
"""

import base64
import binascii
import contextlib
import datetime
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object, pull_permission
from agent.control.jobs import job_manifest, job_state
from agent.model import caches, keys, manifests, pods, times

_BUILDERS = ",".join(f"{key}={value}" for key, value in keys.BUILDER_LABELS.items())
_DOCKER_KEYS = (".dockerconfigjson", ".dockercfg")


class CannotStart(errors.PermanentError):
    """A build cannot begin, for a reason in the manifest or in the controller's settings."""


class SecretUnusable(CannotStart):
    """A Secret that a cache names cannot be used. `name` is namespace/name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the Secret {name} {reason}")
        self.name = name


class ObjectGone(errors.PermanentError):
    """The object of a cache, `name`, has been deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the object {name} is gone")
        self.name = name


class Api(rest_client.Objects, Protocol):
    """The methods of agent.clients.kube.rest_client.Client that are used here."""

    def pages(
        self,
        resource: rest_client.Resource,
        *,
        namespace: str = "",
        labels: str = "",
        metadata_only: bool = False,
    ) -> AsyncIterator[rest_client.Page]:
        """List objects, in parts."""

    async def delete(
        self,
        resource: rest_client.Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        propagation: str = "",
    ) -> None:
        """Delete an object."""


def resource_of(key: cache_object.Key) -> rest_client.Resource:
    """The kind of a cache's object."""
    return rest_client.Resource(group=key.group, plural="imagecaches")


class Cluster:
    """The objects that the controller writes; builds are in `namespace`."""

    def __init__(self, api: Api, *, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def hold(self, cache: cache_object.CacheObject) -> rest_client.Object:
        """Add the finalizer."""
        return await self._finalizers(cache, [*cache.finalizers, keys.FINALIZER])

    async def release(self, cache: cache_object.CacheObject) -> rest_client.Object:
        """Remove the finalizer."""
        kept = [each for each in cache.finalizers if each != keys.FINALIZER]
        return await self._finalizers(cache, kept)

    async def clear_start(self, cache: cache_object.CacheObject) -> rest_client.Object:
        """Remove a node's report of a start, so that another node can write one."""
        return await self._patch(cache, {"annotations": {keys.START_PROFILE: None}})

    async def set_matched(
        self, cache: cache_object.CacheObject, moment: datetime.datetime
    ) -> rest_client.Object:
        """Say when a pod was last matched with the cache."""
        return await self._patch(cache, {"annotations": {keys.LAST_MATCHED: times.stamp(moment)}})

    async def _finalizers(
        self, cache: cache_object.CacheObject, wanted: Sequence[str]
    ) -> rest_client.Object:
        return await self._patch(cache, {"finalizers": wanted})

    async def write_status(
        self, cache: cache_object.CacheObject, status: Mapping[str, Any]
    ) -> rest_client.Object:
        """Change parts of the status, unless the object has changed since it was read."""
        return await self._patch(cache, {}, status=status)

    async def _patch(
        self,
        cache: cache_object.CacheObject,
        meta: Mapping[str, Any],
        *,
        status: Mapping[str, Any] | None = None,
    ) -> rest_client.Object:
        body: dict[str, Any] = {"metadata": {"resourceVersion": cache.version, **meta}}
        if status is not None:
            body["status"] = status
        try:
            return await self._api.patch(
                resource_of(cache.key),
                cache.key.name,
                body,
                subresource="status" if status is not None else "",
                manager=keys.CONTROLLER,
            )
        except refusals.NotFound as error:
            raise ObjectGone(cache.key.name) from error

    async def expire(self, cache: cache_object.CacheObject) -> None:
        """Delete this object, and not a later one of the same name."""
        try:
            await self._api.delete(resource_of(cache.key), cache.key.name, uid=cache.uid)
        except refusals.NotFound:
            return

    async def start(self, body: Mapping[str, Any], secrets: Sequence[str]) -> rest_client.Object:
        """Create a Job, or finish creating it; with `secrets` (base64) it waits for its Secret.

        Raises CannotStart where the API server refuses it: because of a quota, a policy, or an
        invalid patch in the controller's settings.
        """
        try:
            return await self._start(body, secrets)
        except (refusals.Invalid, refusals.Denied) as error:
            raise CannotStart(f"the builder's Job is refused: {error}") from error

    async def _start(self, body: Mapping[str, Any], secrets: Sequence[str]) -> rest_client.Object:
        name = body["metadata"]["name"]
        try:
            job = await self._api.create(rest_client.JOBS, body, namespace=self._namespace)
        except refusals.AlreadyExists:
            job = await self._api.get(rest_client.JOBS, name, namespace=self._namespace)
        if not job["spec"].get("suspend"):
            return job
        secret = job_manifest.secret_manifest(
            name, job["metadata"]["uid"], namespace=self._namespace, data=secrets
        )
        with contextlib.suppress(refusals.AlreadyExists):
            await self._api.create(rest_client.SECRETS, secret, namespace=self._namespace)
        return await self._api.patch(
            rest_client.JOBS, name, {"spec": {"suspend": False}}, namespace=self._namespace
        )

    async def list_jobs(self) -> AsyncIterator[rest_client.Object]:
        """The Jobs of all builds."""
        async for page in self._api.pages(
            rest_client.JOBS, namespace=self._namespace, labels=_BUILDERS
        ):
            for body in page.items:
                yield body

    async def list_builder_pods(self) -> AsyncIterator[rest_client.Object]:
        """The pods of all builds."""
        async for page in self._api.pages(
            rest_client.PODS, namespace=self._namespace, labels=_BUILDERS
        ):
            for body in page.items:
                yield body

    async def cache_uids(self, group: str) -> dict[str, str]:
        """The UIDs of the ImageCaches of an API group, by name; {} where the kind is absent."""
        uids = {}
        resource = rest_client.Resource(group=group, plural="imagecaches")
        try:
            async for page in self._api.pages(resource, metadata_only=True):
                for raw in page.raw:
                    meta = msgspec.json.decode(raw, type=_Named).metadata
                    uids[meta.name] = meta.uid
        except refusals.NotFound:
            return {}
        return uids

    async def stop(self, name: str) -> None:
        """Delete a Job; it is gone when its pod is gone."""
        try:
            await self._api.delete(
                rest_client.JOBS, name, namespace=self._namespace, propagation="Foreground"
            )
        except refusals.NotFound:
            return

    async def reason_of(self, job: str) -> str:
        """Why a Job's pod failed, read now: the watch of pods may lag behind that of Jobs."""
        # The last pod made the Job fail; those before it were evicted or drained.
        reasons = [
            (body["metadata"].get("creationTimestamp", ""), job_state.reason_of_pod(body))
            for body in await self.pods_of(job)
        ]
        return next((reason for _, reason in sorted(reasons, reverse=True) if reason), "")

    async def pods_of(self, job: str) -> Sequence[rest_client.Object]:
        """The pods of a Job, read now."""
        selector = f"{keys.JOB_NAME}={job}"
        return [
            body
            async for page in self._api.pages(
                rest_client.PODS, namespace=self._namespace, labels=selector
            )
            for body in page.items
        ]

    async def forget_secret(self, name: str) -> None:
        """Delete the Secret of a Job that is over."""
        try:
            await self._api.delete(rest_client.SECRETS, name, namespace=self._namespace)
        except refusals.NotFound:
            return

    async def origin_problem(self, cache: cache_object.CacheObject) -> str:
        """Why an automatic cache may not use the Secrets that it names; "" where it may."""
        origin = cache.origin
        if (wrong := pull_permission.problem(cache)) or origin is None:
            return wrong
        pod = None
        try:
            body = await self._api.get(rest_client.PODS, origin.pod, namespace=origin.namespace)
            pod = pods.parse_pod(body)
        except refusals.NotFound:
            pass
        except (refusals.Denied, manifests.ManifestError) as error:
            return f"the pod {origin.namespace}/{origin.pod} cannot be read: {error}"
        return pull_permission.refusal(cache, pod)

    async def pull_secrets(self, names: Sequence[caches.SecretName]) -> list[str]:
        """The docker configs of Secrets, in base64 as they are; raise SecretUnusable."""
        return [await self._pull_secret(name) for name in names]

    async def _pull_secret(self, name: caches.SecretName) -> str:
        try:
            secret = await self._api.get(rest_client.SECRETS, name.name, namespace=name.namespace)
        except refusals.NotFound as error:
            raise SecretUnusable(str(name), "does not exist") from error
        except refusals.Denied as error:
            raise SecretUnusable(str(name), f"may not be read: {error}") from error
        data = secret.get("data") or {}
        for key in _DOCKER_KEYS:
            if key in data:
                if not _is_docker_config(data[key]):
                    raise SecretUnusable(str(name), f"has no docker config in {key}")
                return str(data[key])
        kind = secret.get("type", "Opaque")
        raise SecretUnusable(
            str(name), f"is of type {kind}: it has to be kubernetes.io/dockerconfigjson"
        )


def _is_docker_config(encoded: str) -> bool:
    try:
        return isinstance(json.loads(base64.b64decode(encoded)), dict)
    except (binascii.Error, ValueError, RecursionError):
        return False


class _Meta(msgspec.Struct):
    name: str
    uid: str = ""


class _Named(msgspec.Struct):
    metadata: _Meta
