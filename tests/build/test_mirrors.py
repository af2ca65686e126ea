"""Builds through real registries as mirrors: TLS of their own, prefixes, lies, silence."""

import base64
import json
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from agent.build import layer_build
from agent.clients.registry import failures
from agent.model import images
from agent.roles import builder
from agent.store import integrity, layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from lab import places
from lab.web import certificates, registries
from tests.build import mirroring

pytestmark = pytest.mark.skipif(
    not registries.catalogue() or shutil.which("docker-registry") is None,
    reason="needs the lab's images: run the lab's setup",
)

LAYERS = registries.catalogue().get(mirroring.IMAGE, {}).get("layers", [])


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> certificates.Authority:
    return certificates.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def hosts(tmp_path, authority) -> mirroring.Hosts:
    return mirroring.Hosts(tmp_path / "certs.d", authority)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    with registries.Registry(tmp_path_factory.mktemp("upstream")) as running:
        yield running


@pytest.fixture
def store(tmp_path):
    writer.create(tmp_path / "store")
    return tmp_path / "store"


def layers_of(store) -> list[str]:
    """The blobs of the image's layers as its record has them, under the registry's own name."""
    assert list(integrity.check(layout.Layout(store))) == []
    name = f"{mirroring.REGISTRY}/{mirroring.IMAGE}"
    found = direct_reader.Reader(layout.Layout(store)).image(images.parse_reference(name))
    assert found is not None
    assert found.ref == name
    return [layer.digest for layer in found.platforms[0].layers]


def test_a_mirror_with_an_authority_and_client_certificates(
    tmp_path, hosts, authority, store
) -> None:
    """And nothing else can be reached, as in a cluster without the internet."""
    with mirroring.secure(tmp_path / "mirror", authority) as mirror:
        hosts.write(f'[host."{mirror.url}"]\n{mirroring.TLS}')

        mirroring.build(store, [hosts.folder])

        assert len(mirror.layer_gets()) == len(LAYERS)
    assert layers_of(store) == LAYERS
    records = [
        json.loads(path.read_bytes()) for path in layout.Layout(store).layer_records.rglob("*.json")
    ]
    # Whose they are the registry's name says. Whether they are public it alone could say.
    assert len(records) == len(LAYERS)
    for record in records:
        assert record["sources"] == [f"{mirroring.REGISTRY}/lab/layers2"]
        assert not record.get("public")


def test_the_command_line_and_a_builder_take_the_same_folder(
    tmp_path, hosts, authority, store
) -> None:
    """Both connect to nothing on loopback, but for the hosts that the folder names."""
    image = f"{mirroring.REGISTRY}/{mirroring.IMAGE}"
    command = [sys.executable, "-c", "from agent.cli.entry import main; main()"]
    with mirroring.secure(tmp_path / "mirror", authority) as mirror:
        dead = "127.0.0.1:9"
        hosts.write(f'server = "{mirror.url}"\n{mirroring.TLS}[host."http://{dead}"]\n')
        arguments = ["create", "mirrored", "--image", image, "--store", str(store)]
        done = subprocess.run(
            [*command, *arguments, "--mirrors", str(hosts.folder)],
            check=True,
            timeout=100,
            stderr=subprocess.PIPE,
            text=True,
        )
        writer.create(tmp_path / "another")
        status = builder.main(
            [
                f"--store={tmp_path / 'another'}",
                "--cache-id=imc-mirrored",
                "--name=c",
                f"--image={image}",
                "--capacity-gib=20",
                f"--mirrors={hosts.folder}",
            ]
        )

    assert layers_of(store) == LAYERS
    (line,) = [each for each in done.stderr.splitlines() if "the next one is asked" in each]
    assert f"{image}: {dead}: Cannot connect" in line
    assert status == 0
    assert layers_of(tmp_path / "another") == LAYERS


def test_a_mirror_that_is_shown_no_certificate_says_so(tmp_path, hosts, authority, store) -> None:
    with mirroring.secure(tmp_path / "mirror", authority) as mirror:
        hosts.write(f'server = "{mirror.url}"\nca = "ca.crt"\n')

        with pytest.raises(
            failures.RequestRefused, match="wants another certificate of its client"
        ):
            mirroring.build(store, [hosts.folder])


def test_keys_of_a_config_map_do_as_well(tmp_path, hosts, authority, store) -> None:
    """As the kubelet mounts them: links to a folder that it replaces."""
    with mirroring.secure(tmp_path / "mirror", authority) as mirror:
        hosts.write(f'server = "{mirror.url}"\n{mirroring.TLS}')
        flat = tmp_path / "flat"
        (flat / "..2026").mkdir(parents=True)
        (flat / "..data").symlink_to("..2026")
        for path in (hosts.folder / mirroring.REGISTRY).iterdir():
            key = f"{mirroring.REGISTRY}__{path.name}"
            (flat / "..2026" / key).write_bytes(path.read_bytes())
            (flat / key).symlink_to(f"..data/{key}")

        mirroring.build(store, [flat])

    assert layers_of(store) == LAYERS


def test_a_project_of_a_mirror(tmp_path, hosts, store) -> None:
    storage = mirroring.below("dockerhub-proxy", tmp_path / "storage")
    with registries.Registry(tmp_path / "mirror", storage=storage, readonly=True) as mirror:
        hosts.write(
            f'server = "{mirror.url}/v2/dockerhub-proxy"\noverride_path = true\n'
            'capabilities = ["pull", "resolve"]\n'
        )

        mirroring.build(store, [hosts.folder])

        assert {each.repository for each in mirror.requests()} == {"dockerhub-proxy/lab/layers2"}
    assert layers_of(store) == LAYERS


