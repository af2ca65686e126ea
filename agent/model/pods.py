"""What this package needs to know of a pod, read from its manifest.

`parse_pod` reads a Pod as the API server sends it and as a static pod's file has
it; `workloads.pods_of` finds the pods in every other kind of document.
"""

import dataclasses
import datetime
import enum
from collections.abc import Iterator, Mapping

from agent.kits import units
from agent.model import manifests, times

_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class ContainerKind(enum.Enum):
    """In which of a pod's lists a container stands; an image volume counts as one of its own."""

    INIT = "initContainers"
    MAIN = "containers"
    EPHEMERAL = "ephemeralContainers"
    VOLUME = "volumes"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container, or an image volume, as its pod asks for it: `image` is as written.

    `pull_policy` is "" where the manifest names none: then the API server sets
    Always for the tag latest and IfNotPresent for others.
    """

    name: str
    image: str
    pull_policy: str = ""
    kind: ContainerKind = ContainerKind.MAIN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequirement:
    """One thing that a pod wants of a node's label: `operator` as in a node affinity.

    `required` is False for a preference.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()
    required: bool = True

    def wants(self, key: str, value: str) -> bool:
        """Whether a node with this label, and not one without it, fits."""
        if key != self.key:
            return False
        return self.operator == "Exists" or (self.operator == "In" and value in self.values)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod: what it asks for, and how far it is.

    `ephemeral_storage` is the sum of its containers' limits in bytes, None where
    one has no limit. Times are None until they are known, and by the clock of the pod's
    node: `accepted_at` is when its kubelet took it up, `started_at` when the last of its
    main containers started, and None as well after a restart, because then the status
    no longer says when it started first.
    """

    namespace: str
    name: str
    uid: str = ""
    node: str = ""
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    containers: tuple[Container, ...] = ()
    runtime_class: str = ""
    pull_secrets: tuple[str, ...] = ()
    requirements: tuple[LabelRequirement, ...] = ()
    ephemeral_storage: int | None = None
    phase: str = ""
    accepted_at: datetime.datetime | None = None
    started_at: datetime.datetime | None = None
    deleting: bool = False

    @property
    def images(self) -> tuple[str, ...]:
        """The images of all its containers and volumes as written, each once, in their order."""
        return tuple(dict.fromkeys(container.image for container in self.containers))

    @property
    def volume_images(self) -> frozenset[str]:
        """Those of its images, as written, that it mounts as volumes."""
        return frozenset(
            each.image for each in self.containers if each.kind is ContainerKind.VOLUME
        )

    @property
    def ready_seconds(self) -> float | None:
        """From the kubelet's first sight of it to all containers started, in whole seconds.

        Not from when it was scheduled: that is by the clock of another machine, and the
        difference of two clocks is easily longer than a start.
        """
        if self.accepted_at is None or self.started_at is None:
            return None
        return max(0.0, (self.started_at - self.accepted_at).total_seconds())

    @property
    def has_started(self) -> bool:
        """Whether each of its main containers has started at least once, and some run."""
        return self.phase == "Running"

    @property
    def has_finished(self) -> bool:
        """Whether all its containers have ended and none will start again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def has_ended(self) -> bool:
        """Whether it has finished, or is about to go."""
        return self.deleting or self.has_finished

    def asks_for_node_with(self, key: str, value: str) -> bool:
        """Whether it selects nodes by this label, as a requirement or a preference."""
        return any(requirement.wants(key, value) for requirement in self.requirements)


def parse_pod(manifest: Mapping[str, object]) -> Pod:
    """Read a Pod; raise ManifestError, which names the field, where it is none."""
    document = manifests.document(manifest)
    kind = document.get("kind").text("Pod")
    if kind != "Pod":
        raise document.get("kind").error(f"expected Pod, not {kind}")
    metadata = document.get("metadata")
    pod = pod_of_spec(
        document.get("spec"),
        namespace=metadata.get("namespace").text("default"),
        name=metadata.get("name").text(),
        annotations=metadata.get("annotations").labels(),
    )
    status = document.get("status")
    return dataclasses.replace(
        pod,
        uid=metadata.get("uid").text(""),
        phase=status.get("phase").text(""),
        accepted_at=_time(status.get("startTime")),
        started_at=_started_at(status, pod),
        deleting=not metadata.get("deletionTimestamp").absent,
    )


