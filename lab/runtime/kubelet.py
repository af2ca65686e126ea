"""Start pods with what privileged ones use: volumes, propagation, init containers, settings.

The kubelet's part of our own manifests, so that they run as they are on a real
containerd. What a pod of the tests does not use is left out, and refused.
"""

import contextlib
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc

from lab import polling, processes
from lab.runtime import cri

PROPAGATION = {"None": 0, "HostToContainer": 1, "Bidirectional": 2}

Manifest = Mapping[str, Any]


class Kubelet:
    """Runs pods on one containerd.

    `maps` are the cluster's ConfigMaps by name, `fields` what fieldRefs stand for;
    `folder` is for volumes that end with their pod.
    """

    def __init__(
        self,
        client: cri.Client,
        folder: pathlib.Path,
        *,
        maps: Mapping[str, Mapping[str, str]] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        self.client = client
        self.folder = folder
        self._own = folder
        self.maps = maps or {}
        self.fields = fields or {}

    def start(self, manifest: Manifest) -> cri.Pod:
        """Start a pod; its init containers have ended well when this returns.

        Those that stay beside the others come last among the pod's containers.
        """
        client, messages = self.client, self.client.messages
        spec = manifest["spec"]
        handler = spec.get("runtimeClassName", "")
        config = client.sandbox_config(manifest, handler)
        context = config.linux.security_context
        context.privileged = any(is_privileged(container) for container in containers(spec))
        context.namespace_options.pid = cri.NODE_NETWORK if spec.get("hostPID") else cri.OWN_PID
        request = messages.RunPodSandboxRequest(config=config, runtime_handler=handler)
        made = client.runtime.RunPodSandbox(request, timeout=client.seconds)
        pod = cri.Pod(config.metadata.name, str(made.pod_sandbox_id), [], {}, [])
        self._own = self.folder / "volumes" / pod.sandbox[:16]
        sidecars = []
        try:
            for container in spec.get("initContainers", ()):
                self._run(pod, container, spec, config)
                if container.get("restartPolicy") == "Always":
                    self._await_sidecar(pod, container["startupProbe"]["exec"]["command"])
                    sidecars += pod.containers
                    pod.containers.clear()
                else:
                    self._await_init(pod)
            for container in spec["containers"]:
                self._run(pod, container, spec, config)
            pod.containers += sidecars
        except BaseException:
            client.remove_pod(pod)
            raise
        return pod

    def _await_init(self, pod: cri.Pod) -> None:
        codes: list[int] = []
        deadline = time.monotonic() + self.client.seconds
        while not codes:
            # node-setup restarts containerd.
            try:
                codes = self.client.wait_for_exit(pod)
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        (code,) = codes
        if code:
            raise processes.LabError(f"{pod.containers[0].name} exited {code}:\n{pod.output}")
        pod.containers.clear()

    def _await_sidecar(self, pod: cri.Pod, probe: Sequence[str]) -> None:
        """Wait until a container that stays beside the others is started, as its probe says."""
        (container,) = pod.containers
        deadline, pace = time.monotonic() + self.client.seconds, polling.Pace(0.05)
        while True:
            code = None
            # node-setup restarts containerd; and in one that has ended nothing can be run.
            with contextlib.suppress(grpc.RpcError):
                code = self.client.exit_code(container)
                if code is None and self.client.execute(container, probe)[0] == 0:
                    return
            if code is not None or time.monotonic() > deadline:
                raise processes.LabError(f"{container.name} exited {code}:\n{pod.output}")
            pace.pause()

    def _run(self, pod: cri.Pod, container: Manifest, spec: Manifest, sandbox: Any) -> None:
        client, messages = self.client, self.client.messages
        environment = dict(self.environment(container))
        context = container.get("securityContext", {})
        name = container["name"]
        log = pathlib.Path(sandbox.log_directory) / name / "0.log"
        log.parent.mkdir()
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name=name),
            image=messages.ImageSpec(image=self.image(container["image"])),
            command=container.get("command", ()),
            args=[expanded(text, environment) for text in container.get("args", ())],
            envs=[messages.KeyValue(key=key, value=text) for key, text in environment.items()],
            mounts=[messages.Mount(**mount) for mount in self.mounts(container, spec)],
            log_path=f"{name}/0.log",
            labels={**sandbox.labels, "io.kubernetes.container.name": name},
        )
        security = config.linux.security_context
        security.CopyFrom(messages.LinuxContainerSecurityContext())
        security.privileged = bool(context.get("privileged"))
        security.readonly_rootfs = bool(context.get("readOnlyRootFilesystem"))
        security.namespace_options.CopyFrom(sandbox.linux.security_context.namespace_options)
        if "runAsUser" in context:
            security.run_as_user.value = context["runAsUser"]
        request = messages.CreateContainerRequest(
            pod_sandbox_id=pod.sandbox, config=config, sandbox_config=sandbox
        )
        made = client.runtime.CreateContainer(request, timeout=client.seconds)
        pod.containers.append(cri.Container(name, container["image"], made.container_id, log))
        start = messages.StartContainerRequest(container_id=made.container_id)
        client.runtime.StartContainer(start, timeout=client.seconds)

    def image(self, reference: str) -> str:
        """Return the id of an image that is present, as every image of a test must be."""
        found = self.client.image_status(reference)
        if found is None:
            raise processes.LabError(f"{reference} is not present")
        return str(found.id)

    def environment(self, container: Manifest) -> Iterator[tuple[str, str]]:
        """Yield a container's variables."""
        known: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            known |= self.maps[source["configMapRef"]["name"]]
        for variable in container.get("env", ()):
            if "valueFrom" in variable:
                known[variable["name"]] = self.fields[
                    variable["valueFrom"]["fieldRef"]["fieldPath"]
                ]
            else:
                known[variable["name"]] = expanded(variable["value"], known)
        yield from known.items()

    def mounts(self, container: Manifest, spec: Manifest) -> Iterator[dict[str, Any]]:
        """Yield the CRI's mounts of a container's volumes."""
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            yield {
                "container_path": mount["mountPath"],
                "host_path": str(self.place(volumes[mount["name"]])),
                "readonly": mount.get("readOnly", False),
                "propagation": PROPAGATION[mount.get("mountPropagation", "None")],
            }

    def place(self, volume: Manifest) -> pathlib.Path:
        """Return where a volume is on this machine."""
        if "hostPath" not in volume:
            own = self._own / str(volume["name"])
            own.mkdir(parents=True, exist_ok=True)
            return own
        place = pathlib.Path(volume["hostPath"]["path"])
        if volume["hostPath"]["type"] == "DirectoryOrCreate":
            place.mkdir(parents=True, exist_ok=True)
        if not place.is_dir():
            raise processes.LabError(f"hostPath type check failed: {place} is not a directory")
        return place


def containers(spec: Manifest) -> Sequence[Manifest]:
    """Return all containers of a pod."""
    return [*spec.get("initContainers", ()), *spec["containers"]]


def is_privileged(container: Manifest) -> bool:
    """Whether a container asks to be privileged."""
    return bool(container.get("securityContext", {}).get("privileged"))


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with $(NAME) replaced by what it stands for, if anything."""
    return re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), text)
