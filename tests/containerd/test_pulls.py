"""Pulls on real containerds: full hit, partial hit, miss, damage, no store, two namespaces."""

import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

from agent.mounts import mountinfo
from agent.store import layout
from lab import processes
from lab.web import registries
from tests import waiting
from tests.containerd import cold

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def test_a_stored_image_is_pulled_without_fetching_a_layer(node2) -> None:
    for name in ("lab/layers2:1", "lab/layers40:1", "lab/layers127:1"):
        assert node2.pull(name) == 0
        assert "layers" in node2.run(name, "ls", "/")
        node2.forget(name)


def test_by_digest(node2) -> None:
    name = f"lab/layers2@{registries.catalogue()['lab/layers2:1']['manifest']}"

    assert node2.pull(name) == 0
    assert "layers" in node2.run(name, "ls", "/")


def test_an_image_that_is_not_in_the_store_is_pulled_as_ever(node) -> None:
    assert node.pull("lab/estargz:1") > 0
    assert node.run("lab/estargz:1", "echo", "runs") == "runs\n"


@pytest.mark.parametrize("local", [True, False])
def test_a_client_that_unpacks_by_itself_is_served_as_overlayfs_would(node, local) -> None:
    """`ctr --local`, and every ctr of 1.7, send no label: there nothing may be remote."""
    node.pull("lab/layers2:1", local=local)

    assert node.run("lab/layers2:1", "echo", "runs") == "runs\n"


def test_a_partial_hit_fetches_only_what_is_missing(fragile, store) -> None:
    image = registries.catalogue()["lab/layers40:1"]
    where = layout.Layout(store)
    for path in (where.root / "meta" / "chains").rglob("*.json"):
        if image["diff_ids"][-1] in path.read_text():
            path.unlink()

    assert fragile.pull("lab/layers40:1") == 1
    assert "layers" in fragile.run("lab/layers40:1", "ls", "/")


@pytest.mark.parametrize("damage", ["layer record", "layer file", "everything"])
def test_a_damaged_store_costs_the_acceleration_and_nothing_else(fragile, store, damage) -> None:
    where = layout.Layout(store)
    lowest = registries.catalogue()["lab/layers2:1"]["diff_ids"][0]
    match damage:
        case "layer record":
            where.layer_record(lowest).write_text("{}")
        case "layer file":
            os.truncate(where.layer(lowest), 1000)
        case "everything":
            shutil.rmtree(store)

    assert fragile.pull("lab/layers2:1") == 2
    assert fragile.run("lab/layers2:1", "echo", "runs") == "runs\n"


def test_the_store_may_go_and_come_back(fragile, store) -> None:
    aside = store.with_name("aside")
    store.rename(aside)
    assert fragile.pull("lab/layers2:1") == 2
    fragile.forget("lab/layers2:1")
    aside.rename(store)

    assert fragile.pull("lab/layers2:1") == 0


def test_two_namespaces_share_layers_and_the_last_one_removes_them(node2) -> None:
    assert node2.pull("lab/layers40:1", namespace="one") == 0
    assert node2.pull("lab/layers40:1", namespace="two") == 0
    assert len(node2.snapshotter.walk()) == 40
    node2.forget("lab/layers40:1", namespace="one")
    assert len(node2.snapshotter.walk()) == 40
    node2.forget("lab/layers40:1", namespace="two")

    waiting.wait_until(lambda: node2.snapshotter.walk() == {})
    wait_until_unmounted(node2)


def test_a_lower_layer_of_the_registry_and_an_upper_one_of_the_store(fragile, store) -> None:
    """Namespace one unpacked the lower layer; two has all of it from the store."""
    aside = store.with_name("aside")
    store.rename(aside)
    fragile.pull("lab/layers2:1", namespace="one")
    aside.rename(store)

    assert fragile.pull("lab/layers2:1", namespace="two") == 0
    fragile.forget("lab/layers2:1", namespace="one")
    reference = fragile.reference("lab/layers2:1")
    arguments = ("run", "--rm", "--snapshotter", "uimgacc", reference, "c", "echo", "runs")
    assert fragile.containerd.ctr(*arguments, namespace="two") == "runs\n"


