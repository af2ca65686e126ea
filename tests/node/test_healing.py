"""What is left after something has gone away is put right without anybody's help."""

import signal

import pytest

from tests.containerd import test_hanging_store as hanging_stores
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

hanging = hanging_stores.hanging


def lose_database(node) -> None:
    """The snapshotter comes back with nothing that it knew."""
    node.snapshotter.end(signal.SIGKILL)
    for path in node.root.glob("uimgacc.db*"):
        path.unlink()
    node.start_snapshotter()


def test_a_lost_database_is_noticed_and_images_are_made_anew(node, offline) -> None:
    node.warm_up()
    offline()
    manifest = node.manifest("pod", "lab/layers40:1")
    node.schedule(manifest)
    node.schedule(node.manifest("other", "lab/layers2:1"))
    conftest.wait_until(lambda: node.has("lab/layers40:1") and node.has("lab/layers2:1"))
    with node.client.pod(manifest) as pod:
        lose_database(node)
        conftest.wait_until(
            lambda: any("had lost" in str(line.get("outcome")) for line in node.events()),
            seconds=40,
        )
        conftest.wait_until(lambda: node.has("lab/layers40:1") and node.has("lab/layers2:1"))
        # The container that ran all the while still has its files.
        code, output = node.client.execute(pod.containers[0], ["ls", "/"])
        assert (code, "layers" in output) == (0, True)

        assert "layers" in node.run(node.manifest("again", "lab/layers40:1"), "ls", "/")
    assert "layers" in node.run(node.manifest("later", "lab/layers2:1"), "ls", "/")


def test_a_lost_database_is_noticed_by_the_next_pod_as_well(node2, offline) -> None:
    node2.warm_up()
    offline()
    node2.schedule(node2.manifest("pod", "lab/layers2:1"))
    conftest.wait_until(lambda: node2.has("lab/layers2:1"))
    lose_database(node2)
    node2.schedule(node2.manifest("next", "lab/layers2:1"))
    conftest.wait_until(lambda: node2.status("next").get("served"))

    assert "layers" in node2.run(node2.manifest("run", "lab/layers2:1"), "ls", "/")


def test_a_loss_while_the_agent_is_away_is_healed_at_its_start(node2, offline) -> None:
    node2.warm_up()
    offline()
    node2.schedule(node2.manifest("pod", "lab/layers40:1"))
    conftest.wait_until(lambda: node2.has("lab/layers40:1"))
    node2.agent.end(signal.SIGKILL)
    lose_database(node2)
    node2.start_agent()
    conftest.wait_until(lambda: node2.status("pod").get("served"))

    assert "layers" in node2.run(node2.manifest("run", "lab/layers40:1"), "ls", "/")


def test_images_of_other_snapshotters_are_left_alone(node2) -> None:
    node2.client.pull_image(node2.reference("lab/plain:1"), handler="")
    both = node2.reference("lab/layers2:1")
    node2.client.pull_image(both, handler="")
    before = node2.names()
    node2.schedule(node2.manifest("pod", "lab/layers2:1"))
    conftest.wait_until(lambda: node2.status("pod").get("served"))
    node2.agent.end()
    lose_database(node2)
    for file in node2.pods.iterdir():
        file.unlink()
    node2.start_agent()

    assert before <= node2.names()
    ordinary = node2.manifest("ordinary", "lab/layers2:1", handler="")
    assert "layers" in node2.run(ordinary, "ls", "/")


def test_images_that_the_cri_forgot_are_shown_to_it_again(folder, registry, pristine) -> None:
    """The snapshotter is away when containerd starts, as containerd's default one."""
    made = conftest.Node(folder / "n", registry, pristine)
    made.containerd.default_snapshotter = "uimgacc"
    made.agent.command += ["--default-snapshotter", "true"]
    with conftest.running(made, registry) as node:
        node.schedule(node.manifest("pod", "lab/layers2:1", handler=""))
        conftest.wait_until(lambda: node.has("lab/layers2:1"))
        node.agent.end()
        node.snapshotter.end()
        node.containerd.restart()
        node.connect()
        assert not node.has("lab/layers2:1")
        node.start_snapshotter()
        node.start_agent()

        conftest.wait_until(lambda: node.has("lab/layers2:1"))


def test_a_hanging_store_stops_nothing_but_new_registrations(
    folder, registry, hanging, offline
) -> None:
    made = conftest.Node(folder / "n", registry, hanging.path)
    with conftest.running(made, registry) as node:
        node.warm_up()
        node.schedule(node.manifest("before", "lab/layers2:1"))
        conftest.wait_until(lambda: node.has("lab/layers2:1"))
        conftest.wait_until(lambda: node.metric("uimgacc_node_capable") == 1)
        hanging.stop()
        node.schedule(node.manifest("during", "lab/layers40:1"))
        conftest.wait_until(lambda: "does not answer" in node.status("during").get("sentence", ""))
        conftest.wait_until(lambda: node.metric("uimgacc_node_capable") == 0, seconds=40)
        assert node.metric("uimgacc_store_healthy") == 0
        assert node.is_ready()
        hanging.go_on()
        conftest.wait_until(lambda: node.has("lab/layers40:1"), seconds=40)
        conftest.wait_until(lambda: node.metric("uimgacc_node_capable") == 1)
        # What is on the store is not touched from here: it must be ended while FUSE answers.
        node.agent.end()
