"""A real containerd of the lab, private to a folder, with its CRI plugin."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

import grpc

from agent._proto.containerd import snapshots_pb2, snapshots_pb2_grpc
from agent.model import keys
from lab import places, polling, processes
from lab.runtime import cri

SHIM = "containerd-shim-runc-v2"
PAUSE = "lab/pause:1"

# Plugins that need hardware or file systems that are not here, and one that listens on a socket
# which the machine has only once.
DISABLED = (
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
    "io.containerd.nri.v1.nri",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Proxy:
    """A snapshotter plugged into containerd through a socket."""

    socket: pathlib.Path
    root: pathlib.Path | None = None
    """Told to containerd as the place of its data (`exports.root`)."""
    annotations: bool = False
    """Whether it needs the CRI's labels in a pull by the transfer service, too."""
    capabilities: Sequence[str] = ()
    """What containerd may expect of it."""


class Containerd:
    """One containerd; a context manager.

    Root, state and socket lie in a folder of its own under the system's folder
    for temporary files, because a socket's path has at most 107 bytes; several
    live side by side. Leaving the context ends its containers, removes its
    mounts and its data; `stop`, `kill` and `restart` leave containers running,
    as they do on a node.

    The CRI has the runtime handler `runc`, over overlayfs, and one per proxy
    snapshotter, named as it is. `snapshotter_socket` is short for a proxy named
    `uimgacc`. Images from the registries given come by plain HTTP; the sandbox
    image is the lab's own, from the first of them.
    """

    def __init__(
        self,
        version: str = places.NEWEST,
        *,
        registries: Sequence[str] = (),
        snapshotter_socket: pathlib.Path | None = None,
        snapshotter_root: pathlib.Path | None = None,
        proxies: Mapping[str, Proxy] | None = None,
        default_snapshotter: str = "overlayfs",
        folder: pathlib.Path | None = None,
        extra: str = "",
        debug: bool = False,
        names_images: bool = True,
        capabilities: Sequence[str] = ("remap-ids",),
        newer_runc: bool = False,
    ) -> None:
        self.version = version
        self.registries = list(registries)
        self.proxies = dict(proxies or {})
        if snapshotter_socket is not None:
            self.proxies["uimgacc"] = Proxy(
                snapshotter_socket, snapshotter_root, capabilities=capabilities
            )
        self.default_snapshotter = default_snapshotter
        self.extra = extra
        """TOML appended to config.toml."""
        self.debug = debug
        self.names_images = names_images
        """Whether a snapshotter gets the name of the image that the CRI pulls, as a label."""
        self.newer_runc = newer_runc
        """Whether containers are run by Debian testing's runc, and not by the machine's."""
        self.own_folder = folder is None
        self.folder = folder or pathlib.Path(tempfile.mkdtemp(prefix="lab-"))
        self.root = self.folder / "root"
        self.state = self.folder / "state"
        self.address = self.folder / "c.sock"
        self.config = self.folder / "config.toml"
        self.binaries = places.CONTAINERDS[version]
        self.process = processes.Process(
            [self.binaries / "containerd", "--config", self.config],
            self.folder / "containerd.log",
            **processes.environment_with_path(self.binaries),
        )

    def __enter__(self) -> "Containerd":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Return the id of the running containerd."""
        return self.process.pid

    @property
    def log(self) -> pathlib.Path:
        """Return containerd's log."""
        return self.process.errors

    def start(self) -> None:
        """Write the configuration and start; return when containerd and its CRI answer."""
        for folder in (self.root, self.state, self.folder / "cni"):
            folder.mkdir(parents=True, exist_ok=True)
        for proxy, settings in self.proxies.items():
            root = settings.root or self.folder / proxy
            root.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self.configuration())
        self.write_hosts()
        self.write_network()
        self.note_names()
        self.process.start()
        self.process.wait_for_socket(str(self.address))
        self.cri().close()

    def stop(self) -> None:
        """End containerd in order; its containers go on running."""
        self.process.end()

    def kill(self) -> None:
        """Kill containerd; its containers go on running."""
        self.process.end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again over the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End everything of it, and leave nothing but logs in a folder that was given."""
        self.process.end()
        self.end_containers()
        processes.unmount_below(self.folder)
        for folder in (self.root, self.state):
            shutil.rmtree(folder, ignore_errors=True)
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def wait_for_proxy(self, name: str, *, seconds: float = 60) -> None:
        """Return when containerd reaches a proxy snapshotter, which was started again.

        While that was away, requests have made containerd dial; it dials again after pauses of up
        to 3.6 s, and until then fails every request for that snapshotter at once, the kubelet's
        pods included. A list of snapshots does not show it: where there are none, containerd
        answers by itself.
        """
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=name, key=f"{name}-is-reached", labels={keys.UID_MAPPING: ""}
        )
        namespace = (("containerd-namespace", "lab"),)
        deadline, pace = time.monotonic() + seconds, polling.Pace()
        with cri.channel(self.address) as channel:
            prepare = snapshots_pb2_grpc.SnapshotsStub(channel).Prepare  # type: ignore[no-untyped-call]
            while True:
                try:
                    prepare(request, metadata=namespace, timeout=seconds)
                except grpc.RpcError as error:
                    # The proxy's own answer: it cannot map users and no groups.
                    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                        return
                    reason = f"{error.code().name}: {error.details()}"
                else:
                    raise processes.LabError(f"{name} has made a snapshot with half a map of ids")
                if time.monotonic() > deadline:
                    raise processes.LabError(f"containerd does not reach {name}: {reason}")
                pace.pause()

    def ctr(
        self, *arguments: str | pathlib.Path, namespace: str = "default", seconds: float = 300
    ) -> str:
        """Run this containerd's own `ctr`, and return its standard output."""
        done = subprocess.run(
            [self.binaries / "ctr", "-a", self.address, "-n", namespace, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **processes.environment_with_path(self.binaries)},
        )
        if done.returncode:
            words = " ".join(str(word) for word in arguments)
            raise processes.LabError(f"ctr {words}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def pull(
        self,
        reference: str,
        *,
        snapshotter: str = "overlayfs",
        local: bool = False,
        namespace: str = "default",
    ) -> float:
        """Pull a plain-HTTP image with `ctr`, unpacked; return how many seconds it took."""
        options = ["--plain-http", f"--snapshotter={snapshotter}"]
        # Containerd 2 pulls by its transfer service, unless told otherwise; 1.7 in the client.
        if local and self.version != "1.7":
            options.append("--local")
        started = time.monotonic()
        self.ctr("images", "pull", *options, reference, namespace=namespace)
        return time.monotonic() - started

    def cri(self) -> cri.Client:
        """Return a client of its Container Runtime Interface, to be closed."""
        return cri.Client(self.address, self.folder / "pods")

    def end_containers(self) -> None:
        """Kill the containers that this containerd started, and their shims."""
        for pid, words in list(processes.arguments_of(SHIM)):
            if str(self.address) not in words:
                continue
            # The containers are the shim's children; killed first, none is orphaned.
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
            with contextlib.suppress(OSError):
                for child in children.read_text().split():
                    processes.kill(int(child))
            processes.kill(pid)
        self.remove_traces()

    def remove_traces(self) -> None:
        """Remove what killed shims leave outside of the folder: sockets, cgroups."""
        bundles = self.state.glob("io.containerd.runtime.v2.task/*/*")
        for bundle in bundles:
            for path in shim_sockets(bundle):
                path.unlink(missing_ok=True)
            group = f"{bundle.parent.name}/{bundle.name}"
            for base in (self.state / "runc", pathlib.Path("/run/containerd/runc")):
                shutil.rmtree(base / group, ignore_errors=True)
            with contextlib.suppress(OSError, ValueError, KeyError):
                spec = json.loads((bundle / "config.json").read_text())
                group = spec["linux"]["cgroupsPath"].lstrip("/")
            for folder in pathlib.Path("/sys/fs/cgroup").glob(f"*/{group}"):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                (pathlib.Path("/sys/fs/cgroup") / group).rmdir()

    def note_names(self) -> None:
        """Write what `uimgacc node-setup` does: agent.setup.node.image_refs."""
        root = self.proxies["uimgacc"].root if "uimgacc" in self.proxies else None
        if root is not None and self.names_images:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            (root / "image-refs").touch()

    def write_hosts(self) -> None:
        """Tell containerd that the lab's registries speak plain HTTP."""
        for registry in self.registries:
            folder = self.folder / "hosts" / registry
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts.toml").write_text(f'server = "http://{registry}"\n')

    def configuration(self) -> str:
        """Return config.toml, in the version that this containerd writes itself."""
        parts = [
            f"version = {2 if self.version == '1.7' else 3}",
            f'root = "{self.root}"\nstate = "{self.state}"',
            f"disabled_plugins = {json.dumps(DISABLED)}",
            f'[grpc]\n  address = "{self.address}"',
            f'[ttrpc]\n  address = "{self.address}.ttrpc"',
            f'[debug]\n  level = "{"debug" if self.debug else "info"}"',
            # Not /opt/containerd, which belongs to the machine.
            f"[plugins.'io.containerd.internal.v1.opt']\n  path = \"{self.folder}/opt\"",
        ]
        parts += self.cri_1_7() if self.version == "1.7" else self.cri_2()
        for name, proxy in self.proxies.items():
            parts.append(
                f'[proxy_plugins.{name}]\n  type = "snapshot"\n  address = "{proxy.socket}"\n'
                f"  capabilities = {json.dumps(list(proxy.capabilities))}\n"
                f'  [proxy_plugins.{name}.exports]\n    root = "{proxy.root or self.folder / name}"'
                + ('\n    enable_remote_snapshot_annotations = "true"' if proxy.annotations else "")
            )
        return "\n".join([*parts, self.extra, ""])

    def write_network(self) -> None:
        """Write what pods that are not on the host's network get: a link to the host."""
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": "10.99.0.0/16"}]],
            "dataDir": str(self.folder / "addresses"),
        }
        network = {
            "cniVersion": "0.4.0",
            "name": "lab",
            "plugins": [{"type": "ptp", "ipam": addresses}],
        }
        (self.folder / "cni/lab.conflist").write_text(json.dumps(network))

    def sandbox_image(self) -> str:
        """Return the reference of the lab's pause image."""
        return f"{self.registries[0]}/{PAUSE}" if self.registries else f"localhost/{PAUSE}"

    def cri_1_7(self) -> list[str]:
        """Return the CRI's tables for containerd 1.7."""
        cri = "plugins.'io.containerd.grpc.v1.cri'"
        return [
            f'[{cri}]\n  sandbox_image = "{self.sandbox_image()}"\n'
            "  restrict_oom_score_adj = true\n  disable_apparmor = true",
            f'[{cri}.cni]\n  conf_dir = "{self.folder}/cni"\n  bin_dir = "{places.CNI}"',
            f'[{cri}.registry]\n  config_path = "{self.folder}/hosts"',
            f'[{cri}.containerd]\n  snapshotter = "{self.default_snapshotter}"\n'
            f'  default_runtime_name = "runc"\n  {self.annotations()}',
            *self.runtimes(f"{cri}.containerd.runtimes"),
        ]

    def annotations(self) -> str:
        """Return the CRI's setting of `names_images`."""
        return f"disable_snapshot_annotations = {str(not self.names_images).lower()}"

    def cri_2(self) -> list[str]:
        """Return the CRI's tables, and the transfer service's, for containerd 2."""
        images = "plugins.'io.containerd.cri.v1.images'"
        runtime = "plugins.'io.containerd.cri.v1.runtime'"
        transfer = "plugins.'io.containerd.transfer.v1.local'"
        parts = [
            f'[{images}]\n  snapshotter = "{self.default_snapshotter}"\n  {self.annotations()}',
            f'[{images}.pinned_images]\n  sandbox = "{self.sandbox_image()}"',
            f'[{images}.registry]\n  config_path = "{self.folder}/hosts"',
            f"[{runtime}]\n  restrict_oom_score_adj = true\n  disable_apparmor = true",
            f'[{runtime}.cni]\n  conf_dir = "{self.folder}/cni"\n  bin_dir = "{places.CNI}"',
            f'[{runtime}.containerd]\n  default_runtime_name = "runc"',
            *self.runtimes(f"{runtime}.containerd.runtimes"),
        ]
        parts += [
            f'[{images}.runtime_platforms.{name}]\n  snapshotter = "{name}"'
            for name in self.proxies
        ]
        # To list one is to drop the default, so overlayfs is listed as well.
        parts += [
            f'[[{transfer}.unpack_config]]\n  platform = "linux/{architecture()}"\n'
            f'  snapshotter = "{name}"\n  differ = "walking"'
            for name in ("overlayfs", *self.proxies)
        ]
        return parts

    def runc(self) -> str:
        """Return what names the newer runc to a runtime handler.

        It needs a newer libc than the machine may have, and runs itself again, which a wrapper
        with another loader would break: so a copy of it is told its loader and its libraries.
        """
        if not self.newer_runc:
            return ""
        program = self.folder / "runc"
        if not program.exists():
            shutil.copy(places.LAB / "runc/usr/sbin/runc", program)
            loader = next((places.LAB / "runc").glob("usr/lib*/ld-linux-*.so.*"))
            (library,) = (places.LAB / "runc").glob("usr/lib/*/libc.so.6")
            patch: list[str | pathlib.Path] = [places.BIN / "patchelf", "--set-interpreter", loader]
            subprocess.run([*patch, "--set-rpath", library.parent, program], check=True, timeout=60)
        return f'\n    BinaryName = "{program}"'

    def runtimes(self, table: str) -> list[str]:
        """Return the runtime handlers: runc, and one per proxy snapshotter."""
        parts = []
        for name in ("runc", *self.proxies):
            chosen = "" if name == "runc" else f'\n  snapshotter = "{name}"'
            parts.append(
                f'[{table}.{name}]\n  runtime_type = "io.containerd.runc.v2"{chosen}\n'
                f'  [{table}.{name}.options]\n    Root = "{self.state}/runc"\n'
                f"    SystemdCgroup = false{self.runc()}"
            )
        return parts


def shim_sockets(bundle: pathlib.Path) -> list[pathlib.Path]:
    """Return the sockets of a container's shim, which lie in a folder of the machine."""
    said = ""
    for name in ("address", "bootstrap.json"):
        with contextlib.suppress(OSError):
            said += (bundle / name).read_text() + "\n"
    return [pathlib.Path(path) for path in re.findall(r'unix://(/[^"\s]+)', said)]


def architecture() -> str:
    """Return this machine's architecture as images name it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