def test_a_container_survives_restarts_of_everything(node, pristine) -> None:
    node.pull("lab/layers2:1")
    reference = node.reference("lab/layers2:1")
    node.containerd.ctr("run", "-d", "--snapshotter", "uimgacc", reference, "busy", "sleep", "600")
    pid = int(running(node)["busy"][1])
    with cold.Reader(pid, pristine, folders=("/bin", "/layers")) as reader:
        for disturb in (node.snapshotter.kill, node.snapshotter.stop):
            disturb()
            reader.wait_for_round()
            node.start_snapshotter()
        node.containerd.restart()
        # containerd takes its running tasks over one after the other, after it answers.
        waiting.wait_until(lambda: "RUNNING" in running(node).get("busy", ()))

        node.pull("lab/layers2:1")
        assert node.run("lab/layers2:1", "echo", "runs") == "runs\n"
        reader.wait_for_round()
    node.containerd.ctr("tasks", "kill", "-s", "KILL", "busy")


def running(node) -> dict[str, list[str]]:
    """The tasks by their names: name, process, state."""
    rows = [line.split() for line in node.containerd.ctr("tasks", "ls").splitlines()[1:]]
    return {row[0]: row for row in rows}


def test_a_pull_while_the_snapshotter_is_away_fails_and_the_next_one_works(node2) -> None:
    node2.snapshotter.kill()
    with pytest.raises(processes.LabError, match=r"(?i)unavailable|connect"):
        node2.pull("lab/layers2:1")
    node2.start_snapshotter()

    assert node2.pull("lab/layers2:1") == 0


def give_up_pull(node, name: str, *, namespace: str, seconds: float) -> None:
    """A pull that is interrupted on its way, unless it has been quick."""
    containerd = node.containerd
    command = [
        *(containerd.binaries / "ctr", "-a", containerd.address, "-n", namespace),
        *("images", "pull", "--plain-http", "--snapshotter=uimgacc", node.reference(name)),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def test_fifty_pulls_at_once_while_images_are_removed_and_pulls_given_up(node2) -> None:
    """None fails: neither for what another one removes, nor for what one has left half done."""
    names = ("lab/layers2:1", "lab/layers40:1", "lab/gzip:1", "lab/zstd:1", "lab/docker:1")
    namespaces = [f"n{number}" for number in range(7)]

    def act(index: int) -> None:
        name, namespace = names[index % len(names)], namespaces[index % len(namespaces)]
        if index % 6 == 5:
            give_up_pull(node2, name, namespace=namespace, seconds=index / 50)
            return
        node2.pull(name, namespace=namespace)
        # Of the two who may have the same image of a namespace only one removes it.
        if index % 3 == 0:
            node2.forget(name, namespace=namespace)

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        list(pool.map(act, range(50)))
    for namespace in namespaces:
        for name in names:
            node2.pull(name, namespace=namespace)
    for namespace in namespaces:
        for name in names:
            node2.forget(name, namespace=namespace)
        # containerd keeps for a day what it has of a pull that was given up.
        for lease in node2.containerd.ctr("leases", "ls", "-q", namespace=namespace).split():
            node2.containerd.ctr("leases", "rm", "--sync", lease, namespace=namespace)

    waiting.wait_until(lambda: node2.snapshotter.walk() == {})
    wait_until_unmounted(node2)


def wait_until_unmounted(node) -> None:
    """Return when no layer is mounted: what anybody on the machine uses at first goes later."""
    prefix = str(pathlib.Path(node.snapshotter.root) / "layers")

    def mounted() -> list[str]:
        return [each.target for each in mountinfo.read() if each.target.startswith(prefix)]

    waiting.wait_until(lambda: not mounted(), seconds=90)
