"""The template of all builds' Jobs, made from the controller's own pod.

Builders have the image, the store's volume and the user of the controller. So these are configured
in one place, the controller's Deployment.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import msgspec

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.control.jobs import job_manifest, job_patch
from agent.control.reconcile import cluster
from agent.model import keys
from agent.settings import controller_settings

_INHERITED = ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "seLinuxOptions")


class NoTemplate(errors.PermanentError):
    """No template can be made from the controller's pod, or from the file with the patch."""


async def read(api: cluster.Api, wanted: controller_settings.Controller) -> job_manifest.Template:
    """Read the controller's own pod, and return the template. Raises NoTemplate."""
    if not wanted.pod:
        raise NoTemplate("the name of this pod is not known: set --pod (UIMGACC_POD)")
    try:
        pod = await api.get(rest_client.PODS, wanted.pod, namespace=wanted.namespace)
    except refusals.NotFound as error:
        raise NoTemplate(f"there is no pod {wanted.namespace}/{wanted.pod}") from error
    try:
        return of_pod(pod, wanted, patch=read_patch(wanted.builder_patch))
    except job_patch.PatchRefused as error:
        raise NoTemplate(f"{wanted.builder_patch}: {error}") from error


def of_pod(
    pod: Mapping[str, Any], wanted: controller_settings.Controller, *, patch: Mapping[str, Any]
) -> job_manifest.Template:
    """The template from a pod: from its container that mounts the store, and the store's volume.

    Raises NoTemplate, and job_patch.PatchRefused.
    """
    spec = pod["spec"]
    store = str(wanted.store)
    for container in spec["containers"]:
        volumes = _volumes(spec, container)
        if store in volumes:
            return job_manifest.Template(
                namespace=wanted.namespace,
                image=container["image"],
                store=store,
                volume=volumes[store],
                mirrors=_mirrors(volumes, wanted),
                pull_secrets=tuple(spec.get("imagePullSecrets") or ()),
                security={
                    key: value
                    for key, value in (spec.get("securityContext") or {}).items()
                    if key in _INHERITED
                },
                writers=_writers(spec),
                deadline_seconds=round(wanted.build_seconds),
                keep_seconds=round(wanted.keep_job_seconds),
                scratch=wanted.scratch,
                plain_http=wanted.plain_http_registries,
                signatures=wanted.signatures,
                denied=wanted.registry_deny,
                allowed=wanted.allowed_registries,
                auto_native=wanted.auto_native,
                patch=patch,
            )
    raise NoTemplate(f"the pod {wanted.pod} has no volume at {store}, which builders need, too")


def _volumes(spec: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The volumes of a container, by mount path."""
    named = {each["name"]: each for each in spec.get("volumes") or ()}
    return {
        mount["mountPath"].rstrip("/"): named[mount["name"]]
        for mount in container.get("volumeMounts") or ()
        if mount["name"] in named and "subPath" not in mount
    }


def _mirrors(
    volumes: Mapping[str, Mapping[str, Any]], wanted: controller_settings.Controller
) -> dict[str, Mapping[str, Any]]:
    """The volumes of `mirrors` (hosts of registries), by mount path; raises NoTemplate."""
    folders = [str(path).rstrip("/") for path in wanted.mirror_folders]
    for folder in folders:
        if folder not in volumes:
            raise NoTemplate(
                f"the pod {wanted.pod} has no volume at {folder} (UIMGACC_MIRRORS), which builders"
                " need, too"
            )
    return {folder: volumes[folder] for folder in folders}


def _writers(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a pod's node selector and tolerations that pins it to nodes with write access."""
    selector = spec.get("nodeSelector") or {}
    tolerations = [each for each in spec.get("tolerations") or () if each.get("key") == keys.WRITER]
    if keys.WRITER not in selector:
        return {}
    return {"nodeSelector": {keys.WRITER: selector[keys.WRITER]}, "tolerations": tolerations}


def read_patch(path: pathlib.Path | None) -> Mapping[str, Any]:
    """Read a part of a Job, as YAML or JSON; {} without a file. Raises NoTemplate."""
    if path is None:
        return {}
    try:
        patch = msgspec.yaml.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise NoTemplate(f"{path}: {error}") from error
    if not isinstance(patch, dict):
        raise NoTemplate(f"{path}: expected a mapping, a part of a Job")
    return patch
