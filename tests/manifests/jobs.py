"""The Job of a build, as the controller of rendered manifests makes it."""

from collections.abc import Mapping
from typing import Any

from agent.control.caches import cache_object
from agent.control.jobs import job_manifest, job_template
from agent.roles import controller_flags
from tests.manifests import rendering


def made(
    deployment: rendering.Document, *flags: str, patch: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """For one image; `flags` are the controller's beside those that it needs."""
    settings = controller_flags.parse(["--store=/var/lib/uimgacc/store", "--pod=p", *flags])
    pod = {"metadata": {"name": "p"}, **deployment["spec"]["template"]}
    template = job_template.of_pod(pod, settings, patch=dict(patch or {}))
    body = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": "c", "uid": "u", "resourceVersion": "1"},
        "spec": {"images": ["nginx:1"]},
    }
    cache = cache_object.parse(body)
    assert cache.request is not None
    return dict(job_manifest.manifest(cache, cache.request, ("linux/amd64",), template=template))
