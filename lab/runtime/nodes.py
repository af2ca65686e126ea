"""A node: uimgacc's snapshotter and agent as real commands beside a real containerd."""

import contextlib
import json
import os
import pathlib
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from lab import places, polling, processes
from lab.runtime import containerds
from lab.web import registries

COMMAND = pathlib.Path(sys.executable).with_name("uimgacc")


class Node:
    """A containerd with uimgacc plugged in, over one store; a context manager.

    `pods` is the folder of pod manifests that the agent watches, unless `source` has
    other flags that say where pods come from. `root` is the snapshotter's folder.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        registry: registries.Registry,
        store: pathlib.Path,
        *,
        version: str = places.NEWEST,
        source: Sequence[str | os.PathLike[str]] = (),
        agent_environment: Mapping[str, str] | None = None,
        root: pathlib.Path | None = None,
    ) -> None:
        self.folder = folder
        self.pods = folder / "pods"
        self.pods.mkdir(parents=True)
        self.root = root or folder / "root"
        self.socket = folder / "s.sock"
        self.port = processes.free_port()
        environment = {"PATH": f"{places.BIN}{os.pathsep}{os.environ['PATH']}"}
        self.snapshotter = processes.Process(
            [
                COMMAND,
                "snapshotter",
                "--root",
                self.root,
                "--address",
                self.socket,
                "--store",
                store,
            ],
            folder / "snapshotter.log",
            **environment,
        )
        self.containerd = containerds.Containerd(
            version,
            registries=[registry.address],
            snapshotter_socket=self.socket,
            snapshotter_root=self.root,
            folder=folder / "c",
        )
        source = source or ("--pods", self.pods)
        self.agent = processes.Process(
            [
                *(COMMAND, "agent", *source, "--store", store),
                *("--containerd", self.containerd.address, "--state", folder / "agent"),
                *("--listen", f"127.0.0.1:{self.port}"),
            ],
            folder / "agent.log",
            **environment,
            **(agent_environment or {}),
        )

    def __enter__(self) -> "Node":
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.start_snapshotter()
            (self.folder / "c").mkdir()
            self.containerd.start()
            self.start_agent()
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start_snapshotter(self) -> None:
        """Start the snapshotter; return when it answers, also to a containerd that runs."""
        self.snapshotter.start()
        self.snapshotter.wait_for_socket(str(self.socket))
        if not self.containerd.process.has_ended:
            self.containerd.wait_for_proxy("uimgacc")

    def start_agent(self) -> None:
        """Start the agent; return when it is ready."""
        self.agent.start()
        self.agent.wait_for_socket(("127.0.0.1", self.port))
        deadline, pace = time.monotonic() + 90, polling.Pace(0.05)
        while not self.is_ready():
            if self.agent.has_ended or time.monotonic() > deadline:
                raise processes.LabError(f"the agent is not ready:\n{self.agent.said()}")
            pace.pause()

    def is_ready(self) -> bool:
        """Whether the agent's /readyz says so."""
        try:
            self.get("/readyz")
        except OSError:
            return False
        return True

    def get(self, path: str) -> str:
        """What the agent's web server answers."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """The value of one of the agent's metrics, summed over its labels."""
        lines = self.get("/metrics").splitlines()
        own = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in own)

    def schedule(self, manifest: dict[str, Any]) -> pathlib.Path:
        """Put a pod's manifest into the agent's folder, whole at once; the file."""
        target = self.pods / f"{manifest['metadata']['name']}.json"
        draft = self.folder / "draft"
        draft.write_text(json.dumps(manifest))
        draft.rename(target)
        return target

    def close(self) -> None:
        """End it all."""
        self.agent.end()
        self.containerd.close()
        self.snapshotter.end()
        processes.unmount_below(self.folder)
