"""What is held and what may go. The same questions of random nodes, answered the slow way."""

import dataclasses
import datetime

import hypothesis
from hypothesis import strategies

from agent.clients.containerd import objects
from agent.model import pods, reports
from agent.mounts import mount_users
from agent.node.images import holdings, inventory

SNAPSHOTTER = "uimgacc"


def diff(number: int) -> str:
    return f"sha256:{number:064x}"


def chain(number: int) -> str:
    return f"sha256:{number + 4096:064x}"


def place(number: int) -> str:
    return diff(number).removeprefix("sha256:")[:16]


# The places of small numbers would all be 16 zeros.
def diffs(*numbers: int) -> dict[str, list[str]]:
    return {diff(number << 200): [chain(number)] for number in numbers}


def place_of(number: int) -> str:
    return place(number << 200)


def present(name: str, *chains: int, pinned: bool = False) -> inventory.Present:
    labels = {"io.cri-containerd.pinned": "pinned"} if pinned else {}
    record = objects.Image(
        name=name, target=objects.Descriptor("", f"sha256:{name}", 1), labels=labels
    )
    contents = inventory.Contents(
        manifest="m", config="c", layers=[], chain=[chain(number) for number in chains]
    )
    return inventory.Present(
        target=record.target.digest,
        records=[record],
        contents=contents,
        snapshotters=frozenset({SNAPSHOTTER}),
        since=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    )


def stock_of(snapshots=None, *, mounted=(), used=None, copied=(), **more) -> holdings.Stock:
    layers = mount_users.Layers(
        {place_of(number): number for number in mounted},
        {place_of(number): frozenset(targets) for number, targets in (used or {}).items()},
        frozenset(map(place_of, copied)),
    )
    return holdings.Stock(snapshots=snapshots or {}, layers=layers, **more)


def sentences(stock: holdings.Stock, retired: holdings.Retired, served=None) -> list[str]:
    here = holdings.candidates(stock, retired) if served is None else served
    copied = holdings.outliving(stock, retired)
    entries = holdings.held(stock, retired, here, snapshotter=SNAPSHOTTER, outliving=copied)
    return holdings.shown(entry.sentence for entry in entries)


def container(id_: str, key: str, pod: str = "", **more) -> objects.Container:
    namespace, _, name = pod.partition("/")
    labels = {"io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.name": name}
    return objects.Container(id_, SNAPSHOTTER, key, labels=labels if pod else {}, **more)


ONE = holdings.Retired(generation=3, layers=diffs(1, 2), caches=["imc-x"])


def test_a_node_without_anything_of_it_holds_nothing() -> None:
    stock = stock_of({chain(9): ""}, mounted=[9], used={9: ["/c"]}, present=[present("i", 9)])

    assert sentences(stock, ONE) == []


def test_a_layer_that_is_read_from_the_node_s_own_copy_is_not_held() -> None:
    stock = stock_of(mounted=[1, 2], used={1: ["/c"], 2: ["/c"]}, copied=[2])

    assert sentences(stock, ONE) == [f"imc-x/{diff(1 << 200)}: /c"]


def test_so_with_containers_on_it() -> None:
    snapshots = {chain(1): "", chain(2): chain(1), "c1": chain(2)}
    containers = [container("c1", "c1", "team/pod")]
    used = {1: ["/c"], 2: ["/c"]}
    stock = stock_of(snapshots, mounted=[1, 2], used=used, copied=[1], containers=containers)

    assert sentences(stock, ONE) == [f"imc-x/{diff(2 << 200)}: team/pod"]
    assert holdings.outliving(stock, ONE) == [diff(1 << 200)]


def test_a_pod_that_has_not_started_yet_holds_it() -> None:
    """Only what runs keeps a copy."""
    pod = pods.Pod(namespace="n", name="p", containers=(pods.Container(name="c", image="i"),))
    snapshots = {chain(1): ""}
    more = {"present": [present("docker.io/library/i:latest", 1)], "on_node": [pod]}
    stock = stock_of(snapshots, mounted=[1], copied=[1], **more)

    assert sentences(stock, ONE) == [f"imc-x/{diff(1 << 200)}: n/p"]


def test_a_snapshot_whose_layer_is_not_mounted_is_held_although_there_is_a_copy() -> None:
    """The copy may be removed before it is mounted: only a mount keeps it."""
    snapshots = {chain(1): "", "c1": chain(1)}
    stock = stock_of(snapshots, containers=[container("c1", "c1", "team/pod")])

    assert sentences(stock, ONE) == [f"imc-x/{diff(1 << 200)}: team/pod"]