def test_a_rewrite_of_k3s(tmp_path, store) -> None:
    storage = mirroring.below("copies", tmp_path / "storage")
    with registries.Registry(
        tmp_path / "mirror", storage=storage, readonly=True, users={"bob": "secret"}
    ) as mirror:
        said = {
            "mirrors": {
                mirroring.REGISTRY: {
                    "endpoint": [mirror.url],
                    "rewrite": {"^lab/(.*)$": "copies/lab/$1"},
                }
            },
            "configs": {mirror.address: {"auth": {"username": "bob", "password": "secret"}}},
        }
        path = tmp_path / "registries.yaml"
        path.write_text(json.dumps(said))

        mirroring.build(store, [path])

    assert layers_of(store) == LAYERS


def test_a_pull_through_cache_of_the_registry(tmp_path, hosts, upstream, store) -> None:
    mark = upstream.mark()
    with registries.Registry(
        tmp_path / "mirror", storage=tmp_path / "storage", upstream=upstream.url
    ) as mirror:
        hosts.write(f'server = "{mirror.url}"\n')

        mirroring.build(store, [hosts.folder])

        assert len(mirror.layer_gets()) == len(LAYERS)
    # It reads a blob twice at times: for the client, and for its own storage.
    assert {each.reference for each in upstream.layer_gets(mark)} == set(LAYERS)
    assert layers_of(store) == LAYERS


def test_a_mirror_that_has_not_got_it(tmp_path, hosts, upstream, store) -> None:
    with registries.Registry(tmp_path / "mirror", storage=tmp_path / "storage") as mirror:
        hosts.write(f'server = "{upstream.url}"\n[host."{mirror.url}"]\n')

        mirroring.build(store, [hosts.folder])

        assert {each.status for each in mirror.requests()} == {404}
    assert layers_of(store) == LAYERS


def lying_storage(folder):
    """The lab's storage with other bytes, of the same length, in the image's layers."""
    storage = mirroring.below("lab", folder)
    root = storage / "docker/registry/v2"
    lab = places.STORAGE / "docker/registry/v2"
    (root / "repositories/lab").unlink()
    shutil.copytree(lab / "repositories/lab/layers2", root / "repositories/lab/layers2")
    (root / "blobs").unlink()
    wanted = registries.catalogue()[mirroring.IMAGE]
    for digest in (wanted["manifest"], wanted["config"], *wanted["layers"]):
        path = registries.stored(digest)
        copy = root / "blobs" / path.relative_to(lab / "blobs")
        copy.parent.mkdir(parents=True)
        data = path.read_bytes()
        copy.write_bytes(bytes(len(data)) if digest in wanted["layers"] else data)
    return storage


def test_a_mirror_whose_layers_are_something_else(tmp_path, hosts, upstream, store) -> None:
    storage = lying_storage(tmp_path / "storage")
    with registries.Registry(tmp_path / "mirror", storage=storage, readonly=True) as mirror:
        hosts.write(f'server = "{upstream.url}"\n[host."{mirror.url}"]\n')

        mirroring.build(store, [hosts.folder])

        assert len(mirror.layer_gets()) == len(LAYERS)
    assert layers_of(store) == LAYERS


def test_nor_is_it_built_where_no_other_has_it(tmp_path, hosts, store) -> None:
    storage = lying_storage(tmp_path / "storage")
    with registries.Registry(tmp_path / "mirror", storage=storage, readonly=True) as mirror:
        hosts.write(f'server = "{mirror.url}"\n')

        with pytest.raises(layer_build.LayerMismatch):
            mirroring.build(store, [hosts.folder])


def test_a_mirror_that_hangs(hosts, upstream, store) -> None:
    """It takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        taken = []

        def take() -> None:
            with silent:
                try:
                    while True:
                        taken.append(silent.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take)
        thread.start()
        hosts.write(
            f'server = "{upstream.url}"\n[host."http://127.0.0.1:{silent.getsockname()[1]}"]\n'
        )
        try:
            mirroring.build(store, [hosts.folder], host_timeout=1.0)
        finally:
            silent.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in taken:
                each.close()

    assert len(taken) == 1
    assert layers_of(store) == LAYERS


def test_a_registrys_password_goes_to_the_registry_alone(tmp_path, hosts, store) -> None:
    config = tmp_path / "config.json"
    auth = base64.b64encode(b"alice:secret").decode()
    config.write_text(json.dumps({"auths": {mirroring.REGISTRY: {"auth": auth}}}))
    with registries.Registry(tmp_path / "mirror", users={"alice": "secret"}) as mirror:
        hosts.write(f'server = "{mirror.url}"\n')

        with pytest.raises(failures.AccessDenied, match="without credentials"):
            mirroring.build(store, [hosts.folder], docker_configs=[config])

        config.write_text(json.dumps({"auths": {mirror.address: {"auth": auth}}}))
        mirroring.build(store, [hosts.folder], docker_configs=[config])
    assert layers_of(store) == LAYERS


def test_where_nothing_can_be_reached_each_hosts_reason_is_said(
    tmp_path, hosts, authority, store
) -> None:
    mirror = mirroring.secure(tmp_path / "mirror", authority)
    with mirror:
        pass  # its port is free again
    hosts.write(f'[host."{mirror.url}"]\n{mirroring.TLS}')

    with pytest.raises(failures.RegistryUnreachable) as caught:
        mirroring.build(store, [hosts.folder], deadline=1.0)

    assert f"{mirror.address}: Cannot connect" in str(caught.value)
    assert f"{mirroring.REGISTRY}: Cannot connect" in str(caught.value)
