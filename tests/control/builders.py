"""Plays the parts of Kubernetes that run Jobs: job controller, kubelet, garbage collector.

A Job's container is a real process: the command with the Job's own arguments and variables,
files of its Secret, no environment but what a container has. Paths that are of the
container are put elsewhere; all else is as it stands in the Job.
"""

import base64
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from agent.clients.kube import rest_client
from agent.control.signing import key_objects
from agent.model import keys
from lab import places, processes
from tests.kube import apis

Object = dict[str, Any]

COMMAND = (sys.executable, "-c", "from agent.cli.entry import main; main()")


class Pod:
    """One pod of a Job, with its process."""

    def __init__(self, job: Object, folder: pathlib.Path, command: Sequence[str]) -> None:
        self.name = f"{job['metadata']['name']}-pod"
        self.spec = job["spec"]["template"]["spec"]
        (self.container,) = self.spec["containers"]
        self.folder = folder
        self.command = command
        self.log = folder / "log"
        self.message = folder / "message"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, files: dict[str, bytes]) -> None:
        """Start the container; `files` are those of its Secret."""
        secrets, scratch = self.folder / "secrets", self.folder / "scratch"
        for folder in (secrets, scratch):
            folder.mkdir(parents=True)
        for name, content in files.items():
            (secrets / name).write_bytes(content)
        self.message.touch()
        elsewhere = {
            "/run/uimgacc/secrets": secrets,
            "/tmp": scratch,
            "/dev/termination-log": self.message,
        }
        user = self.spec["securityContext"]["runAsUser"]
        for path in (scratch, self.message):
            shutil.chown(path, user, user)
        arguments = []
        for argument in self.container["args"]:
            flag, equals, value = argument.partition("=")
            arguments.append(f"{flag}{equals}{elsewhere.get(value, value)}")
        own = {
            **{name: os.environ[name] for name in ("PATH", "SSL_CERT_FILE")},
            "HOME": "/",
            "PYTHONPATH": str(places.CHECKOUT),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*processes.as_user(user), *self.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=places.CHECKOUT,
                env={**self._variables(), **own},
                start_new_session=True,
            )

    def _variables(self) -> dict[str, str]:
        """The variables of the container; paths in its host's folders are where those are."""
        hosts = {
            volume["name"]: volume["hostPath"]["path"]
            for volume in self.spec["volumes"]
            if "hostPath" in volume
        }
        found = {}
        for variable in self.container.get("env", ()):
            value = variable["value"]
            for mount in self.container["volumeMounts"]:
                if value.startswith(f"{mount['mountPath']}/"):
                    value = hosts[mount["name"]] + value.removeprefix(mount["mountPath"])
            found[variable["name"]] = value
        return found

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process and what it has started, which might go on writing to the store."""
        if self.process is None:
            return
        workers = processes.children(self.process.pid)
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        self.process.wait(30)
        for worker in workers:
            processes.kill(worker)


class Builders:
    """Runs the Jobs of one namespace.

    `deadly` are commands for the next Job of an ImageCache, by its name; `killed` are
    the Jobs whose process ended by SIGKILL.
    """

    def __init__(self, api: apis.Api, namespace: str, folder: pathlib.Path) -> None:
        self.api = api
        self.namespace = namespace
        self.folder = folder
        self.deadly: dict[str, Sequence[str]] = {}
        self.killed: list[str] = []
        self.pods: dict[str, Pod] = {}
        self.started: list[str] = []
        self.ended_at_start = ""
        """The output of a build that did not get as far as to write its termination message."""
        self.held = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="builders", daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, with all pods."""
        self._ended.set()
        self._thread.join(60)
        for pod in self.pods.values():
            pod.kill()
        if self.error is not None:
            raise self.error

    def jobs(self) -> list[Object]:
        """The Jobs as they are."""
        return self.api.list(rest_client.JOBS, namespace=self.namespace)

    def secrets(self) -> list[str]:
        """The names of the Secrets that there are beside the Jobs, without the controller's key."""
        found = self.api.list(rest_client.SECRETS, namespace=self.namespace)
        names = [secret["metadata"]["name"] for secret in found]
        return [name for name in names if name != key_objects.SECRET]

    def _run(self) -> None:
        try:
            while not self._ended.wait(0.1):
                for job in self.jobs():
                    with contextlib.suppress(apis.RefusedError):  # gone, or changed: next time
                        self._look(job)
        except BaseException as error:  # noqa: BLE001 - it fails the test at its end
            self.error = error

    def _look(self, job: Object) -> None:
        name = job["metadata"]["name"]
        pod = self.pods.get(name)
        if job["metadata"].get("deletionTimestamp"):
            self._remove(job)
        elif self._is_over(job) or job["spec"].get("suspend") or self.held.is_set():
            return
        elif pod is None:
            self._begin(job)
        elif pod.process is not None and pod.process.poll() is not None:
            self._end(job, pod)

    def _is_over(self, job: Object) -> bool:
        conditions = job.get("status", {}).get("conditions", ())
        return any(each["type"] in ("Complete", "Failed") for each in conditions)

    def _begin(self, job: Object) -> None:
        name = job["metadata"]["name"]
        folder = self.folder / f"{name}-{len(self.started)}"
        folder.mkdir(mode=0o755)
        cache = job["metadata"]["annotations"][keys.JOB_OWNER].partition("/")[2]
        pod = Pod(job, folder, self.deadly.get(cache, COMMAND))
        files = {}
        for volume in pod.spec["volumes"]:
            if "secret" in volume:
                wanted = volume["secret"]["secretName"]
                found = self.api.get(rest_client.SECRETS, wanted, namespace=self.namespace)
                files = {key: base64.b64decode(value) for key, value in found["data"].items()}
        body = {
            "metadata": {
                "name": pod.name,
                "labels": {
                    **job["spec"]["template"]["metadata"]["labels"],
                    "batch.kubernetes.io/job-name": name,
                },
            },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "containers": [{"name": "build", "image": pod.container["image"]}],
            },
        }
        self.api.create(rest_client.PODS, body, namespace=self.namespace)
        self.pods[name] = pod
        self.started.append(name)
        pod.start(files)
        self.deadly.pop(cache, None)
        self._status(name, {"startTime": _now(), "active": 1})

    def _end(self, job: Object, pod: Pod) -> None:
        name = job["metadata"]["name"]
        assert pod.process is not None
        code = pod.process.returncode
        self.killed += [name] * (code == -signal.SIGKILL)
        if code > 0 and not pod.message.read_text():
            # A build that fails says why in its message.
            output = pod.log.read_text()[-4000:]
            self.ended_at_start = f"the build {name} ended without a reason ({code}):\n{output}"
        ended = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Completed" if code == 0 else "Error",
            "message": pod.message.read_text(),
        }
        self.api.patch(
            rest_client.PODS,
            pod.name,
            {
                "status": {
                    "phase": "Succeeded" if code == 0 else "Failed",
                    "containerStatuses": [
                        {
                            "name": "build",
                            "image": "i",
                            "imageID": "",
                            "ready": False,
                            "restartCount": 0,
                            "state": {"terminated": ended},
                        }
                    ],
                }
            },
            namespace=self.namespace,
            subresource="status",
        )
        if code == 0:
            kinds, more = ("SuccessCriteriaMet", "Complete"), {"succeeded": 1}
            more["completionTime"] = _now()
        else:
            kinds, more = ("FailureTarget", "Failed"), {"failed": 1}
        conditions = [
            {
                "type": kind,
                "status": "True",
                "reason": "PodFailurePolicy" if code else "CompletionsReached",
                "message": "matching FailJob rule at index 1" if code else "done",
                "lastTransitionTime": _now(),
            }
            for kind in kinds
        ]
        self._status(name, {"active": 0, "conditions": conditions, **more})

    def _status(self, name: str, status: Object) -> None:
        self.api.patch(
            rest_client.JOBS,
            name,
            {"status": status},
            namespace=self.namespace,
            subresource="status",
        )

    def _remove(self, job: Object) -> None:
        """What the garbage collector does when a Job is deleted in the foreground."""
        name = job["metadata"]["name"]
        pod = self.pods.pop(name, None)
        if pod is not None:
            pod.kill(signal.SIGTERM)
            self.api.delete(rest_client.PODS, pod.name, namespace=self.namespace)
        self.collect(name)
        self.api.patch(
            rest_client.JOBS, name, {"metadata": {"finalizers": None}}, namespace=self.namespace
        )

    def collect(self, name: str) -> None:
        """Delete what a Job owns."""
        for secret in self.api.list(rest_client.SECRETS, namespace=self.namespace):
            owners = secret["metadata"].get("ownerReferences", ())
            if any(owner["name"] == name for owner in owners):
                self.api.delete(
                    rest_client.SECRETS, secret["metadata"]["name"], namespace=self.namespace
                )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextlib.contextmanager
def running(api: apis.Api, namespace: str, folder: pathlib.Path) -> Iterator[Builders]:
    """Builders for the time of the context."""
    made = Builders(api, namespace, folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()
