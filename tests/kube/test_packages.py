"""The chart and the single files on an API server: installed, changed, removed, and kept in step.

On a server of the tests' own: no kubelet starts a pod. What the controller and `uimgacc disable`
write meanwhile is written here by their own code, or as they write it.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from agent.clients.kube import acceleration_switch, rest_client
from agent.model import keys
from lab import install_files
from tests.kube import apis, servers
from tests.manifests import charts, rendering

pytestmark = [servers.needs_own, pytest.mark.timeout(600)]

NAMESPACE = "uimgacc-system"
OLD, NEW = (f"sha256:{digit * 64}" for digit in "01")
DEFINITIONS = rest_client.Resource(group="apiextensions.k8s.io", plural="customresourcedefinitions")
NAMESPACES = rest_client.Resource(plural="namespaces")
CACHE = "caches-stay"
KINDS = (
    "serviceaccounts,configmaps,secrets,services,daemonsets,deployments,poddisruptionbudgets,"
    "resourcequotas,roles,rolebindings,clusterroles,clusterrolebindings,runtimeclasses,"
    "validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingadmissionpolicies,"
    "mutatingadmissionpolicybindings,mutatingwebhookconfigurations,customresourcedefinitions"
)
# The server's own account of an object.
SERVER_SIDE = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")


class Cluster:
    """A server without uimgacc, with kubectl and Helm as its administrator."""

    def __init__(self, api: apis.Api) -> None:
        self.api = api
        self.kubeconfig = str(api.kubeconfig())

    def kubectl(self, *arguments: str, text: str = "") -> str:
        done = subprocess.run(
            [rendering.KUBECTL, "--kubeconfig", self.kubeconfig, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def helm(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        command = [*arguments, "--namespace", NAMESPACE]
        text = json.dumps(values or {})
        return charts.run(*command, text=text, kubeconfig=self.kubeconfig)

    def apply(self, text: str, manager: str) -> None:
        """As Argo CD and Flux do: server-side, taking the fields of the manifests."""
        self.kubectl(
            *("apply", "--server-side", "--force-conflicts", f"--field-manager={manager}"),
            *("-f", "-"),
            text=text,
        )

    def there(self) -> dict[str, Any]:
        """All objects of uimgacc by kind and name, without what the server writes into each."""
        output = self.kubectl("get", KINDS, "-A", "-o", "json")
        made = {}
        for body in json.loads(output)["items"]:
            meta = body["metadata"]
            name = meta["name"]
            if "uimgacc" in name or "imagecaches" in name or meta.get("namespace") == NAMESPACE:
                for own in SERVER_SIDE:
                    meta.pop(own, None)
                body.pop("status", None)
                made[f"{body['kind']}/{name}"] = body
        return made

    def use(self) -> None:
        """What happens in a cluster that is used: a cache, and what roles write."""
        self.cache()
        self.label()

    def cache(self) -> None:
        body = {
            "apiVersion": "uimgacc.io/v1",
            "kind": "ImageCache",
            "metadata": {"name": CACHE, "finalizers": ["uimgacc.io/layers"]},
            "spec": {"images": ["registry.example.com/a:1"]},
        }
        self.kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump(body))

    def label(self) -> None:
        """The controller's label of a class, with its rights."""
        body = {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "uimgacc", "labels": {keys.NO_NODE: "true"}},
        }
        account = f"--as=system:serviceaccount:{NAMESPACE}:uimgacc-controller"
        self.kubectl(
            *("apply", "--server-side", "--validate=false", account),
            *(f"--field-manager={keys.CONTROLLER}", "-f", "-"),
            text=yaml.safe_dump(body),
        )

    def clean(self) -> None:
        """Remove all of it, definitions and caches included."""
        with contextlib.suppress(AssertionError):
            patch = '{"metadata":{"finalizers":null}}'
            self.kubectl("patch", "imagecaches.uimgacc.io", CACHE, "--type=merge", "-p", patch)
        for key, body in self.there().items():
            kind, name = key.split("/", 1)
            space = body["metadata"].get("namespace", "default")
            self.kubectl("-n", space, "delete", kind, name, "--ignore-not-found", "--wait=false")


