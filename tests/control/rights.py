"""The roles of the manifests, in the namespace of a test, on a real API server."""

import contextlib
import json
import pathlib
import subprocess
import uuid
from collections.abc import Iterator

import yaml

from tests.control import conftest
from tests.kube import apis
from tests.manifests import rendering

ACCOUNT = "uimgacc-controller"


def kubectl(api: apis.Api, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [rendering.KUBECTL, "--kubeconfig", api.kubeconfig(), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
    )


_ROLES = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
_SWITCHED = (
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
)
_HOLDING = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


@contextlib.contextmanager
def installed(api: apis.Api, *components: str, folder: pathlib.Path) -> Iterator[None]:
    """The account of the manifests has its roles, and is held by its policies, in our namespace.

    `folder` is one of the node that builders may have: the policy's variable, as
    docs/security/rbac.md says. The admission policy, which some may switch, is there as well.
    """
    suffix = uuid.uuid4().hex[:6]
    made = []
    try:
        for document in rendering.together("runtimeclass", *components):
            body = json.loads(json.dumps(document).replace("uimgacc-system", api.namespace))
            kind, name = body["kind"], body["metadata"]["name"]
            ours = kind in _ROLES and name in (
                "uimgacc-controller",
                "uimgacc-api",
                "uimgacc-webhook",
            )
            held = kind in _HOLDING and name.startswith("uimgacc-controller")
            if not (ours or held or kind in _SWITCHED):
                continue
            if held or kind.startswith("ClusterRole"):
                body["metadata"]["name"] = f"{name}-{suffix}"
            if kind == "ClusterRoleBinding":
                body["roleRef"]["name"] = f"{name}-{suffix}"
            if kind == "ValidatingAdmissionPolicyBinding":
                body["spec"]["policyName"] = f"{name}-{suffix}"
            for variable in body.get("spec", {}).get("variables", ()):
                if variable["name"] == "folders":
                    variable["expression"] = f"['{folder}']"
            done = kubectl(api, "apply", "-f", "-", text=json.dumps(body))
            assert done.returncode == 0, done.stderr
            if "namespace" not in body["metadata"]:
                made.append((kind, body["metadata"]["name"]))
        named = {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}}
        token = {"type": "kubernetes.io/service-account-token", "metadata": named}
        secret = json.dumps({"apiVersion": "v1", "kind": "Secret", **token})
        # A policy is in force a moment after it was made.
        apis.wait_until(lambda: "makes no tokens" in refusal(api, secret), seconds=60)
        yield
    finally:
        for kind, name in reversed(made):
            kubectl(api, "delete", kind, name)


def refusal(api: apis.Api, text: str) -> str:
    """Why the account may not create an object; "" where it may, which changes nothing."""
    account = f"--as=system:serviceaccount:{api.namespace}:{ACCOUNT}"
    where = f"--namespace={api.namespace}"
    done = kubectl(api, "create", "--dry-run=server", "-f", "-", account, where, text=text)
    return done.stderr


@contextlib.contextmanager
def applied(plane: conftest.Plane, *components: str) -> Iterator[None]:
    """The controllers of the context have the account of the manifests, and its roles alone."""
    api = plane.api
    with installed(api, *components, folder=plane.store.root):
        _as_account(plane)
        yield


def _as_account(plane: conftest.Plane) -> None:
    api = plane.api
    config = api.kubeconfig(server=api.access.server, token=api.token(ACCOUNT))
    content = yaml.safe_load(config.read_text())
    content["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    plane.kubeconfig.write_text(yaml.safe_dump(content))
    account = f"--as=system:serviceaccount:{api.namespace}:{ACCOUNT}"
    for right in (["list", "nodes"], ["create", "leases", f"--namespace={api.namespace}"]):
        apis.wait_until(
            lambda right=right: kubectl(api, "auth", "can-i", *right, account).returncode == 0
        )


def none_missing(controller: conftest.Controller) -> None:
    """Nothing was refused: that would be in the log."""
    lines = controller.lines()
    # Not "403" in the text: ports, digests and times of day have that, too.
    refused = [line for line in lines if "orbidden" in str(line.get("reason", line))]
    assert refused == [], refused
    loud = [line for line in lines if line["level"] in ("warning", "error")]
    assert loud == [], loud
