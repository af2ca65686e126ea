"""What a test does with an API server, as its administrator: make objects, and clean up."""

import contextlib
import json
import os
import pathlib
import ssl
import urllib.error
import urllib.request
import uuid
from typing import Any

import yaml

from agent.clients.kube import connection, rest_client
from tests import waiting

Object = dict[str, Any]


class RefusedError(Exception):
    """The server's refusal of what a test asked for."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Api:
    """An API server for one test. Blocking: a test of any kind may use it."""

    def __init__(self, access: connection.Access, folder: pathlib.Path) -> None:
        self.access = access
        self.folder = folder
        self.namespace = f"test-{uuid.uuid4().hex[:10]}"
        self._undo = contextlib.ExitStack()
        self.create(
            rest_client.Resource(plural="namespaces"), {"metadata": {"name": self.namespace}}
        )
        self._undo.callback(self.delete, rest_client.Resource(plural="namespaces"), self.namespace)
        # A cluster's controller makes it, but later than the first pod of a test comes.
        with contextlib.suppress(RefusedError):
            accounts = rest_client.Resource(plural="serviceaccounts")
            self.create(accounts, {"metadata": {"name": "default"}}, namespace=self.namespace)

    def close(self) -> None:
        """Remove what is in no namespace. Never the reason why a test fails."""
        self._undo.close()

    def create(
        self, resource: rest_client.Resource, body: Object, *, namespace: str = ""
    ) -> Object:
        return self._ask("POST", resource.path(namespace=namespace), body)

    def get(self, resource: rest_client.Resource, name: str, *, namespace: str = "") -> Object:
        return self._ask("GET", resource.path(name, namespace=namespace))

    def list(self, resource: rest_client.Resource, *, namespace: str = "") -> list[Object]:
        return list(self._ask("GET", resource.path(namespace=namespace))["items"])

    def patch(
        self,
        resource: rest_client.Resource,
        name: str,
        body: Any,
        *,
        namespace: str = "",
        subresource: str = "",
        how: rest_client.Patch = rest_client.Patch.MERGE,
    ) -> Object:
        path = resource.path(name, namespace=namespace, subresource=subresource)
        return self._ask("PATCH", path, body, content_type=how.value)

    def delete(self, resource: rest_client.Resource, name: str, *, namespace: str = "") -> None:
        """Delete at once, and without complaint where it is gone."""
        with contextlib.suppress(RefusedError):
            body = {"gracePeriodSeconds": 0}
            self._ask("DELETE", resource.path(name, namespace=namespace), body)

    def finalize(self, namespace: Object) -> None:
        """Let a namespace go that is being deleted, as the namespace controller does."""
        name = namespace["metadata"]["name"]
        self._ask("PUT", rest_client.NAMESPACES.path(name, subresource="finalize"), namespace)

    def node(self, **metadata: Any) -> str:
        """A node of a name of its own, gone at the end of the test."""
        name = f"node-{uuid.uuid4().hex[:10]}"
        self.create(rest_client.NODES, {"metadata": {"name": name, **metadata}})
        self._undo.callback(self.delete, rest_client.NODES, name)
        return name

    def runtime_class(self, name: str) -> None:
        """A RuntimeClass whose handler is called as it; all tests may share it."""
        classes = rest_client.Resource(group="node.k8s.io", plural="runtimeclasses")
        with contextlib.suppress(RefusedError):
            self.create(classes, {"metadata": {"name": name}, "handler": name})

    def pod(self, name: str, node: str, *, image: str = "registry/app:1", **more: Any) -> Object:
        """A pod that is bound to a node. `more`: annotations, labels, spec."""
        return self.create(
            rest_client.PODS, pod(name, node, image=image, **more), namespace=self.namespace
        )

    def pod_status(self, name: str, status: Object) -> Object:
        """What a kubelet reports of a pod."""
        return self.patch(
            rest_client.PODS,
            name,
            {"status": status},
            namespace=self.namespace,
            subresource="status",
            how=rest_client.Patch.STRATEGIC,
        )

    def delete_pod(self, name: str) -> None:
        self.delete(rest_client.PODS, name, namespace=self.namespace)

    def token(self, account: str) -> str:
        """A token of a service account of this test's namespace, which is made."""
        accounts = rest_client.Resource(plural="serviceaccounts")
        with contextlib.suppress(RefusedError):
            self.create(accounts, {"metadata": {"name": account}}, namespace=self.namespace)
        path = accounts.path(account, namespace=self.namespace, subresource="token")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(self._ask("POST", path, body)["status"]["token"])

    def kubeconfig(
        self, *, server: str = "", token: str = "", token_file: str = ""
    ) -> pathlib.Path:
        """A kubeconfig: of the administrator at the server itself, unless told otherwise."""
        if os.environ.get("UIMGACC_TEST_CLUSTER") == "1" and not (server or token or token_file):
            return pathlib.Path(os.environ["KUBECONFIG"])
        user = {"tokenFile": token_file} if token_file else {"token": token}
        if not token and not token_file:
            user = {"token": self.access.authorization.removeprefix("Bearer ")}
        cluster = {"server": server or self.access.server}
        if self.access.tls and not server:
            cluster["insecure-skip-tls-verify"] = True  # type: ignore[assignment]
        path = self.folder / f"kubeconfig-{uuid.uuid4().hex[:8]}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def _credentials(self) -> dict[str, str]:
        """Where a client certificate says who we are, there is no token."""
        token = self.access.authorization
        return {"Authorization": token} if token else {}

    def _ask(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Object:
        request = urllib.request.Request(
            f"{self.access.server}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": content_type, **self._credentials()},
        )
        context: ssl.SSLContext | None = self.access.tls
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(error.code, error.read().decode()) from error


def pod(name: str, node: str, *, image: str = "registry/app:1", **more: Any) -> Object:
    """The manifest of a pod that every API server accepts."""
    spec = {
        "nodeName": node,
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": image}],
        **more.pop("spec", {}),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **more}, "spec": spec}


wait_until = waiting.wait_until
