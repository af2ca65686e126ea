"""Run pods as the kubelet does: through containerd's Container Runtime Interface.

A pod manifest goes in, the calls that the kubelet makes come out in its order:
sandbox, image status, pull of what is absent, create, start. Pods are on the
host's network, so no CNI plugin is needed.
"""

import contextlib
import dataclasses
import importlib
import pathlib
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc

from lab import places, polling, processes

NODE_NETWORK, OWN_NETWORK, OWN_PID = 2, 0, 1
HOST_IDS = "lab/host-ids"
"""Annotation of a pod with `hostUsers: false`: the node's id that its root is."""
FIRST_ID, IDS = 10 * 65536, 65536
EXITED = 2
STOPS = 25
"""How often a stop is asked for."""


@dataclasses.dataclass(slots=True)
class Container:
    """One container of a pod, as far as it got."""

    name: str
    image: str
    id: str
    log: pathlib.Path
    exit_code: int | None = None

    def output(self) -> str:
        """Return what it has written so far, without the CRI's prefixes."""
        if not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()
        # Time, stream and a tag (F for a full line, P for a part) stand before each.
        rows = [line.split(" ", 3) for line in lines]
        return "".join(row[3] + ("\n" if row[2] == "F" else "") for row in rows if len(row) == 4)


@dataclasses.dataclass(slots=True)
class Pod:
    """A pod that was started, and how long each step took, in seconds."""

    name: str
    sandbox: str
    containers: list[Container]
    seconds: dict[str, float]
    """`sandbox`, `pull` (0 for images that were present), `create`, `start`."""
    pulled: list[str]
    """The images that were not present."""

    @property
    def output(self) -> str:
        """Return what all containers have written so far."""
        return "".join(container.output() for container in self.containers)


