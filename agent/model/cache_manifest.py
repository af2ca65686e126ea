"""The manifest of an ImageCache, written. There is one writer; `caches.parse_request` reads it.

The agent writes it for a pod, the command line and the controller's page for a person, and
UCloud's API for its caller. What is empty is left out, so that the reader's defaults hold.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agent.model import keys


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a manifest is to say, in the native dialect.

    The values are not checked here: images and Secrets may be as a person has typed them, and
    `size_gib` and `retention_days` may be text, so that the reader's error names the field.
    """

    name: str
    images: Sequence[object]
    pull_secrets: Sequence[object] = ()
    namespaces: Sequence[str] = ()
    size_gib: object = None
    retention_days: object = None
    plain_http: Sequence[str] = ()
    insecure: Sequence[str] = ()
    acr_instances: Sequence[str] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write(draft: Draft) -> dict[str, Any]:
    """The manifest."""
    registries = {
        keys.PLAIN_HTTP: ",".join(draft.plain_http),
        keys.INSECURE: ",".join(draft.insecure),
        keys.ACR_INSTANCE_IDS: ",".join(draft.acr_instances),
    }
    annotations = {**draft.annotations, **_given(registries)}
    spec = {
        "imagePullSecrets": [str(secret) for secret in draft.pull_secrets],
        "namespaces": list(draft.namespaces),
        "imageCacheSize": draft.size_gib,
        "retentionDays": draft.retention_days,
    }
    return {
        "apiVersion": keys.API_VERSION,
        "kind": keys.IMAGE_CACHE,
        "metadata": {
            "name": draft.name,
            **_given({"labels": dict(draft.labels), "annotations": annotations}),
        },
        "spec": {"images": [str(image) for image in draft.images], **_given(spec)},
    }


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}
