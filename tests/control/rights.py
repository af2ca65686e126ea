"""The roles of the manifests, in the namespace of a test, on a real API server."""

import contextlib
import json
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
_ADMISSION = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")


@contextlib.contextmanager
def applied(plane: conftest.Plane, *components: str) -> Iterator[None]:
    """The controllers of the context have the account of the manifests, and its roles alone.

    The admission policy, which some may switch, is there as well.
    """
    api = plane.api
    suffix = uuid.uuid4().hex[:6]
    made = []
    for document in rendering.together("runtimeclass", *components):
        kind, name = document["kind"], document["metadata"]["name"]
        if kind in _ADMISSION:
            made.append((kind, name))
        elif kind not in _ROLES or name not in ("uimgacc-controller", "uimgacc-api"):
            continue
        body = json.loads(json.dumps(document).replace("uimgacc-system", api.namespace))
        if kind.startswith("ClusterRole"):
            body["metadata"]["name"] = f"{name}-{suffix}"
            made.append((kind, f"{name}-{suffix}"))
        if kind == "ClusterRoleBinding":
            body["roleRef"]["name"] = f"{name}-{suffix}"
        done = kubectl(api, "apply", "-f", "-", text=json.dumps(body))
        assert done.returncode == 0, done.stderr
    config = api.kubeconfig(server=api.access.server, token=api.token(ACCOUNT))
    content = yaml.safe_load(config.read_text())
    content["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    plane.kubeconfig.write_text(yaml.safe_dump(content))
    account = f"--as=system:serviceaccount:{api.namespace}:{ACCOUNT}"
    for right in (["list", "nodes"], ["create", "leases", f"--namespace={api.namespace}"]):
        apis.wait_until(
            lambda right=right: kubectl(api, "auth", "can-i", *right, account).returncode == 0
        )
    try:
        yield
    finally:
        for kind, name in made:
            kubectl(api, "delete", kind, name)


def none_missing(controller: conftest.Controller) -> None:
    """Nothing was refused: that would be in the log."""
    lines = controller.lines()
    # Not "403" in the text: ports, digests and times of day have that, too.
    refused = [line for line in lines if "orbidden" in str(line.get("reason", line))]
    assert refused == [], refused
    loud = [line for line in lines if line["level"] in ("warning", "error")]
    assert loud == [], loud
