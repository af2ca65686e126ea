"""Finding the pods that a document would make, whatever its kind.

`uimgacc match FILE.yaml` explains a Deployment or an Argo Workflow just as a Pod.
"""

from collections.abc import Iterator, Mapping

from agent.model import manifests, pods

_ARGO_TEMPLATES = {
    "Workflow": ("spec",),
    "WorkflowTemplate": ("spec",),
    "ClusterWorkflowTemplate": ("spec",),
    "CronWorkflow": ("spec", "workflowSpec"),
}


def label_of_namespace(document: Mapping[str, object], key: str) -> tuple[str, str] | None:
    """The name of a Namespace, and the value of one of its labels, "" for none.

    None where the document is none that can be read.
    """
    field = manifests.Field(document)
    try:
        if field.get("kind").text("") != "Namespace":
            return None
        metadata = field.get("metadata")
        return metadata.get("name").text(), metadata.get("labels").labels().get(key, "")
    except manifests.ManifestError:
        return None


def pods_of(document: Mapping[str, object]) -> list[pods.Pod]:
    """The pods in a document: itself, those of its template, those of its items.

    Knows Pod, List, PodTemplate, every kind with a pod template in `spec.template`
    (Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, Knative Service, Argo
    Rollout, ...), CronJob, Volcano's and Kubeflow-like lists of tasks, and Argo's
    workflows. Raises ManifestError where it finds no pod.
    """
    field = manifests.document(document)
    kind = field.get("kind").text("")
    if kind == "Pod":
        return [pods.parse_pod({str(key): value for key, value in field.mapping().items()})]
    if kind == "List" or kind.endswith("PodList"):
        return [pod for item in field.get("items").items() for pod in _pods_of_item(item, kind)]
    if kind in _ARGO_TEMPLATES and not field.get(*_ARGO_TEMPLATES[kind], "templates").absent:
        templates = list(_argo_pods(field, field.get(*_ARGO_TEMPLATES[kind])))
    else:
        templates = list(_template_pods(field))
    if not templates:
        raise field.get("kind").error(f"found no pod and no pod template in {kind or 'this'}")
    return templates


def _pods_of_item(item: manifests.Field, kind: str) -> list[pods.Pod]:
    mapping = {str(key): value for key, value in item.mapping().items()}
    if kind == "PodList":
        # The API server leaves the kind out of the items of a typed list.
        mapping.setdefault("kind", "Pod")
    try:
        return pods_of(mapping)
    except manifests.ManifestError as error:
        path = f"{item.path}.{error.field}" if error.field else item.path
        raise manifests.ManifestError(path, error.reason) from error


def _template_pods(document: manifests.Field) -> Iterator[pods.Pod]:
    templates = [
        document.get("spec", "template"),
        document.get("spec", "jobTemplate", "spec", "template"),
    ]
    if document.get("kind").text("") == "PodTemplate":
        templates.append(document.get("template"))
    templates.extend(task.get("template") for task in document.get("spec", "tasks").items())
    for template in templates:
        if not template.absent:
            yield _pod_of_template(document, template)


def _pod_of_template(document: manifests.Field, template: manifests.Field) -> pods.Pod:
    return pods.pod_of_spec(
        template.get("spec"),
        namespace=_namespace(document),
        name=_name(document),
        annotations=template.get("metadata", "annotations").labels(),
    )


def _argo_pods(document: manifests.Field, spec: manifests.Field) -> Iterator[pods.Pod]:
    """A pod for every template that runs containers; steps and DAGs run none."""
    shared = spec.get("podMetadata", "annotations").labels()
    for template in spec.get("templates").items():
        containers = _argo_containers(template)
        if not containers:
            continue
        # What the template does not say of its pod, the workflow says.
        merged: dict[str, object] = {
            key: _first(template.get(key), spec.get(key))
            for key in ("nodeSelector", "affinity", "initContainers")
        }
        merged["containers"] = containers
        # Of volumes, the pod has those of both.
        own, shared_ones = template.get("volumes"), spec.get("volumes")
        merged["volumes"] = [each.value for each in (*shared_ones.items(), *own.items())]
        merged["imagePullSecrets"] = spec.get("imagePullSecrets").value
        yield pods.pod_of_spec(
            manifests.Field(merged, template.path),
            namespace=_namespace(document),
            name="-".join((_name(document), template.get("name").text("template"))),
            annotations=shared | template.get("metadata", "annotations").labels(),
        )


def _argo_containers(template: manifests.Field) -> list[object]:
    containers = [template.get(key) for key in ("container", "script")]
    containers.extend(template.get("containerSet", "containers").items())
    containers = [container for container in containers if not container.absent]
    for container in containers:
        # Read here for the error: from the merged list it would name no field of the file.
        pods.container_of(container, pods.ContainerKind.MAIN)
    if containers:
        containers.extend(template.get("sidecars").items())
    return [container.value for container in containers]


def _first(own: manifests.Field, shared: manifests.Field) -> object:
    return shared.value if own.absent else own.value


def _namespace(document: manifests.Field) -> str:
    return document.get("metadata", "namespace").text("default")


def _name(document: manifests.Field) -> str:
    metadata = document.get("metadata")
    return metadata.get("name").text("") or metadata.get("generateName").text("").rstrip("-")
