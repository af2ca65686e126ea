"""Node set-up of a real containerd in a cluster: with a slot, and until the node is back."""

import contextlib
import http.server
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator

import pytest

from agent.clients.kube import rest_client
from agent.setup.slots import turns
from lab import processes
from tests.containerd import test_keeping
from tests.image import nodes
from tests.kube import apis, conftest

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(300)]

api_loop = conftest.api_loop
api_access = conftest.api_access
api = conftest.api

SLOT = "uimgacc-setup-slot-0"


class Agent:
    """An agent as node set-up sees it: an answer at /readyz."""

    def __init__(self) -> None:
        self.is_ready = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b"" if outer.is_ready else b"containerd: not connected yet"
                self.send_response(200 if outer.is_ready else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def serving(self) -> Iterator["Agent"]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class Member:
    """A node of a cluster with its node set-up; the slots are `count`."""

    def __init__(self, machine: test_keeping.Machine, api: apis.Api, agent: Agent) -> None:
        self.machine = machine
        self.api = api
        self.agent = agent
        # containerd's configuration names its socket as this machine has it, not the node's root.
        socket = machine.containerd.address
        place = machine.folder / pathlib.Path(socket).relative_to("/")
        place.parent.mkdir(parents=True)
        place.symlink_to(os.path.relpath(socket, place.parent))
        self.name = api.node()
        self.stamp = machine.folder / "stamp"
        self.ready("True")

    def ready(self, status: str) -> None:
        """What the kubelet reports."""
        conditions = [{"type": "Ready", "status": status, "message": "as the test wants"}]
        self.api.patch(
            rest_client.NODES,
            self.name,
            {"status": {"conditions": conditions}},
            subresource="status",
            how=rest_client.Patch.STRATEGIC,
        )

    def command(self, *arguments: str) -> list[str]:
        return self.machine.command(
            self.machine.restart,
            f"--node={self.name}",
            "--slots=1",
            "--new-node-seconds=0",
            "--containerd-binary=/usr/bin/containerd",
            f"--system-namespace={self.api.namespace}",
            f"--kubeconfig={self.api.kubeconfig()}",
            *arguments,
        )

    @contextlib.contextmanager
    def keeping(self) -> Iterator[subprocess.Popen[bytes]]:
        """Node set-up, as the DaemonSet has it."""
        arguments = [f"--keep={self.stamp}", "--every=0.1", f"--agent-address={self.agent.address}"]
        with self.machine.log.open("w") as log:
            keeper = subprocess.Popen(self.command(*arguments), stdout=log, stderr=log)
        try:
            yield keeper
        finally:
            processes.kill(keeper.pid)
            keeper.wait()

    def look(self) -> None:
        """Have node set-up look now: a file has changed."""
        config = self.machine.containerd.config
        config.write_text(config.read_text())

    def holder(self) -> str:
        lease = self.api.get(rest_client.LEASES, SLOT, namespace=self.api.namespace)
        return str(lease["spec"].get("holderIdentity") or "")

    def hold(self, node: str) -> None:
        """Have another node hold the slot, or none."""
        where = {"namespace": self.api.namespace}
        with contextlib.suppress(apis.RefusedError):
            labels = {"uimgacc.io/setup-slot": "true"}
            body = {"metadata": {"name": SLOT, "labels": labels}, "spec": {}}
            self.api.create(rest_client.LEASES, body, **where)
        self.api.patch(rest_client.LEASES, SLOT, {"spec": {"holderIdentity": node}}, **where)


@pytest.fixture
def member(api: apis.Api) -> Iterator[Member]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="k"))
    try:
        with test_keeping.Machine(folder) as machine, Agent().serving() as agent:
            yield Member(machine, api, agent)
    finally:
        shutil.rmtree(folder)


def test_containerd_is_changed_in_turn_and_the_next_node_waits_until_this_one_is_back(
    member: Member,
) -> None:
    machine = member.machine
    before = machine.containerd.config.read_text()
    member.hold("lost")
    with member.keeping() as keeper:
        # Agent and snapshotter may start; containerd is as it was.
        nodes.wait_until(member.stamp.exists)
        assert machine.said(f"of 1 slots, {SLOT} has lost for") == 1
        nodes.wait_until(lambda: test_keeping.resident(keeper.pid) < 8 << 20)
        assert (machine.restarts, machine.containerd.config.read_text()) == (0, before)
        assert not list(machine.folder.glob("conf.d/*uimgacc*"))

        member.hold("")
        member.look()
        nodes.wait_until(lambda: machine.restarts == 1)
        assert "uimgacc" in machine.handlers()
        # Not before the agent, containerd and the kubelet are back.
        nodes.wait_until(lambda: machine.said("nothing is missing") == 1)
        assert member.holder() == member.name
        machine.containerd.stop()
        member.ready("False")
        member.agent.is_ready = True
        machine.containerd.start()
        assert member.holder() == member.name
        member.ready("True")
        nodes.wait_until(lambda: member.holder() == "")
        nodes.wait_until(lambda: test_keeping.resident(keeper.pid) < 8 << 20)
        assert not (machine.folder / turns.NOTE.relative_to("/")).exists()
        assert machine.restarts == 1

    # Undone, it takes a slot again, and waits itself: no agent is expected any more.
    member.agent.is_ready = False
    member.hold("other")
    undo = subprocess.Popen(
        member.command("--undo"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert undo.stderr is not None
    assert f"{SLOT} has other for" in undo.stderr.readline()
    assert machine.restarts == 1
    member.hold("")
    rest = undo.communicate(timeout=200)[1]
    assert (undo.returncode, machine.restarts, member.holder()) == (0, 2, ""), rest
    assert machine.containerd.config.read_text() == before


def test_a_node_that_is_not_back_is_named_in_its_slot(member: Member) -> None:
    """The process ends meanwhile, as the kubelet may end it."""
    with member.keeping():
        nodes.wait_until(lambda: member.machine.restarts == 1)
    undone = subprocess.run(
        member.command("--slot-seconds=3", "--undo"), capture_output=True, text=True, timeout=200
    )
    assert undone.returncode == 0, undone.stderr

    member.ready("False")
    failed = subprocess.run(
        member.command("--slot-seconds=3"), capture_output=True, text=True, timeout=200
    )

    assert failed.returncode == 1
    assert "keeps its slot until it is back: the node is not Ready: as the test wants" in (
        failed.stderr
    )
    assert member.holder() == member.name
    lease = member.api.get(rest_client.LEASES, SLOT, namespace=member.api.namespace)
    assert "not Ready" in lease["metadata"]["annotations"]["uimgacc.io/setup-problem"]