class Client:
    """A blocking client of one containerd's CRI.

    `runtime` and `images` are the raw stubs, `messages` the module of their
    messages, for calls that have no method here.
    """

    def __init__(
        self, address: pathlib.Path, folder: pathlib.Path, *, seconds: float = 120
    ) -> None:
        self.messages, services = generated()
        self.folder = folder
        """Where the logs of containers go."""
        self.seconds = seconds
        self.channel = channel(address)
        self.runtime = services.RuntimeServiceStub(self.channel)
        self.images = services.ImageServiceStub(self.channel)
        self.wait_until_ready()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; pods stay."""
        self.channel.close()

    def wait_until_ready(self) -> None:
        """Return when the CRI answers: it is ready a little later than containerd itself."""
        deadline = time.monotonic() + 90
        while True:
            try:
                self.list_images()
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def image_status(self, reference: str) -> Any | None:
        """Return the CRI's Image (id, repo_tags, repo_digests, size), or None if absent."""
        spec = self.messages.ImageSpec(image=reference)
        answer = self.images.ImageStatus(self.messages.ImageStatusRequest(image=spec), timeout=60)
        return answer.image if answer.image.id else None

    def list_images(self) -> list[Any]:
        """Return all images that the CRI knows."""
        return list(self.images.ListImages(self.messages.ListImagesRequest(), timeout=60).images)

    def pull_image(
        self,
        reference: str,
        *,
        handler: str = "",
        annotations: Mapping[str, str] | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> str:
        """Pull an image for a runtime handler; return its id.

        Containerd 1.7 to 2.2 look for the handler only in the annotation of the
        pod, so it is set as our admission policy sets it.
        """
        messages = self.messages
        wanted = with_handler(annotations or {}, handler)
        spec = messages.ImageSpec(image=reference, runtime_handler=handler)
        request = messages.PullImageRequest(
            image=spec, sandbox_config=messages.PodSandboxConfig(annotations=wanted)
        )
        if credentials:
            request.auth.username, request.auth.password = credentials
        return str(self.images.PullImage(request, timeout=self.seconds).image_ref)

    def remove_image(self, reference: str) -> None:
        """Remove an image; its content and snapshots go a little later."""
        spec = self.messages.ImageSpec(image=reference)
        self.images.RemoveImage(self.messages.RemoveImageRequest(image=spec), timeout=60)

    def image_file_systems(self) -> list[tuple[str, int]]:
        """Return mountpoint and used bytes of the file systems with images (ImageFsInfo)."""
        answer = self.images.ImageFsInfo(self.messages.ImageFsInfoRequest(), timeout=60)
        rows = answer.image_filesystems
        return [(row.fs_id.mountpoint, row.used_bytes.value) for row in rows]

    def run_pod(
        self,
        manifest: Mapping[str, Any],
        *,
        handler: str | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> Pod:
        """Start a pod from its manifest; return when all containers are started.

        The handler is the manifest's `runtimeClassName` unless given. What was
        started is removed if a step fails. `remove_pod` ends it.
        """
        spec = manifest["spec"]
        chosen = str(spec.get("runtimeClassName", "")) if handler is None else handler
        config = self.sandbox_config(manifest, chosen)
        clock = Clock()
        request = self.messages.RunPodSandboxRequest(config=config, runtime_handler=chosen)
        sandbox = str(self.runtime.RunPodSandbox(request, timeout=self.seconds).pod_sandbox_id)
        clock.lap("sandbox")
        pod = Pod(config.metadata.name, sandbox, [], clock.seconds, [])
        puller = Puller(self, pod, config, chosen, credentials)
        try:
            volumes = {
                volume["name"]: puller.ensure(
                    volume["image"]["reference"], volume["image"].get("pullPolicy")
                )
                for volume in spec.get("volumes") or []
                if "image" in volume
            }
            clock.lap("pull")
            for container in spec["containers"]:
                self.run_container(pod, container, puller, volumes, clock)
        except BaseException:
            self.remove_pod(pod)
            raise
        return pod

    @contextlib.contextmanager
    def pod(self, manifest: Mapping[str, Any], *, handler: str | None = None) -> Iterator[Pod]:
        """Run a pod for the time of a block."""
        pod = self.run_pod(manifest, handler=handler)
        try:
            yield pod
        finally:
            self.remove_pod(pod)

    def sandbox_config(self, manifest: Mapping[str, Any], handler: str) -> Any:
        """Return the PodSandboxConfig of a manifest."""
        messages, metadata = self.messages, manifest["metadata"]
        name = metadata["name"]
        uid = str(metadata.get("uid") or uuid.uuid4())
        logs = self.folder / f"{metadata.get('namespace', 'default')}_{name}_{uid}"
        logs.mkdir(parents=True)
        config = messages.PodSandboxConfig(
            metadata=messages.PodSandboxMetadata(
                name=name, uid=uid, namespace=metadata.get("namespace", "default")
            ),
            log_directory=str(logs),
            annotations=with_handler(metadata.get("annotations") or {}, handler),
            labels=metadata.get("labels") or {},
        )
        # As the kubelet does, so that a container tells whose it is.
        config.labels["io.kubernetes.pod.name"] = name
        config.labels["io.kubernetes.pod.namespace"] = config.metadata.namespace
        config.labels["io.kubernetes.pod.uid"] = uid
        options = config.linux.security_context.namespace_options
        options.network, options.pid = NODE_NETWORK, OWN_PID
        if not manifest["spec"].get("hostUsers", True):
            # Which is not its own on the host's network: containerd refuses that.
            options.network = OWN_NETWORK
            self.map_ids(options.userns_options, manifest)
        return config

    def map_ids(self, users: Any, manifest: Mapping[str, Any]) -> None:
        """Map ids as the kubelet does for `hostUsers: false`, from the manifest's HOST_IDS on."""
        first = int((manifest["metadata"].get("annotations") or {}).get(HOST_IDS, FIRST_ID))
        users.mode = self.messages.NamespaceMode.Value("POD")
        for ids in (users.uids, users.gids):
            ids.add(host_id=first, container_id=0, length=IDS)

    def run_container(
        self,
        pod: Pod,
        container: Mapping[str, Any],
        puller: "Puller",
        volumes: Mapping[str, Any],
        clock: "Clock",
    ) -> None:
        """Pull what is absent, create and start one container.

        `volumes` are the ImageSpecs of the pod's image volumes by their names.
        """
        messages, image, name = self.messages, container["image"], container["name"]
        sandbox_config = puller.sandbox_config
        spec = puller.ensure(image, container.get("imagePullPolicy"))
        clock.lap("pull")
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name=name),
            image=spec,
            mounts=[
                self.image_mount(volumes[row["name"]], row["mountPath"], row.get("subPath", ""))
                for row in container.get("volumeMounts") or []
                if row["name"] in volumes
            ],
            command=container.get("command") or [],
            args=container.get("args") or [],
            envs=[
                messages.KeyValue(key=row["name"], value=row.get("value", ""))
                for row in container.get("env") or []
            ],
            working_dir=container.get("workingDir", ""),
            log_path=f"{name}/0.log",
            labels={**sandbox_config.labels, "io.kubernetes.container.name": name},
        )
        options = config.linux.security_context.namespace_options
        options.CopyFrom(sandbox_config.linux.security_context.namespace_options)
        (pathlib.Path(sandbox_config.log_directory) / name).mkdir()
        request = messages.CreateContainerRequest(
            pod_sandbox_id=pod.sandbox, config=config, sandbox_config=sandbox_config
        )
        made = str(self.runtime.CreateContainer(request, timeout=self.seconds).container_id)
        log = pathlib.Path(sandbox_config.log_directory) / name / "0.log"
        pod.containers.append(Container(name, image, made, log))
        clock.lap("create")
        start = messages.StartContainerRequest(container_id=made)
        self.runtime.StartContainer(start, timeout=self.seconds)
        clock.lap("start")

    def image_mount(self, spec: Any, path: str, sub_path: str) -> Any:
        """Return the mount of an image volume, or of one of its folders, at a path."""
        mount = self.messages.Mount(container_path=path, image=spec, readonly=True)
        if sub_path:
            # Field 10, image_sub_path: Debian's copy of the CRI is older than that field.
            data = sub_path.encode()
            mount.MergeFromString(bytes([10 << 3 | 2, len(data)]) + data)
        return mount

    def wait_for_output(self, pod: Pod, text: str, *, seconds: float = 60) -> float:
        """Return the seconds until the pod has written a text; fail if it ends without."""
        started, pace = time.monotonic(), polling.Pace(0.005)
        while text not in pod.output:
            if all(self.exit_code(container) is not None for container in pod.containers):
                time.sleep(0.05)
                if text not in pod.output:
                    raise processes.LabError(f"{pod.name} ended; it wrote:\n{pod.output}")
            elif time.monotonic() - started > seconds:
                raise processes.LabError(f"no {text!r} in {seconds} s from {pod.name}")
            pace.pause()
        return time.monotonic() - started

    def wait_for_exit(self, pod: Pod, *, seconds: float = 120) -> list[int]:
        """Return the exit codes of all containers when they have ended."""
        deadline, pace = time.monotonic() + seconds, polling.Pace(0.005)
        while True:
            codes = [self.exit_code(container) for container in pod.containers]
            if None not in codes:
                return [code for code in codes if code is not None]
            if time.monotonic() > deadline:
                raise processes.LabError(f"{pod.name} has not ended in {seconds} s")
            pace.pause()

    def exit_code(self, container: Container) -> int | None:
        """Return a container's exit code, or None while it is running."""
        request = self.messages.ContainerStatusRequest(container_id=container.id)
        status = self.runtime.ContainerStatus(request, timeout=60).status
        container.exit_code = int(status.exit_code) if status.state == EXITED else None
        return container.exit_code

    def execute(self, container: Container, command: Sequence[str]) -> tuple[int, str]:
        """Run a command in a container; return its exit code and all that it wrote."""
        request = self.messages.ExecSyncRequest(
            container_id=container.id, cmd=list(command), timeout=60
        )
        answer = self.runtime.ExecSync(request, timeout=70)
        return int(answer.exit_code), (answer.stdout + answer.stderr).decode(errors="replace")

    def remove_pod(self, pod: Pod) -> None:
        """Stop and remove a pod; that it is gone already does not matter.

        A container that ends in the very moment of its stop makes containerd answer "ttrpc:
        closed", for its shim is gone: the stop is asked for again, as the kubelet does.
        """
        messages = self.messages
        request = messages.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox)
        for attempt in range(STOPS):
            try:
                self.runtime.StopPodSandbox(request, timeout=60)
                break
            except grpc.RpcError as error:
                if "ttrpc: closed" not in str(error) or attempt == STOPS - 1:
                    raise
                time.sleep(0.2)
        self.runtime.RemovePodSandbox(
            messages.RemovePodSandboxRequest(pod_sandbox_id=pod.sandbox), timeout=60
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Puller:
    """Has the images of one pod present, those of its containers and those of its volumes."""

    client: Client
    pod: Pod
    sandbox_config: Any
    handler: str
    credentials: tuple[str, str] | None

    def ensure(self, image: str, policy: str | None = None) -> Any:
        """Pull an image unless it is present, or always; return its ImageSpec, by its id."""
        status = self.client.image_status(image)
        reference = status.id if status else ""
        if policy != "Never" and (status is None or policy == "Always"):
            reference = self.client.pull_image(
                image,
                handler=self.handler,
                annotations=dict(self.sandbox_config.annotations),
                credentials=self.credentials,
            )
            self.pod.pulled.append(image)
        return self.client.messages.ImageSpec(
            image=reference, user_specified_image=image, runtime_handler=self.handler
        )


def channel(address: pathlib.Path) -> grpc.Channel:
    """Return a connection to a containerd's socket, to be closed."""
    options = [
        # Containerd refuses the path of the socket as the name of the server.
        ("grpc.default_authority", "localhost"),
        # gRPC's own pauses grow to two minutes while a containerd restarts on a busy machine.
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # What another client of this socket has been through is not this one's.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.insecure_channel(f"unix://{address}", options=options)


class Clock:
    """Add up what each of several steps takes."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.seconds = dict.fromkeys(("sandbox", "pull", "create", "start"), 0.0)

    def lap(self, step: str) -> None:
        """Count the time since the last lap for a step."""
        now = time.monotonic()
        self.seconds[step] += now - self.last
        self.last = now


def with_handler(annotations: Mapping[str, str], handler: str) -> dict[str, str]:
    """Return annotations with the handler in the one that containerd reads."""
    if not handler:
        return dict(annotations)
    return {"io.containerd.cri.runtime-handler": handler, **annotations}


def manifest(
    name: str,
    image: str,
    *,
    command: Sequence[str] = (),
    annotations: Mapping[str, str] | None = None,
    handler: str = "",
) -> dict[str, Any]:
    """Return the manifest of a pod with one container."""
    container: dict[str, Any] = {"name": "main", "image": image}
    if command:
        container["command"] = list(command)
    spec: dict[str, Any] = {"containers": [container], "hostNetwork": True}
    if handler:
        spec["runtimeClassName"] = handler
    metadata = {"name": name, "namespace": "default", "uid": str(uuid.uuid4())}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "annotations": dict(annotations or {})},
        "spec": spec,
    }


def generated() -> tuple[Any, Any]:
    """Import the modules that `lab.parts.debian` generated: messages, and stubs."""
    path = str(places.CRI_API)
    if path not in sys.path:
        # Last: nothing there may stand before another module of the same name.
        sys.path.append(path)
    names = ("runtime_v1_pb2", "runtime_v1_pb2_grpc")
    return importlib.import_module(names[0]), importlib.import_module(names[1])