def pod_of_spec(
    spec: manifests.Field, *, namespace: str, name: str, annotations: Mapping[str, str]
) -> Pod:
    """Read a pod's spec, also where it is a workload's template."""
    containers = (*_containers(spec), *_image_volumes(spec))
    if not any(container.kind is not ContainerKind.VOLUME for container in containers):
        raise spec.get("containers").error("expected at least one container")
    secrets = (secret.get("name").text("") for secret in spec.get("imagePullSecrets").items())
    return Pod(
        namespace=namespace,
        name=name,
        node=spec.get("nodeName").text(""),
        annotations=dict(annotations),
        containers=containers,
        runtime_class=spec.get("runtimeClassName").text(""),
        pull_secrets=tuple(secret for secret in secrets if secret),
        requirements=tuple(_requirements(spec)),
        ephemeral_storage=_ephemeral_storage(spec),
    )


def container_of(field: manifests.Field, kind: ContainerKind) -> Container:
    """Read one container."""
    image = field.get("image").text()
    if not image.strip():
        raise field.get("image").error("expected an image reference, not an empty string")
    return Container(
        name=field.get("name").text(""),
        image=image,
        pull_policy=field.get("imagePullPolicy").text(""),
        kind=kind,
    )


def _containers(spec: manifests.Field) -> Iterator[Container]:
    for kind in (ContainerKind.INIT, ContainerKind.MAIN, ContainerKind.EPHEMERAL):
        for field in spec.get(kind.value).items():
            yield container_of(field, kind)


def _image_volumes(spec: manifests.Field) -> Iterator[Container]:
    """Volumes that are images (KEP-4639). One without a reference has it from a template."""
    for volume in spec.get(ContainerKind.VOLUME.value).items():
        source = volume.get("image")
        image = source.get("reference").text("")
        if image.strip():
            yield Container(
                name=volume.get("name").text(""),
                image=image,
                pull_policy=source.get("pullPolicy").text(""),
                kind=ContainerKind.VOLUME,
            )


def _requirements(spec: manifests.Field) -> Iterator[LabelRequirement]:
    for key, value in spec.get("nodeSelector").labels().items():
        yield LabelRequirement(key=key, operator="In", values=(value,))
    affinity = spec.get("affinity", "nodeAffinity")
    for term in affinity.get(_REQUIRED, "nodeSelectorTerms").items():
        yield from _expressions(term, required=True)
    for preference in affinity.get(_PREFERRED).items():
        yield from _expressions(preference.get("preference"), required=False)


def _expressions(term: manifests.Field, *, required: bool) -> Iterator[LabelRequirement]:
    for expression in term.get("matchExpressions").items():
        yield LabelRequirement(
            key=expression.get("key").text(),
            operator=expression.get("operator").text(),
            values=expression.get("values").texts(),
            required=required,
        )


def _ephemeral_storage(spec: manifests.Field) -> int | None:
    total = 0
    for container in spec.get(ContainerKind.MAIN.value).items():
        limit = container.get("resources", "limits", "ephemeral-storage")
        if limit.absent:
            return None
        total += _quantity(limit)
    return total


def _quantity(field: manifests.Field) -> int:
    text = str(field.value) if isinstance(field.value, str | int | float) else ""
    try:
        return units.quantity(text)
    except ValueError as error:
        raise field.error(str(error)) from error


def _time(field: manifests.Field) -> datetime.datetime | None:
    # YAML makes a moment of an unquoted one by itself.
    moment = field.value
    if not isinstance(moment, datetime.datetime):
        text = field.text("")
        if not text:
            return None
        moment = times.parse(text)
        if moment is None:
            raise field.error("expected a time such as 2026-01-31T12:00:00Z")
    return times.in_utc(moment)


def _started_at(status: manifests.Field, pod: Pod) -> datetime.datetime | None:
    starts: list[datetime.datetime] = []
    for container in status.get("containerStatuses").items():
        restarts = container.get("restartCount").value
        state = container.get("state")
        start = _time(state.get("running", "startedAt")) or _time(
            state.get("terminated", "startedAt")
        )
        if start is None or restarts not in (None, 0):
            return None
        starts.append(start)
    main = [container for container in pod.containers if container.kind is ContainerKind.MAIN]
    return max(starts) if starts and len(starts) >= len(main) else None
