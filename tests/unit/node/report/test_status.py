import json
import pathlib
import re

import msgspec
import pytest

from agent.model import pods
from agent.mounts import mountinfo
from agent.node.pods import served_pods
from agent.node.report import status
from tests.unit.node import statuses

DOCUMENT = pathlib.Path(__file__).parents[4] / "docs/reference/status.md"
ROOT = "/var/lib/x"
# Parts whose keys are names of things: only what they map to has a shape.
OPEN = {"problems", "layers", "manifest_problems", "inputs"}


def shape(value: object, name: str = "") -> object:
    """The keys of a JSON document, and of the first element of each list."""
    if isinstance(value, dict) and name not in OPEN:
        return {key: shape(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "a mapping" if isinstance(value, dict) else "a value"


def test_the_documented_example_is_what_the_agent_writes() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    shown = statuses.busy(problem="read did not answer within 2 s", capable=False)

    assert shape(json.loads(example)) == shape(json.loads(msgspec.json.encode(shown)))


def entry(target: str, source: str = "src", kind: str = "ext4") -> mountinfo.Entry:
    return mountinfo.Entry(device=1, root="/", target=target, kind=kind, source=source, options="")


class Prober:
    store_seconds = 0.5
    verdict = statuses.capability.Verdict()


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([], ("", "")),
        ([entry("/")], ("src", "ext4")),
        ([entry("/"), entry("/mnt", "server:/a", "nfs4")], ("server:/a", "nfs4")),
        ([entry("/mnt", "server:/a", "nfs4"), entry("/")], ("server:/a", "nfs4")),
        ([entry("/"), entry("/mn", "other", "nfs4")], ("src", "ext4")),
        # What was mounted later on the same folder hides what was there.
        ([entry("/mnt", "old", "nfs4"), entry("/mnt", "new", "nfs4")], ("new", "nfs4")),
    ],
)
def test_the_stores_mount_is_the_innermost_and_latest(table, expected) -> None:
    found = status.store_of(pathlib.Path("/mnt/images"), Prober(), table)

    assert (found.source, found.kind) == expected


def test_a_store_that_the_agent_mounts_is_behind_a_link_which_is_not_followed() -> None:
    table = [entry("/"), entry("/run/x/nfs.1", "server:/a", "nfs4"), entry("/mnt", "b:/b", "nfs4")]
    found = status.store_of(pathlib.Path("/mnt/images"), Prober(), table, source="server:/a")

    assert (found.source, found.kind) == ("server:/a", "nfs4")


def test_only_layers_of_our_snapshotter_are_counted() -> None:
    table = [
        entry(f"{ROOT}/layers/aa", "/store/aa.erofs", "erofs"),
        entry(f"{ROOT}/layers-other/bb", "/store/bb.erofs", "erofs"),
        entry(f"{ROOT}/layers/cc", "tmpfs", "tmpfs"),
        entry("/elsewhere", "/store/dd.erofs", "erofs"),
    ]

    assert status.mounts_of(ROOT, table).layers == {"aa": "/store/aa.erofs"}
    assert status.mounts_of("", table) == status.Mounts(folder="", layers={})


def test_pods_come_newest_first_and_undecided_ones_are_there() -> None:
    manifest = {
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    first = served_pods.Served(pods.parse_pod(manifest))
    second = served_pods.Served(pods.parse_pod({**manifest, "metadata": {"name": "b"}}))
    found = status.pods_of({"default/a": first, "default/b": second})

    assert [pod.name for pod in found] == ["b", "a"]
    assert (found[0].outcome, found[0].served, found[0].sentence) == (None, False, "waiting")


def test_a_pod_that_is_gone_is_shown_with_its_end() -> None:
    gone = served_pods.Served(pods.Pod(namespace="d", name="a"), sentence="s", ended=statuses.NOW)
    (found,) = status.ended_of([gone])

    assert (found.name, found.sentence, found.ended) == ("a", "s", statuses.NOW)