def test_the_pod_whose_container_uses_a_layer_is_named() -> None:
    snapshots = {chain(1): "", chain(2): chain(1), "c1": chain(2)}
    stock = stock_of(snapshots, mounted=[1, 2], containers=[container("c1", "c1", "team/pod")])

    assert sentences(stock, ONE) == [
        f"imc-x/{diff(1 << 200)}: team/pod",
        f"imc-x/{diff(2 << 200)}: team/pod",
    ]


def test_a_pod_that_has_not_started_holds_the_image_it_names() -> None:
    pod = pods.Pod(
        namespace="team", name="new", containers=(pods.Container(name="c", image="app:1"),)
    )
    image = present("docker.io/library/app:1", 1, 2)
    stock = stock_of({chain(1): "", chain(2): chain(1)}, present=[image], on_node=[pod])

    assert holdings.droppable(stock, frozenset({chain(2)}), snapshotter=SNAPSHOTTER) == []
    assert [text.rpartition(": ")[2] for text in sentences(stock, ONE)] == ["team/new"] * 2


def test_an_image_that_is_one_snapshot_needs_each_of_its_layers() -> None:
    """Only its lower layer is retired: another cache has the upper one still."""
    image = present("app:1", 1, 2)
    stock = stock_of({chain(2): ""}, mounted=[1, 2], present=[image])
    retired = holdings.Retired(generation=3, layers=diffs(1))

    here = holdings.candidates(stock, retired)

    assert here == {chain(2)}
    assert holdings.droppable(stock, here, snapshotter=SNAPSHOTTER) == [image]


def test_a_pod_that_is_over_does_not() -> None:
    pod = pods.Pod(
        namespace="team",
        name="old",
        phase="Succeeded",
        containers=(pods.Container(name="c", image="app:1"),),
    )
    image = present("docker.io/library/app:1", 1, 2)
    stock = stock_of({chain(1): "", chain(2): chain(1)}, present=[image], on_node=[pod])

    assert holdings.droppable(stock, frozenset({chain(2)}), snapshotter=SNAPSHOTTER) == [image]


def test_the_sandbox_image_is_never_dropped() -> None:
    image = present("pause:1", 1, pinned=True)
    stock = stock_of({chain(1): ""}, present=[image])

    assert holdings.droppable(stock, frozenset({chain(1)}), snapshotter=SNAPSHOTTER) == []
    assert sentences(stock, ONE) == [f"imc-x/{diff(1 << 200)}: pinned image pause:1"]


def test_an_image_is_needed_by_a_container_on_another_snapshotters_copy() -> None:
    image = present("app:1", 1)
    other = objects.Container("c", "overlayfs", "c", "app:1")
    stock = stock_of({chain(1): ""}, present=[image], containers=[other])

    assert holdings.droppable(stock, frozenset({chain(1)}), snapshotter=SNAPSHOTTER) == []


def test_an_image_that_never_stood_on_our_snapshotter_is_left_alone() -> None:
    """The same layers, pulled for another snapshotter."""
    elsewhere = dataclasses.replace(present("app:1", 1), snapshotters=frozenset({"overlayfs"}))
    stock = stock_of({chain(1): ""}, present=[elsewhere])

    assert holdings.droppable(stock, frozenset({chain(1)}), snapshotter=SNAPSHOTTER) == []


def test_a_container_outside_kubernetes_is_named_by_its_mount() -> None:
    """Its snapshots are forgotten (a lost database), its overlay is not."""
    stock = stock_of({}, mounted=[1], used={1: ["/run/c/rootfs"]})

    assert sentences(stock, ONE) == [f"imc-x/{diff(1 << 200)}: /run/c/rootfs"]


def test_a_layer_that_only_an_overlay_shows_is_held() -> None:
    assert sentences(stock_of({}, used={2: ["/c"]}), ONE) == [f"imc-x/{diff(2 << 200)}: /c"]


def test_a_layer_that_was_unpacked_here_is_not_the_stores() -> None:
    stock = stock_of({chain(1): "", chain(2): chain(1)})

    assert sentences(stock, ONE, served=frozenset()) == []


def test_the_annotation_stays_small() -> None:
    many = holdings.Retired(generation=1, layers=diffs(*range(100)))
    stock = stock_of({}, mounted=range(100))
    texts = sentences(stock, many)

    assert len(texts) == 21
    assert texts[-1] == "and 80 more"


numbers = strategies.sets(strategies.integers(1, 6), max_size=6)


