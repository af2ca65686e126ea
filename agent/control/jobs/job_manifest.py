"""The Job of a build: its name and its manifest. Pure functions.

The pod has no privileges and no access to the API server. It gets the store, a folder for
temporary files and the Secrets of its images.
"""

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent.control.caches import cache_object
from agent.control.jobs import job_patch
from agent.kits import networks, units
from agent.model import caches, keys

_SECRETS = "/run/uimgacc/secrets"
_SIGNATURES = "/etc/uimgacc/signatures"
_POLICY = f"{_SIGNATURES}/policy.yaml"
_SCRATCH = "/tmp"  # noqa: S108 - a volume of the pod's own
_TERMINATION = "/dev/termination-log"
_ID = 65532
"""User and group of controller and builders where their pod sets none."""

_MOVES = 3
"""How often a pod may start again on another node. A node is drained once, but for an image that
is too large for the nodes' disks the pod is evicted from each, which is a disruption as well."""

_REMEMBERED = 128
"""Builds whose name is remembered: a step asks for that of its cache four times."""

_FAILURES: Sequence[Mapping[str, Any]] = (
    {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    # The controller retries, after it has reported why this build failed.
    {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
)

_BUILD = (*job_patch.POD, "containers", "build")
_FIXED: Sequence[job_patch.Path] = (
    ("apiVersion",),
    ("kind",),
    # By these the controller finds its Jobs and pods, and controls when they end.
    *(("metadata", name) for name in ("name", "namespace")),
    *(
        ("metadata", "annotations", name)
        for name in (keys.JOB_SPEC, keys.JOB_OWNER, keys.JOB_PLATFORMS)
    ),
    *(
        (*place, "metadata", "labels", name)
        for place in ((), job_patch.POD[:2])
        for name in (*keys.BUILDER_LABELS, keys.JOB_CACHE_ID)
    ),
    *(
        ("spec", name)
        for name in ("suspend", "parallelism", "completions", "backoffLimit", "podFailurePolicy")
    ),
    (*job_patch.POD, "restartPolicy"),
    # The command, and the places of its inputs.
    *((*_BUILD, name) for name in ("image", "command", "args")),
    *((*_BUILD, name) for name in ("terminationMessagePath", "terminationMessagePolicy")),
    *((*_BUILD, "volumeMounts", path) for path in (_SCRATCH, _SECRETS, _SIGNATURES)),
    *((*job_patch.POD, "volumes", name) for name in ("store", "secrets", "signatures")),
    # These restrict it to building. Its user is the controller's, who owns the store's files.
    # The admission policy (components/controller/policy.yaml) would refuse most changes of them.
    *(
        (*job_patch.POD, name)
        for name in ("serviceAccountName", "serviceAccount", "automountServiceAccountToken")
    ),
    *((*job_patch.POD, name) for name in ("hostNetwork", "hostPID", "hostIPC")),
    *(
        (*job_patch.POD, "securityContext", name)
        for name in ("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup")
    ),
    (*_BUILD, "securityContext"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What all builds have in common: most of it as in the controller's own pod.

    `store` is the path at which `volume` is mounted, `patch` a strategic merge patch for
    the whole Job (agent.control.jobs.job_patch), refused where it changes what a build depends on.
    `mirrors` are the volumes that say which hosts to ask, by where they are mounted.
    `scratch` limits the local folder of a builder, `plain_http` are registries without TLS for
    all builds. `denied` are the networks that builders connect to nothing in (as `uimgacc build`
    reads them), but for the registries in `allowed`. `signatures` is the ConfigMap with the
    policy of signatures, "" for none. `writers` are the node selector and the tolerations that pin
    builders to the nodes that may write to the store, empty for all nodes. `auto_native`: automatic
    caches may be of images with native EROFS layers.
    """

    namespace: str
    image: str
    store: str
    volume: Mapping[str, Any]
    account: str = "uimgacc-builder"
    pull_secrets: Sequence[Mapping[str, str]] = ()
    security: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parallel: int = 3
    deadline_seconds: int = 4 * 3600
    keep_seconds: int = 3600
    scratch: str = "64Gi"
    plain_http: Sequence[str] = ()
    denied: str = networks.OWN_HOST
    allowed: Sequence[str] = ()
    signatures: str = ""
    writers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mirrors: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    auto_native: bool = False
    patch: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise job_patch.PatchRefused."""
        mounts = [(*_BUILD, "volumeMounts", path) for path in (self.store, *self.mirrors)]
        volumes = [(*job_patch.POD, "volumes", name) for name, _, _ in self.mirror_volumes]
        job_patch.check(self.patch, fixed=(*_FIXED, *mounts, *volumes))

    @property
    def mirror_volumes(self) -> Sequence[tuple[str, str, Mapping[str, Any]]]:
        """Name in the builder's pod, place and content of these volumes."""
        return [
            (f"mirrors-{number}", place, volume)
            for number, (place, volume) in enumerate(self.mirrors.items())
        ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """By how much the limit of a cache follows the size of its images; see build.cache_build."""

    factor: float
    most: int


def name_of(cache: cache_object.CacheObject, platforms: Sequence[str]) -> str:
    """The name of the Job that builds the present spec.

    It follows from the object alone, so two controllers create one Job. After a failure, or
    for a refresh, it is another name.
    """
    digest = _digest(cache.spec_hash, tuple(sorted(platforms)), cache.state.build.time)
    return f"{cache.cache_id}-{digest}-{failures(cache)}"


@functools.lru_cache(maxsize=_REMEMBERED)
def _digest(spec: str, platforms: Sequence[str], built: datetime.datetime | None) -> str:
    parts = [spec, list(platforms), built.isoformat() if built else ""]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def failures(cache: cache_object.CacheObject) -> int:
    """How many builds of this very spec have failed since the last success."""
    build = cache.state.build
    # The hash costs microseconds, and most have never failed.
    return build.failures if build.failures and build.failed == cache.spec_hash else 0


def manifest(
    cache: cache_object.CacheObject,
    request: caches.CacheRequest,
    platforms: Sequence[str],
    *,
    template: Template,
    trusted_keys: str = "",
    growth: Growth | None = None,
) -> dict[str, Any]:
    """The Job of a build. With Secrets it is suspended until they exist.

    `trusted_keys` is the JSON of the keys by which the builder verifies what is stored already,
    `growth` is for an automatic cache, whose manifest sets no size.
    """
    name = name_of(cache, platforms)
    labels = {**keys.BUILDER_LABELS, keys.JOB_CACHE_ID: cache.cache_id}
    arguments = _arguments(name, request, platforms, template)
    if growth is not None and growth.factor:
        arguments.append(f"--capacity-factor={growth.factor:g}")
        arguments.append(f"--capacity-most={growth.most}")
    if trusted_keys:
        arguments.append(f"--keys-json={trusted_keys}")
    made = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": template.namespace,
            "labels": labels,
            "annotations": {
                keys.JOB_SPEC: cache.spec_hash,
                keys.JOB_OWNER: f"{cache.key.group}/{cache.key.name}",
                keys.JOB_PLATFORMS: ",".join(platforms),
            },
        },
        "spec": {
            "suspend": bool(request.pull_secrets),
            "backoffLimit": _MOVES,
            "podFailurePolicy": {"rules": list(_FAILURES)},
            "activeDeadlineSeconds": template.deadline_seconds,
            "ttlSecondsAfterFinished": template.keep_seconds,
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(request, arguments, template),
            },
        },
    }
    # After the patch: its tolerations, being a list, replace all.
    job = _pinned(job_patch.merged(made, template.patch), template.writers)
    _limit_scratch(job["spec"]["template"]["spec"])
    return job


def _pinned(job: Mapping[str, Any], writers: Mapping[str, Any]) -> dict[str, Any]:
    """A Job whose pod is scheduled to the nodes that may write to the store."""
    pod = dict(job["spec"]["template"]["spec"])
    if writers:
        pod["nodeSelector"] = {**pod.get("nodeSelector", {}), **writers["nodeSelector"]}
        pod["tolerations"] = [*pod.get("tolerations", ()), *writers["tolerations"]]
    template = {**job["spec"]["template"], "spec": pod}
    return {**job, "spec": {**job["spec"], "template": template}}


def _limit_scratch(pod: Mapping[str, Any]) -> None:
    """Have the builder know the limit of its local folder, which a patch may have changed."""
    scratch: Mapping[str, Any] = next(
        (each for each in pod["volumes"] if each["name"] == "scratch"), {}
    )
    limit = (scratch.get("emptyDir") or {}).get("sizeLimit", "")
    # What is no quantity, the API server refuses with the Job.
    with contextlib.suppress(ValueError):
        argument = f"--scratch-bytes={units.quantity(str(limit))}"
        build = next(each for each in pod["containers"] if each["name"] == "build")
        build["args"] = [*build["args"], argument]


def secret_manifest(name: str, uid: str, *, namespace: str, data: Sequence[str]) -> dict[str, Any]:
    """The Secret of a Job, deleted with the Job. `data` is in base64, as in Secrets."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": keys.BUILDER_LABELS,
            "ownerReferences": [owner],
        },
        "immutable": True,
        "type": "Opaque",
        "data": {f"{at}.json": content for at, content in enumerate(data)},
    }


def _arguments(
    name: str, request: caches.CacheRequest, platforms: Sequence[str], template: Template
) -> list[str]:
    arguments = [
        "build",
        f"--store={template.store}",
        f"--cache-id={request.cache_id}",
        f"--name={request.name}",
        f"--capacity-gib={request.size_gib}",
        f"--job={name}",
        f"--scratch={_SCRATCH}",
        f"--parallel={template.parallel}",
        f"--termination-message={_TERMINATION}",
    ]
    arguments += [f"--image={image}" for image in request.images]
    arguments += [f"--platform={platform}" for platform in platforms]
    # An image may lack some platforms of the nodes, but not the one that the object names.
    arguments += [] if request.architecture else ["--some-platform"]
    arguments += ["--no-native-layers"] if request.auto and not template.auto_native else []
    arguments += [f"--namespace={name}" for name in request.namespaces or ()]
    plain = dict.fromkeys((*request.plain_http_registries, *template.plain_http))
    arguments += [f"--plain-http={host}" for host in plain]
    arguments.append(f"--registry-deny={template.denied}")
    # Not those that an object lists: its author is not who runs the cluster.
    arguments += [f"--registry-allow={host}" for host in template.allowed]
    arguments += [f"--insecure={host}" for host in request.insecure_registries]
    arguments += [f"--acr-instance={instance}" for instance in request.acr_instances]
    if request.retention_days is not None:
        arguments.append(f"--retention-days={request.retention_days}")
    if request.pull_secrets:
        arguments.append(f"--docker-configs={_SECRETS}")
    if template.signatures:
        arguments.append(f"--signature-policy={_POLICY}")
    arguments += [f"--mirrors={place}" for place in template.mirrors]
    return arguments


def _pod(
    request: caches.CacheRequest, arguments: Sequence[str], template: Template
) -> dict[str, Any]:
    name = next(each for each in arguments if each.startswith("--job=")).removeprefix("--job=")
    mounts: list[dict[str, Any]] = [
        {"name": "store", "mountPath": template.store},
        {"name": "scratch", "mountPath": _SCRATCH},
    ]
    volumes: list[dict[str, Any]] = [
        {**template.volume, "name": "store"},
        {"name": "scratch", "emptyDir": {"sizeLimit": template.scratch}},
    ]
    if request.pull_secrets:
        mounts.append({"name": "secrets", "mountPath": _SECRETS, "readOnly": True})
        volumes.append({"name": "secrets", "secret": {"secretName": name, "defaultMode": 0o440}})
    if template.signatures:
        # Where there is no such ConfigMap no container starts: nothing is built unverified.
        mounts.append({"name": "signatures", "mountPath": _SIGNATURES, "readOnly": True})
        volumes.append({"name": "signatures", "configMap": {"name": template.signatures}})
    for mirror, place, volume in template.mirror_volumes:
        mounts.append({"name": mirror, "mountPath": place, "readOnly": True})
        volumes.append({**volume, "name": mirror})
    security = {
        "runAsNonRoot": True,
        "runAsUser": _ID,
        "runAsGroup": _ID,
        "fsGroup": _ID,
        # The store is large: the owners of its files are not changed at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": template.account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": list(template.pull_secrets),
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "securityContext": {**security, **template.security},
        "containers": [
            {
                "name": "build",
                "image": template.image,
                "args": list(arguments),
                "resources": {
                    # No local disk: nodes whose kubelet does not count it would not fit.
                    "requests": {"cpu": "500m", "memory": "256Mi"},
                    "limits": {"memory": "2Gi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePath": _TERMINATION,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
