"""The examples for Argo CD and Flux: they name all that roles change, and make what they say."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml

from agent.cli.install import installation
from agent.clients.kube import rest_client
from agent.model import keys
from lab.chart import renderings
from tests.manifests import charts, rendering

FOLDER = rendering.MANIFESTS / "examples" / "gitops"
APPLICATIONS = ("argo-cd-kustomize", "argo-cd-helm")
MANAGERS = {rest_client.FIELD_MANAGER, keys.CONTROLLER, keys.COMPONENT}
WRITES = {"patch", "update", "delete", "deletecollection", "*"}
Name = tuple[str, str, str]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def everything() -> list[rendering.Document]:
    """All objects that an installation may have."""
    names = [name for name in renderings.components() if name not in ("rke2", "mirrors-node")]
    others = [name for name in names if name not in ("webhook", "admission-v1beta1")]
    return [
        *rendering.together("runtimeclass", "controller", *others),
        *rendering.together("runtimeclass", "controller", *others, "webhook"),
        *rendering.together("default-snapshotter", "controller", "api"),
    ]


def written(objects: Sequence[rendering.Document]) -> set[Name]:
    """Group, kind and name of the objects that a role's rights let it change."""
    rules = [
        rule
        for body in rendering.of_kind(objects, "Role", "ClusterRole")
        for rule in body["rules"]
        if WRITES & set(rule["verbs"])
    ]
    return {
        (group_of(body), body["kind"], body["metadata"]["name"])
        for body in objects
        for rule in rules
        if matches(rule, body)
    }


def matches(rule: rendering.Document, body: rendering.Document) -> bool:
    resource = installation.resource_of(body)
    labels = body["metadata"].get("labels", {})
    if body["kind"] == "RuntimeClass" and keys.TWIN_OF not in labels:
        return False  # the policy uimgacc-controller-classes refuses it
    return (
        resource.group in rule["apiGroups"]
        and resource.plural in rule["resources"]
        and body["metadata"]["name"] in rule.get("resourceNames", [body["metadata"]["name"]])
    )


def group_of(body: rendering.Document) -> str:
    return installation.resource_of(body).group


def ignored(application: dict[str, Any]) -> Iterator[tuple[Name, set[str]]]:
    for each in application["spec"]["ignoreDifferences"]:
        yield (each["group"], each["kind"], each["name"]), set(each["managedFieldsManagers"])


@pytest.mark.parametrize("name", APPLICATIONS)
def test_argo_ignores_what_the_roles_write_and_nothing_else(name: str) -> None:
    (application,) = documents(name)

    listed = dict(ignored(application))

    assert set(listed) == written(everything())
    assert all(managers == MANAGERS for managers in listed.values())


@pytest.mark.parametrize("name", APPLICATIONS)
def test_argo_applies_and_compares_as_the_server_does(name: str) -> None:
    (application,) = documents(name)

    options = set(application["spec"]["syncPolicy"]["syncOptions"])
    assert {"ServerSideApply=true", "RespectIgnoreDifferences=true"} <= options
    compared = application["metadata"]["annotations"]["argocd.argoproj.io/compare-options"]
    assert compared == "ServerSideDiff=true"
    # A chart's ConfigMap keeps its name; kustomize's is a new one.
    assert ("PruneLast=true" in options) == ("path" in application["spec"]["source"])


def test_the_kustomization_keeps_definitions_and_settings() -> None:
    made = rendering.render(FOLDER)

    for body in rendering.of_kind(made, "CustomResourceDefinition"):
        annotations = body["metadata"]["annotations"]
        assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"
        assert annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled"
    settings = rendering.of_kind(made, "ConfigMap")
    assert len(settings) == 2
    for body in settings:
        assert body["metadata"]["annotations"] == {"kustomize.toolkit.fluxcd.io/prune": "disabled"}


def test_the_paths_of_the_examples_lead_to_the_kustomization() -> None:
    (application,) = documents("argo-cd-kustomize")
    _, flux = documents("flux-kustomize")

    for path in (application["spec"]["source"]["path"], flux["spec"]["path"]):
        assert (rendering.MANIFESTS.parent / path).resolve() == FOLDER


@pytest.mark.parametrize("name", ["argo-cd-helm", "flux-helm"])
def test_the_chart_takes_the_values_of_an_example(name: str) -> None:
    spec = documents(name)[-1]["spec"]
    values = spec["values"] if "values" in spec else spec["source"]["helm"]["valuesObject"]

    assert rendering.only(charts.template(values), "Deployment", "uimgacc-controller")


def test_the_namespace_has_the_labels_that_the_manifests_give_it() -> None:
    (namespace,) = rendering.of_kind(rendering.together("runtimeclass"), "Namespace")
    (application,) = documents("argo-cd-helm")

    labels = namespace["metadata"]["labels"]
    assert documents("flux-helm")[0]["metadata"]["labels"] == labels
    assert application["spec"]["syncPolicy"]["managedNamespaceMetadata"]["labels"] == labels
