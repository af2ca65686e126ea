"""The commands of docs/install/uninstall.md that take off the nodes what agents wrote there."""

import os
import pathlib
import re
import subprocess

from agent.clients.kube import rest_client
from lab import places
from tests.kube import apis, servers

# Not on a cluster: the commands change every node.
pytestmark = servers.needs_own

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs/install/uninstall.md"


def test_the_documented_commands_leave_nothing_of_ours_on_any_node(
    api: apis.Api, tmp_path: pathlib.Path
) -> None:
    others = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is"}
    twins = {f"handler.uimgacc.io/uimgacc-{name}": "true" for name in ("nvidia", "kata-qemu")}
    labels = {"uimgacc": "true", "uimgacc.io/handler": "true", "zone": "a", **twins}
    notes = {"uimgacc.io/generation": "3", "uimgacc.io/saved": "{}", "example.com/x": "1"}
    used = api.node(labels=labels, annotations=notes)
    unused = api.node(labels={"zone": "b"})
    ours = {"type": "ImageAcceleration", "status": "True", "reason": "r", "message": "m"}
    api.patch(
        rest_client.NODES,
        used,
        {"status": {"conditions": [others, ours]}},
        subresource="status",
        how=rest_client.Patch.STRATEGIC,
    )
    commands = re.search(r"^# 5\. .*\n((?:.+\n)+?)```", DOCUMENT.read_text(), re.MULTILINE)
    assert commands is not None

    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands[1]],
        check=True,
        env={
            **os.environ,
            "PATH": f"{places.BIN}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": str(api.kubeconfig()),
        },
        timeout=100,
    )

    node = api.get(rest_client.NODES, used)
    assert node["metadata"]["labels"] == {"zone": "a"}
    assert node["metadata"]["annotations"] == {"example.com/x": "1"}
    assert [each["type"] for each in node["status"]["conditions"]] == ["Ready"]
    assert api.get(rest_client.NODES, unused)["metadata"]["labels"] == {"zone": "b"}
