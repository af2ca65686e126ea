"""What `make image` makes: complete, unprivileged where nobody says otherwise, of no registry."""

import hashlib
import io
import json
import pathlib
import tarfile

import pytest

from lab import places
from lab.image import oci, rootfs
from lab.runtime import cri
from tests.image import conftest
from tests.manifests import rendering

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(900)]

EVERYTHING = """
set -e
id -u
uimgacc version
mkfs.erofs -V | head -1
mount.nfs -V
nsenter --version >/dev/null
python3.13 -IS -c 'import socket'  # as the snapshotter's probe does
python3.13 -c 'import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 50)'
"""


def test_it_runs_on_a_real_containerd_as_nobody_special(client: cri.Client) -> None:
    manifest = cri.manifest("pod", conftest.NAME, command=("/bin/sh", "-c", EVERYTHING))
    with client.pod(manifest) as pod:
        codes = client.wait_for_exit(pod)
        lines = pod.output.splitlines()

    assert codes == [0], lines
    assert pod.pulled == []
    assert lines[0] == str(rootfs.USER)
    assert lines[1].startswith("uimgacc 0.")
    assert lines[2].startswith("mkfs.erofs (erofs-utils) 1.8")
    assert lines[3].startswith("mount.nfs: (linux nfs-utils 2.")
    assert lines[4] == "True"


ACR = """
import asyncio
from agent.clients.registry import acr
from agent.model import images
from apscheduler.schedulers import background

background.BackgroundScheduler()  # It renews the passwords of roles.
found = acr.Acr(["cn-hangzhou:cri-1"], acr.Options(endpoint="http://127.0.0.1:1"))
host = "team-registry.cn-hangzhou.cr.aliyuncs.com"
try:
    asyncio.run(found.credentials(images.parse_reference(host + "/a/b:1")))
except acr.AcrUnavailable as error:
    print(error)
"""


def test_alibaba_s_sdk_is_there_and_asks(client: cri.Client) -> None:
    """Nobody answers at that address: it has come as far as that."""
    account = "export ALIBABA_CLOUD_ACCESS_KEY_ID=a ALIBABA_CLOUD_ACCESS_KEY_SECRET=b"
    script = f"{account}; python3.13 -c '{ACR}'"
    manifest = cri.manifest("pod", conftest.NAME, command=("/bin/sh", "-ec", script))
    with client.pod(manifest) as pod:
        client.wait_for_output(pod, "no answer of the Container Registry API about cri-1")


def test_every_command_finds_what_it_imports(client: cri.Client) -> None:
    script = "for role in snapshotter agent create node-setup doctor; do uimgacc $role --help"
    manifest = cri.manifest("pod", conftest.NAME, command=("/bin/sh", "-ec", f"{script}; done"))
    with client.pod(manifest) as pod:
        codes = client.wait_for_exit(pod)
        text = pod.output

    assert codes == [0], text
    assert text.lower().count("usage:") == 5


@pytest.mark.usefixtures("archive")
def test_the_manifests_in_it_are_whole() -> None:
    """The one part of them that names files outside of its folder."""
    inside = oci.FOLDER / "root" / "ours" / rootfs.SITE / "agent" / "cli" / "manifests"

    shown = rendering.render(inside / "components" / "monitoring" / "shared")

    assert shown == rendering.render(rendering.MANIFESTS / "components" / "monitoring" / "shared")


def test_the_dockerfile_takes_along_what_links_in_the_package_lead_to() -> None:
    text = (places.CHECKOUT / "Dockerfile").read_text()
    copied = {
        name
        for line in text.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    sent = (places.CHECKOUT / ".dockerignore").read_text().splitlines()

    assert {f"!{name}" for name in copied} == {line for line in sent if line.startswith("!")}
    for path in (places.CHECKOUT / "agent").rglob("*"):
        if path.is_symlink():
            assert path.resolve().relative_to(places.CHECKOUT).parts[0] in copied


def test_the_archive_is_an_oci_layout_and_what_docker_loads(archive: pathlib.Path) -> None:
    with tarfile.open(archive) as tar:
        names = tar.getnames()

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        (entry,) = json.loads(read("index.json"))["manifests"]
        (docker,) = json.loads(read("manifest.json"))
        manifest = json.loads(read(path(entry["digest"])))
        for name in names:
            if name.startswith("blobs/sha256/"):
                assert hashlib.sha256(read(name)).hexdigest() == pathlib.Path(name).name
        config = json.loads(read(path(manifest["config"]["digest"])))
        modes = {}
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(read(path(layer["digest"])))) as files:
                modes |= {member.name: member.mode for member in files}

    assert docker["RepoTags"] == ["uimgacc:0.1.0"]
    assert docker["Config"] == path(manifest["config"]["digest"])
    assert docker["Layers"] == [path(layer["digest"]) for layer in manifest["layers"]]
    assert config["config"]["User"] == f"{rootfs.USER}:{rootfs.USER}"
    assert [name for name, mode in modes.items() if mode & 0o6000] == []
    assert {"usr/bin/mkfs.erofs", "usr/bin/cosign"} <= set(modes)
    assert not {"usr/bin/apt", "usr/bin/dpkg", "usr/bin/perl", "usr/bin/pip"} & set(modes)


def path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def test_the_dockerfile_says_of_its_image_what_the_archive_says(archive: pathlib.Path) -> None:
    with tarfile.open(archive) as tar:
        config = next(
            json.loads(data)
            for data in (tar.extractfile(name).read() for name in small(tar))  # type: ignore[union-attr]
            if b"rootfs" in data
        )["config"]
    text = (places.CHECKOUT / "Dockerfile").read_text().replace("\\\n", "")
    final = text.partition("FROM scratch\n")[2]
    said = dict(line.split(" ", 1) for line in final.splitlines() if line[:1].isupper())

    assert said["USER"] == config["User"]
    assert json.loads(said["ENTRYPOINT"]) == config["Entrypoint"]
    assert said["ENV"].split() == config["Env"]
    assert (
        said["LABEL"]
        == "org.opencontainers.image.title=" + config["Labels"]["org.opencontainers.image.title"]
    )


def small(tar: tarfile.TarFile) -> list[str]:
    """The names of the archive's JSON files."""
    return [member.name for member in tar if member.isfile() and member.size < 1 << 16]
