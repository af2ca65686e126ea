"""Builds of the lab's images from a real registry server, checked to the last byte."""

import asyncio
import base64
import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from agent.build import cache_build, layer_build
from agent.clients.registry import connections, failures
from agent.model import images
from agent.roles import builder
from agent.store import integrity, layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from lab import places, services
from lab.web import registries
from tests.containerd import conftest as containerds
from tests.containerd import test_fidelity, trees

pytestmark = pytest.mark.skipif(
    not registries.catalogue() or shutil.which("docker-registry") is None,
    reason="needs the lab's images: run the lab's setup",
)


LARGE = "lab/large:1"

folder = containerds.folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with services.Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def build(store: pathlib.Path, server: services.Registry, *names: str, **settings):
    options = connections.Options(plain_http=frozenset({server.address}), deadline=20.0)
    request = cache_build.Request(
        cache_id="imc-real",
        name="real",
        references=tuple(images.parse_reference(f"{server.address}/{name}") for name in names),
        platforms=(builder.own_platform(),),
        capacity=20 << 30,
    )
    return asyncio.run(
        builder.build(builder.Settings(store=store, registries=options, **settings), request)
    )


@pytest.fixture(params=["lz4", "none"])
def store(request, tmp_path) -> pathlib.Path:
    writer.create(tmp_path / "store", compression=request.param)
    return tmp_path / "store"


FORMS = ("gzip", "zstd", "plain", "estargz", "docker", "multi", "odd", "layers127")


def test_every_form_of_image_is_built_soundly(store, server) -> None:
    record = build(store, server, *(f"lab/{form}:1" for form in FORMS))

    reader = direct_reader.Reader(layout.Layout(store))
    assert list(integrity.check(layout.Layout(store))) == []
    assert len(record.images) == len(FORMS)
    for image in record.images:
        found = reader.image(images.parse_reference(image.ref))
        assert found is not None
        wanted = registries.catalogue()[image.ref.partition("/")[2]]
        assert found.target == wanted["manifest"]
        assert [one.digest for one in found.platforms[0].layers] == wanted["layers"]
        assert [one.diff_id for one in found.platforms[0].layers] == wanted["diff_ids"]


def test_a_second_build_fetches_no_layer(tmp_path, server) -> None:
    writer.create(tmp_path / "store")
    build(tmp_path / "store", server, "lab/layers40:1")
    mark = server.mark()

    build(tmp_path / "store", server, "lab/layers40:1")

    assert server.layer_gets(mark) == []


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("sparse", "containerd does not unpack it either"),
        ("contiguous", "containerd does not unpack it either"),
        ("link", "the hard link link-do"),
    ],
)
def test_what_containerd_refuses_is_refused(tmp_path, server, why, words) -> None:
    writer.create(tmp_path / "store")

    with pytest.raises(layer_build.LayerUnusable, match=words):
        build(tmp_path / "store", server, f"lab/refused-{why}:1")


def test_basic_authorization_with_a_docker_config(tmp_path) -> None:
    writer.create(tmp_path / "store")
    config = tmp_path / "config.json"
    with services.Registry(tmp_path / "registry", users={"alice": "secret"}) as server:
        auth = base64.b64encode(b"alice:secret").decode()
        config.write_text(json.dumps({"auths": {server.address: {"auth": auth}}}))

        with pytest.raises(failures.AccessDenied, match="without credentials"):
            build(tmp_path / "store", server, "lab/gzip:1")
        build(tmp_path / "store", server, "lab/gzip:1", docker_configs=(config,))

    assert list(integrity.check(layout.Layout(tmp_path / "store"))) == []


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Prints the most memory, in KiB, of a command or of any process that it waited for.

A process of its own: Linux counts what a parent holds at the fork as its child's."""


@pytest.fixture(scope="module")
def large(tmp_path_factory, server) -> tuple[pathlib.Path, int]:
    """A store with the large image, and the most memory in KiB that its build took."""
    store = tmp_path_factory.mktemp("large") / "store"
    command = [
        *(sys.executable, "-c", "from agent.cli.entry import main; main()"),
        *("create", "large", "--image", f"{server.address}/{LARGE}"),
        *("--plain-http", server.address, "--store", str(store), "--json"),
    ]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], check=True, stdout=subprocess.PIPE, timeout=300
    )
    return store, int(measured.stdout)


@pytest.mark.timeout(400)
def test_memory_is_bounded(large) -> None:
    assert 10 * 1024 < large[1] < 300 * 1024


@pytest.mark.root
@pytest.mark.timeout(600)
def test_the_tree_of_the_large_image_is_that_of_the_ordinary_unpack(large, server, folder) -> None:
    node = containerds.Node(places.NEWEST, folder, server, large[0])
    started = time.time_ns()
    with contextlib.contextmanager(containerds.opened)(node):
        mark = server.mark()
        ours = test_fidelity.pulled_tree(node, LARGE, "uimgacc", folder / "ours")
        assert server.layer_gets(mark) == []
        theirs = test_fidelity.pulled_tree(node, LARGE, "overlayfs", folder / "theirs")

    assert len(theirs) > 20_000
    assert trees.differences(theirs, ours, unpacked_after=started) == []