@pytest.fixture
def cluster(api: apis.Api, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(api)
    made.clean()
    try:
        yield made
    finally:
        made.clean()


def values(**more: Any) -> dict[str, Any]:
    return {
        "store": {"nfs": {"server": "10.0.0.5"}},
        "image": {"repository": "registry.example.com/uimgacc", "digest": OLD},
        **more,
    }


def installed(cluster: Cluster, **more: Any) -> None:
    cluster.helm(
        *("install", "uimgacc", str(charts.CHART), "--create-namespace", "-f", "-"),
        values=values(**more),
    )


def upgraded(cluster: Cluster, **more: Any) -> None:
    cluster.helm("upgrade", "uimgacc", str(charts.CHART), "-f", "-", values=values(**more))


def image(cluster: Cluster) -> str:
    spec = cluster.there()["DaemonSet/uimgacc-node"]["spec"]["template"]["spec"]
    return str(spec["containers"][0]["image"])


def test_a_release_is_installed_changed_and_removed(cluster: Cluster) -> None:
    installed(cluster)
    first = cluster.there()
    assert image(cluster).endswith(f"@{OLD}")
    assert "MutatingAdmissionPolicy/uimgacc" in first, "what this server has moves pods"
    assert "MutatingWebhookConfiguration/uimgacc-pods" not in first
    cluster.use()

    upgraded(
        cluster,
        image={"repository": "registry.example.com/uimgacc", "digest": NEW},
        components={"api": False, "alibaba": True, "nvidia": True},
        settings={"UIMGACC_WARM": "nginx"},
        admission="webhook",
    )

    second = cluster.there()
    assert image(cluster).endswith(f"@{NEW}")
    assert second["ConfigMap/uimgacc"]["data"]["UIMGACC_WARM"] == "nginx"
    assert "Role/uimgacc-api" in first
    assert "Role/uimgacc-api" not in second
    assert "MutatingAdmissionPolicy/uimgacc" not in second
    assert "MutatingWebhookConfiguration/uimgacc-pods" in second
    assert "RuntimeClass/uimgacc-nvidia" in second
    labels = second["RuntimeClass/uimgacc"]["metadata"]["labels"]
    assert labels[keys.NO_NODE] == "true", "the controller's label stays"
    upgraded(cluster)

    cluster.helm("uninstall", "uimgacc", "--wait")

    # The namespace's own, and what defines the caches that stay.
    left = {key for key in cluster.there() if key != "ConfigMap/kube-root-ca.crt"}
    assert left == {key for key in {**first, **second} if key.startswith("CustomResource")}
    assert "CustomResourceDefinition/imagecaches.eci.alibabacloud.com" in left
    assert CACHE in cluster.kubectl("get", "imagecaches.uimgacc.io", "-o", "name")
    installed(cluster)
    assert CACHE in cluster.kubectl("get", "imagecaches.uimgacc.io", "-o", "name")


def test_a_release_takes_over_what_kubectl_installed(cluster: Cluster) -> None:
    text = install_files.texts("registry.example.com/uimgacc:0")["install-runtimeclass.yaml"]
    cluster.apply(text, "kubectl")

    cluster.helm(
        *("install", "uimgacc", str(charts.CHART), "-f", "-", "--create-namespace"),
        *("--take-ownership", "--force-conflicts"),
        values=values(),
    )

    assert image(cluster).endswith(f"@{OLD}")


@pytest.mark.parametrize("name", [file.name for file in install_files.FILES])
def test_a_single_file_is_accepted(cluster: Cluster, name: str) -> None:
    text = install_files.texts(f"registry.example.com/uimgacc@{OLD}")[name]

    cluster.apply(text, "kubectl")

    assert image(cluster).endswith(f"@{OLD}")


def rendered(kind: str) -> str:
    """What Argo CD and Flux apply: of the kustomization in the examples, or of the chart."""
    if kind == "kustomization":
        folder = rendering.MANIFESTS / "examples" / "gitops"
        return yaml.safe_dump_all(rendering.render(folder))
    more = {"webhook": {"admission": "webhook"}, "chart": {}}[kind]
    made = charts.template({**values(**more), "namespace": {"create": True}})
    return yaml.safe_dump_all(made)


@pytest.mark.parametrize("kind", ["kustomization", "chart", "webhook"])
async def test_nothing_drifts(cluster: Cluster, client: rest_client.Client, kind: str) -> None:
    text = rendered(kind)
    cluster.apply(text, "argocd-controller")
    applied = cluster.there()

    cluster.apply(text, "argocd-controller")

    assert cluster.there() == applied, "the same again changes nothing"
    cluster.use()
    await acceleration_switch.Switch(client, namespace=NAMESPACE).off()
    if kind == "webhook":
        webhooks = applied["MutatingWebhookConfiguration/uimgacc-pods"]["webhooks"]
        names = [{"name": each["name"], "clientConfig": {"caBundle": "QQ=="}} for each in webhooks]
        await client.patch(
            rest_client.WEBHOOK_CONFIGURATIONS,
            keys.WEBHOOK_CONFIGURATION,
            {"webhooks": names},
            how=rest_client.Patch.STRATEGIC,
            manager=keys.CONTROLLER,
        )
    used = cluster.there()
    changed = {key for key in used if used[key] != applied.get(key)}
    assert len(changed) == {"webhook": 3}.get(kind, 4), "roles have written into these"

    cluster.apply(text, "argocd-controller")

    assert cluster.there() == used, "a sync reverts nothing that roles have written"
