"""A whole release: made twice, pushed to a registry, verified there, and run on containerd."""

import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from cyclonedx import schema
from cyclonedx.validation import json as validation

from lab import install_files, places, processes, services
from lab.parts import helm
from lab.release import documents, platforms, signing, tools
from lab.runtime import containerds, cri
from tests.release import conftest

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(7200)]

MAIN = "import sys; from agent.cli.entry import main; sys.exit(main())"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
VERSION = ("/bin/sh", "-ec", "uimgacc version && mkfs.erofs -V && cosign version")


def cosign(*arguments: str | pathlib.Path) -> str:
    done = subprocess.run(
        ["cosign", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **processes.environment_with_path(places.BIN)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_commit_gives_the_same_bytes(twice: tuple[conftest.Made, conftest.Made]) -> None:
    first, second = ((made.folder / "SHA256SUMS").read_text().splitlines() for made in twice)

    assert first == second
    assert len(first) == len(install_files.FILES) + 8


def test_the_checksums_are_right_and_signed(made: conftest.Made) -> None:
    for line in (made.folder / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        with (made.folder / name).open("rb") as data:
            assert hashlib.file_digest(data, "sha256").hexdigest() == digest

    bundle = f"--bundle={made.folder / signing.BUNDLE}"
    key = f"--key={made.public_key}"
    sums = made.folder / "SHA256SUMS"
    cosign("verify-blob", key, bundle, "--insecure-ignore-tlog", sums)


@pytest.mark.parametrize("architecture", documents.PLATFORMS)
def test_the_bill_of_materials_has_what_the_image_has(
    made: conftest.Made, architecture: str
) -> None:
    text = (made.folder / made.release.bill(architecture)).read_text()

    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    bill = json.loads(text)
    names = {part["name"] for part in bill["components"]}
    assert {"python3.13-minimal", "libc6", "erofs-utils", "cosign", "nfs-common"} <= names
    assert {"aiohttp", "grpcio", "cryptography"} <= names
    debian = [part for part in bill["components"] if part["purl"].startswith("pkg:deb/")]
    assert {part["purl"].split("arch=")[1].split("&")[0] for part in debian} <= {
        architecture,
        "all",
    }
    hashed = {part["name"] for part in bill["components"] if part.get("hashes")}
    assert names - hashed == {"alibabacloud-tea"}, "made here of its source"


def test_a_registry_has_both_platforms_by_digest(
    made: conftest.Made, registry: services.Registry
) -> None:
    release = made.release

    body = registry.get(f"uimgacc/manifests/{release.version}", accept=platforms.INDEX_TYPE)

    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == release.index
    index = json.loads(body)
    found = {each["platform"]["architecture"]: each["digest"] for each in index["manifests"]}
    assert found == release.platforms
    # The layer with the project's own code is one.
    layers = [
        json.loads(registry.get(f"uimgacc/manifests/{digest}", accept=MANIFEST_TYPE))["layers"]
        for digest in found.values()
    ]
    assert layers[0][1] == layers[1][1]
    assert layers[0][0] != layers[1][0]


def test_a_second_push_changes_nothing_and_another_version_s_bytes_are_refused(
    made: conftest.Made, registry: services.Registry, tmp_path: pathlib.Path
) -> None:
    made.run("push", registry.address, "--plain-http")
    # The chart's artifact in the place of the images: other bytes under the same version.
    other = tmp_path / "release"
    shutil.copytree(made.folder, other)
    text = (other / documents.FILE).read_text()
    (other / documents.FILE).write_text(text.replace(made.release.index, made.release.chart))

    with pytest.raises(AssertionError, match="nothing is pushed"):
        made.run("push", registry.address, "--plain-http", "--release", str(other))


def test_all_that_is_pushed_is_signed(made: conftest.Made, registry: services.Registry) -> None:
    release = made.release
    options = (f"--key={made.public_key}", "--insecure-ignore-tlog", "--allow-http-registry")
    images = [
        release.image(registry.address),
        *(f"{registry.address}/uimgacc@{digest}" for digest in release.platforms.values()),
        release.chart_name(registry.address),
    ]
    for name in images:
        cosign("verify", *options, name)
    for digest in release.platforms.values():
        name = f"{registry.address}/uimgacc@{digest}"
        for kind in ("cyclonedx", "slsaprovenance1"):
            said = cosign("verify-attestation", f"--type={kind}", *options, name)
            assert json.loads(said)["payloadType"] == "application/vnd.in-toto+json"


def test_the_project_s_own_policy_takes_the_image_and_no_other_key(
    made: conftest.Made, registry: services.Registry, tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    environment = {"COSIGN_PASSWORD": "", "PATH": f"{places.BIN}:{os.environ['PATH']}"}
    command = ["cosign", "generate-key-pair", f"--output-key-prefix={other}/release"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})

    def build(key: pathlib.Path) -> subprocess.CompletedProcess[str]:
        policy = tmp_path / f"policy-{key.parent.name}"
        policy.mkdir()
        shutil.copy(key, policy / "release.pub")
        rules = {"rules": [{"images": [registry.address], "keys": ["release.pub"]}]}
        (policy / "policy.yaml").write_text(json.dumps(rules))
        store = tmp_path / f"store-{key.parent.name}"
        image = made.release.image(registry.address)
        options = [f"--store={store}", f"--signature-policy={policy / 'policy.yaml'}"]
        options += [f"--plain-http={registry.address}", f"--image={image}"]
        return subprocess.run(
            [sys.executable, "-c", MAIN, "create", "uimgacc", *options],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, **environment, "PYTHONPATH": str(places.CHECKOUT)},
        )

    refused = build(other / "release.pub")
    built = build(made.public_key)

    assert refused.returncode != 0
    assert "signature policy" in refused.stdout + refused.stderr
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.fixture(scope="module")
def containerd(
    registry: services.Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[containerds.Containerd]:
    folder = tmp_path_factory.mktemp("lab")
    with (
        services.Registry(folder) as labs,
        containerds.Containerd(registries=[labs.address, registry.address]) as running,
    ):
        yield running


def workloads(documents_: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for document in documents_:
        if document["kind"] in ("DaemonSet", "Deployment"):
            spec = document["spec"]["template"]["spec"]
            yield from (*spec.get("initContainers", ()), *spec["containers"])


def test_the_manifests_of_the_release_run_on_a_node(
    made: conftest.Made, registry: services.Registry, containerd: containerds.Containerd
) -> None:
    folder = made.folder / "for" / registry.address.replace(":", "_")
    expected = {each.name for each in install_files.FILES} | {install_files.UNINSTALL}
    assert {path.name for path in folder.iterdir()} == expected
    for path in folder.iterdir():
        documents_ = [each for each in yaml.safe_load_all(path.read_text()) if each]
        images = {container["image"] for container in workloads(documents_)}
        assert images == {made.release.image(registry.address)}

    with containerd.cri() as client:
        (image,) = images
        with client.pod(cri.manifest("released", image, command=VERSION)) as pod:
            codes = client.wait_for_exit(pod)
            lines = pod.output.splitlines()

    assert pod.pulled == [image]
    assert codes == [0], lines
    assert lines[0] == f"uimgacc {made.release.version}"


def test_helm_takes_the_chart_from_the_registry_as_the_page_says(
    made: conftest.Made, registry: services.Registry, tmp_path: pathlib.Path
) -> None:
    """What an API server makes of the objects is tested where one is: tests/kube."""
    try:
        program = helm.program()
    except helm.NoHelmError as error:
        pytest.skip(str(error))
    page = (places.CHECKOUT / "docs/install/helm.md").read_text()
    (command,) = re.findall(r"^helm install .*?(?=^kubectl)", page, re.MULTILINE | re.DOTALL)
    command = command.replace("\\\n", " ").replace("registry.example.com", registry.address)
    _, install, *words = shlex.split(command)
    assert install == "install"
    words.remove("--create-namespace")

    done = subprocess.run(
        [program, "template", *words, "--plain-http", "--kube-version=1.36"],
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(tmp_path), "KUBECONFIG": "/dev/null"},
    )

    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    images = {container["image"] for container in workloads(objects)}
    name = f"{documents.REPOSITORY}@{made.release.index}"
    assert images == {f"{made.release.registry}/{name}"}


def test_the_other_platform_s_image_runs_emulated(
    made: conftest.Made, registry: services.Registry, containerd: containerds.Containerd
) -> None:
    """The emulator is the container's program: the machine's kernel need not know of it."""
    other = tools.other_architecture()
    emulator = tools.emulator(other)
    image = f"{registry.address}/uimgacc:{made.release.version}"
    pull = ["images", "pull", "--plain-http", "--local", "--platform", f"linux/{other}", image]
    containerd.ctr(*pull)
    mount = f"type=bind,src={emulator.parent},dst=/emulator,options=rbind:ro"
    program = f"/emulator/{emulator.name}"

    def run(name: str, *command: str) -> str:
        options = ["--rm", f"--platform=linux/{other}", f"--mount={mount}"]
        return containerd.ctr("run", *options, image, name, program, *command, seconds=600)

    said = run("version", "/usr/bin/python3.13", "-P", "/usr/local/bin/uimgacc", "version")
    erofs = run("mkfs", "/usr/bin/mkfs.erofs", "-V")
    signer = run("cosign", "/usr/bin/cosign", "version")
    imports = run("imports", "/usr/bin/python3.13", "-c", IMPORTS)

    assert said.strip() == f"uimgacc {made.release.version}"
    assert erofs.startswith("mkfs.erofs (erofs-utils) 1.")
    assert f"linux/{other}" in signer
    assert imports.split() == [{"arm64": "aarch64", "amd64": "x86_64"}[other]]


IMPORTS = """
import os
import aiohttp, grpc, isal.isal_zlib, lz4.frame, msgspec, re2, yaml, zstandard
from agent.roles import agent, builder, controller, snapshotter
print(os.uname().machine)
"""
