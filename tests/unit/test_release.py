"""What a release says of itself, without making its images: lab.release."""

import io
import json
import pathlib
import re
import subprocess
import tarfile
import tomllib
from collections.abc import Sequence

import pytest
from cyclonedx import schema
from cyclonedx.validation import json as validation

from lab import places, processes
from lab.image import rootfs
from lab.release import bills, charts, documents, platforms, provenance, sources
from lab.samples import pushing

VERSION = sources.Version("1.2.3", "c0ffee" * 6 + "abcd", 1_800_000_000, released=True)


def git(folder: pathlib.Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "uimgacc"\nversion = "1.2.3"\n')
    (folder / ".gitignore").write_text("ignored\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def test_a_tag_makes_a_commit_its_version(checkout: pathlib.Path) -> None:
    git(checkout, "tag", "v1.2.3")

    version = sources.version(checkout)

    assert version.released
    assert (version.python, version.text) == ("1.2.3", "1.2.3")


def test_without_a_tag_the_version_names_the_commit(checkout: pathlib.Path) -> None:
    git(checkout, "tag", "elsewhere")

    version = sources.version(checkout)

    assert not version.released
    short = version.commit[:12]
    assert (version.python, version.text) == (f"1.2.3.dev0+g{short}", f"1.2.3-dev.g{short}")


def test_a_tag_of_another_version_is_refused(checkout: pathlib.Path) -> None:
    git(checkout, "tag", "v1.2.4")

    with pytest.raises(
        processes.LabError, match=r"tag v1\.2\.4, and pyproject\.toml the version 1"
    ):
        sources.version(checkout)


def test_what_is_not_committed_is_refused(checkout: pathlib.Path) -> None:
    (checkout / "more").write_text("")

    with pytest.raises(processes.LabError, match=r"(?s)differ from it.*\?\? more"):
        sources.version(checkout)


def test_only_the_commit_s_files_are_released(
    checkout: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (checkout / "ignored").write_text("")

    exported = sources.export(checkout, tmp_path / "exported")

    assert {path.name for path in exported.iterdir()} == {".gitignore", "pyproject.toml"}


@pytest.fixture
def package() -> bytes:
    """A chart's archive, as lab.chart.archive makes it of more files."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz") as tar:
        data = b"name: uimgacc\nversion: 1.2.3\n"
        entry = tarfile.TarInfo("uimgacc/Chart.yaml")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return output.getvalue()


def test_a_chart_is_an_artifact_as_helm_pushes_it(package: bytes) -> None:
    manifest, blobs = charts.artifact(package, VERSION)

    shown = json.loads(manifest)
    assert shown["config"]["mediaType"] == "application/vnd.cncf.helm.config.v1+json"
    (layer,) = shown["layers"]
    assert layer["mediaType"] == "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    assert blobs[layer["digest"]] == package
    assert json.loads(blobs[shown["config"]["digest"]])["name"] == "uimgacc"
    assert (manifest, blobs) == charts.artifact(package, VERSION)


DEBS = [
    {
        "name": "libc6",
        "version": "2.41-12",
        "architecture": "arm64",
        "source": "glibc",
        "source_version": "2.41-12",
        "sha256": "a" * 64,
    },
    {
        "name": "cosign",
        "version": "3.1.1-2",
        "architecture": "arm64",
        "source": "cosign",
        "source_version": "3.1.1-2",
        "sha256": "b" * 64,
    },
]
WHEEL = {
    "metadata": {"name": "Typing_Extensions", "version": "4.1"},
    "download_info": {"archive_info": {"hashes": {"sha256": "c" * 64}}},
}


@pytest.fixture
def images(tmp_path: pathlib.Path) -> Sequence[platforms.Image]:
    root = tmp_path / "system"
    site = root / rootfs.SITE
    for name in ("typing_extensions-4.1", "made_here-1.0"):
        (site / f"{name}.dist-info").mkdir(parents=True)
        kind, _, number = name.partition("-")
        (site / f"{name}.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {kind}\nVersion: {number}\nLicense-Expression: PSF-2.0\n"
        )
    (tmp_path / "system.debs.json").write_text(json.dumps(DEBS))
    (tmp_path / "system.wheels.json").write_text(json.dumps({"install": [WHEEL]}))
    return [platforms.Image("arm64", b"config", b"manifest", (), root)]


def test_a_bill_of_materials_is_cyclonedx_and_names_what_was_unpacked(
    images: Sequence[platforms.Image],
) -> None:
    (image,) = images

    text = bills.make(image, VERSION)

    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(text.decode()) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["version"] == "1.2.3"
    assert bill["metadata"]["timestamp"].startswith("2027-01-15T08:00:00")
    assert {part["purl"] for part in bill["components"]} == {
        "pkg:deb/debian/cosign@3.1.1-2?arch=arm64&distro=debian-testing",
        "pkg:deb/debian/libc6@2.41-12?arch=arm64&distro=debian-13&upstream=glibc%402.41-12",
        "pkg:pypi/made-here@1.0",
        "pkg:pypi/typing-extensions@4.1",
    }
    hashes = {part["name"]: part.get("hashes", []) for part in bill["components"]}
    assert hashes["typing-extensions"] == [{"alg": "SHA-256", "content": "c" * 64}]
    assert hashes["made-here"] == []
    assert bills.make(image, VERSION) == text


def test_the_provenance_names_the_commit_and_all_that_was_downloaded(
    images: Sequence[platforms.Image],
) -> None:
    statement = json.loads(provenance.make(images, b"index", VERSION))

    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    named = {each["digest"]["sha256"] for each in statement["subject"]}
    assert named == {pushing.sha256(each).partition(":")[2] for each in (b"index", b"manifest")}
    commit, *others = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert commit["digest"] == {"gitCommit": VERSION.commit}
    assert {each["digest"]["sha256"] for each in others} == {"a" * 64, "b" * 64, "c" * 64}


def test_all_names_of_the_image_have_the_version() -> None:
    project = tomllib.loads((places.CHECKOUT / "pyproject.toml").read_text())["project"]
    tracked = subprocess.run(
        ["git", "grep", "-hoE", r"(uimgacc:|newTag: |--version )[0-9]+\.[0-9]+\.[0-9]+"],
        cwd=places.CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.split("\n")

    assert {re.split("[: ]+", each)[-1] for each in tracked if each} == {project["version"]}


def test_a_folder_without_a_release_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(processes.LabError, match=r"has no release.json: run `make release` first"):
        documents.read(tmp_path)
