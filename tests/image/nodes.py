"""A node that runs our manifests as they are: a real containerd, our image, the lab's kubelet."""

import contextlib
import copy
import json
import pathlib
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import yaml

from agent.mounts import mountinfo
from lab import places, processes, services
from lab.runtime import containerds, cri, kubelet, restarter
from tests import waiting
from tests.manifests import rendering

WORKER = "worker-1"


class Containerd(containerds.Containerd):
    """A containerd whose configuration is its machine's: written once, then node-setup's."""

    def configuration(self) -> str:
        if self.config.exists():
            return self.config.read_text()
        return super().configuration()


class Node:
    """A node below a folder, which has its mounts shared as a machine's root has them.

    What the manifests name on the host is moved below the folder; nothing else of
    them is changed but the export of the store ("": it is there already), the registry
    of the image, and that pods come from a folder.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        registry: services.Registry,
        archive: pathlib.Path,
        *,
        version: str = places.NEWEST,
        nfs: str = "",
    ) -> None:
        self.folder = folder
        self.archive = archive
        self.nfs = nfs
        self.port = processes.free_port()
        self.pods = folder / "lib" / "pods"
        self.pods.mkdir(parents=True)
        (folder / "c").mkdir()
        self.containerd = Containerd(version, registries=[registry.address], folder=folder / "c")
        self._systemd = restarter.Restarter(self.containerd, folder / "restart")

    def __enter__(self) -> "Node":
        self.containerd.start()
        self.containerd.ctr("images", "import", self.archive, namespace="k8s.io")
        self.client = self.containerd.cri()
        self._systemd.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._systemd.close()
        self.client.close()
        self.containerd.close()

    @property
    def restarts(self) -> int:
        """How often containerd was restarted."""
        return self._systemd.restarts

    def documents(self, folder: pathlib.Path) -> list[Any]:
        """What a kustomization is on this node."""
        text = yaml.safe_dump_all(rendering.render(folder))
        for path, here in {
            "/run/containerd/containerd.sock": self.containerd.address,
            "/run/containerd": self.folder / "c",
            "/var/lib/containerd/io.containerd.snapshotter.v1.uimgacc": self.folder / "snap",
            "/run/uimgacc": self.folder / "run",
            "/var/lib/uimgacc": self.folder / "lib",
            "127.0.0.1:9465": f"127.0.0.1:{self.port}",
            "nfs.example.internal:/uimgacc": self.nfs,
        }.items():
            text = text.replace(path, str(here))
        return list(yaml.safe_load_all(text))

    def kubelet(self, documents: list[Any]) -> kubelet.Kubelet:
        maps = {
            found["metadata"]["name"]: {**found["data"], **self._own_settings()}
            for found in rendering.of_kind(documents, "ConfigMap")
        }
        fields = {"spec.nodeName": WORKER, "status.hostIP": "127.0.0.1"}
        return kubelet.Kubelet(self.client, self.folder, maps=maps, fields=fields)

    def _own_settings(self) -> Mapping[str, str]:
        return {
            "UIMGACC_CONTAINERD_CONFIG": str(self.containerd.config),
            "UIMGACC_RECHECK_SECONDS": "0.2",
            "UIMGACC_CONTAINERD_BINARY": str(self.containerd.binaries / "containerd"),
        }

    def pod(self, documents: list[Any], name: str) -> dict[str, Any]:
        """The pod of a DaemonSet on this node."""
        template = copy.deepcopy(rendering.only(documents, "DaemonSet", name)["spec"]["template"])
        for container in rendering.containers(template["spec"]):
            # There is no API server.
            no_api = ("--startup-taint", "--node=")
            container["args"] = [
                self._adapted(text) for text in container["args"] if not text.startswith(no_api)
            ]
        metadata = {**template["metadata"], "name": f"{name}-{time.monotonic_ns()}"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "namespace": "uimgacc-system"},
            "spec": template["spec"],
        }

    def _adapted(self, text: str) -> str:
        """An argument as it is on this node, which has no API server and no systemd."""
        if text == "--kubernetes=$(NODE_NAME)":
            return f"--pods={self.pods}"
        text = text.replace(' --node="$NODE_NAME"', "")
        restart = f"--restart-command=chroot /host sh -c {shlex.quote(self._systemd.command)}"
        if text == "--restart":
            return restart
        return text.replace(" --restart", f" {shlex.quote(restart)}")

    def ask(self, path: str) -> str:
        """What the agent's web server answers; "" while there is none."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=10
            ) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def started(self, manifest: Callable[[], dict[str, Any]]) -> cri.Pod:
        """Start a pod as the kubelet does, which tries again.

        containerd takes some seconds to notice that a snapshotter is back.
        """
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.client.run_pod(manifest())
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise

    def succeeds(self, pod: cri.Pod, *command: str) -> bool:
        """Whether a command in a pod does; not while containerd restarts."""
        with contextlib.suppress(grpc.RpcError):
            return self.client.execute(pod.containers[0], command)[0] == 0
        return False

    def pid(self, pod: cri.Pod) -> int:
        """The process of a pod's first container."""
        (container,) = pod.containers
        rows = self.containerd.ctr("tasks", "ls", namespace="k8s.io").splitlines()[1:]
        found = {name: int(number) for name, number, *_ in map(str.split, rows)}
        return found[container.id]

    def copied(self, pod: cri.Pod, container: int, path: str) -> list[str]:
        """What is mounted below a folder of a container."""
        command = ["cat", "/proc/self/mountinfo"]
        _, text = self.client.execute(pod.containers[container], command)
        found = [entry.target for entry in mountinfo.parse(text)]
        return [target for target in found if target.startswith(f"{path}/")]

    def schedule(self, manifest: dict[str, Any]) -> None:
        """Have the agent see a pod."""
        draft = self.folder / "draft"
        draft.write_text(json.dumps(manifest))
        draft.rename(self.pods / f"{manifest['metadata']['name']}.json")

    def layers(self) -> list[tuple[int, str]]:
        """The layers that are mounted on this machine, below the node's folder."""
        below = f"{self.folder}/snap/layers/"
        return [
            (each.device, each.target) for each in mountinfo.read() if each.target.startswith(below)
        ]

    @contextlib.contextmanager
    def running(self, documents: list[Any], name: str) -> Iterator[cri.Pod]:
        """A DaemonSet's pod for the time of a block."""
        pod = self.kubelet(documents).start(self.pod(documents, name))
        try:
            yield pod
        finally:
            self.client.remove_pod(pod)


@contextlib.contextmanager
def shared(folder: pathlib.Path) -> Iterator[None]:
    """Have mounts below a folder propagate, as systemd has it for all of a machine."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        # Not with the mount that the folder is from, where that is shared: all would be twice.
        for kind in ("--make-private", "--make-rshared"):
            subprocess.run(["mount", kind, folder], check=True)
        yield
    finally:
        processes.unmount_below(folder)


wait_until = waiting.wait_until


def bind(source: pathlib.Path, target: pathlib.Path) -> None:
    """Have a folder appear at another place, as a mount of the store does."""
    target.mkdir()
    subprocess.run(["mount", "--bind", source, target], check=True)