@strategies.composite
def nodes(draw):
    """A node whose snapshots form chains: each on the one before, or one for all of them."""
    images, snapshots = [], {}
    for index in range(draw(strategies.integers(0, 3))):
        height = draw(strategies.integers(1, 3))
        tops = [10 * (index + 1) + level for level in range(height)]
        parent = ""
        for number in tops[-1:] if draw(strategies.booleans()) else tops:
            snapshots[chain(number)] = parent
            parent = chain(number)
        images.append(present(f"image{index}", *tops))
    containers = []
    for index, image in enumerate(images):
        if draw(strategies.booleans()):
            snapshots[f"c{index}"] = image.contents.top
            containers.append(container(f"c{index}", f"c{index}", f"ns/p{index}"))
    known = [
        int(name.removeprefix("sha256:"), 16) - 4096
        for image in images
        for name in image.contents.chain
    ]
    retired = draw(strategies.sets(strategies.sampled_from(known or [1])))
    mounted = draw(strategies.sets(strategies.sampled_from(known or [1])))
    copied = draw(strategies.sets(strategies.sampled_from(sorted(mounted) or [1]))) & mounted
    stock = stock_of(
        snapshots, mounted=mounted, copied=copied, present=images, containers=containers
    )
    return stock, holdings.Retired(generation=1, layers=diffs(*retired))


@hypothesis.given(nodes())
def test_nothing_is_acknowledged_while_anything_is_here(given) -> None:
    stock, retired = given
    here = holdings.candidates(stock, retired)
    outliving = holdings.outliving(stock, retired)
    entries = holdings.held(stock, retired, here, snapshotter=SNAPSHOTTER, outliving=outliving)
    without = holdings.held(stock, retired, here, snapshotter=SNAPSHOTTER)

    mounted = {d for d in retired.layers if d.removeprefix("sha256:")[:16] in stock.layers.mounted}
    standing = {d for d, (c,) in retired.layers.items() if c in stock.snapshots}
    copied = {d for d in retired.layers if d.removeprefix("sha256:")[:16] in stock.layers.copied}
    # Nothing is shown to run on them.
    assert {entry.diff_id for entry in entries} == (mounted - copied) | standing
    # A copy that may go at any moment is worth nothing.
    assert {entry.diff_id for entry in without} == mounted | standing


@hypothesis.given(nodes())
def test_what_goes_is_no_containers(given) -> None:
    stock, retired = given
    here = holdings.candidates(stock, retired)
    going = holdings.droppable(stock, here, snapshotter=SNAPSHOTTER)

    parents = {stock.snapshots[found.snapshot_key] for found in stock.containers}
    assert not parents & {image.contents.top for image in going}
    chains = {chain for found in retired.layers.values() for chain in found}
    for image in stock.present:
        idle = image.contents.top not in parents
        assert (image in going) == (idle and not chains.isdisjoint(image.contents.chain))


def test_all_who_can_read_the_node_see_no_names_of_layers_and_pods() -> None:
    snapshots = {chain(1): "", chain(2): chain(1), "c1": chain(2), "c2": chain(2)}
    running = [container("c1", "c1", "team/pod"), container("c2", "c2")]
    running[0] = dataclasses.replace(
        running[0], labels={**running[0].labels, "io.kubernetes.pod.uid": "the-uid"}
    )
    pinned = present("registry.example/secret-pause:1", 1, pinned=True)
    stock = stock_of(
        snapshots, mounted=[1, 2, 3], used={3: ["/a/path"]}, containers=running, present=[pinned]
    )
    retired = dataclasses.replace(ONE, layers=diffs(1, 2, 3))
    here = holdings.candidates(stock, retired)
    held = holdings.held(stock, retired, here, snapshotter=SNAPSHOTTER)
    entries = holdings.shown(entry.entry("store-1") for entry in held)
    others = holdings.shown(entry.entry("store-2") for entry in held)

    text = " ".join(entries)
    for name in ("team", "pod ", "c2", "secret", "/a/path", diff(1 << 200)[7:23], "sha256"):
        assert name not in text
    decoded = [reports.decode_held(entry) for entry in entries]
    assert {each.cache for each in decoded if each} == {"imc-x"}
    assert {each.holder for each in decoded if each} == {
        reports.pod_tag("the-uid"),
        "a container",
        "a pinned image",
        "a mount",
    }
    assert {each.layer for each in decoded if each} == {
        reports.layer_tag("store-1", diff_id) for diff_id in retired.layers
    }
    assert not {entry.partition(": ")[0] for entry in entries} & {
        entry.partition(": ")[0] for entry in others
    }


def test_the_pod_whose_image_volume_uses_a_layer_is_named() -> None:
    volume = "/run/containerd/io.containerd.grpc.v1.cri/image-volumes/sandbox/" + "e" * 64
    snapshots = {chain(1): "", chain(2): chain(1), volume: chain(1)}
    stock = stock_of(snapshots, containers=[container("sandbox", "", "team/pod")])

    assert f"imc-x/{diff(1 << 200)}: team/pod" in sentences(stock, ONE)
    without = dataclasses.replace(stock, containers=[])
    assert "image volume" in sentences(without, ONE)[0]
