"""What the doctor says of the files with the hosts of registries."""

import pathlib

import pytest

from agent.setup.config import places, settings_view
from agent.setup.doctor import checks, mirrors_check


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    return tmp_path / "certs.d"


def write(folder: pathlib.Path, text: str, registry: str = "docker.io") -> None:
    (folder / registry).mkdir(parents=True)
    (folder / registry / "hosts.toml").write_text(text)


def test_a_node_without_mirrors_is_well(folder) -> None:
    (finding,) = mirrors_check.examine([folder])

    assert finding.level is checks.Level.OK
    assert finding.what == f"{folder} names no hosts: registries are asked themselves"


def test_the_registries_with_hosts_are_named(folder) -> None:
    write(folder, '[host."https://mirror.example.com"]\n')
    write(folder, '[host."https://mirror.example.com"]\n', "_default")

    (finding,) = mirrors_check.examine([folder])

    assert finding.level is checks.Level.OK
    assert finding.what.startswith("hosts for _default, docker.io;")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server = ", "is ignored, as by containerd"),
        ('[host."https://m.example.com"]\ncapabilities = ["teleport"]\n', "teleport"),
        ('host = {"https://m.example.com" = {}}\n', "it is no table"),
        ('[host."https://m.example.com"]\nca = "gone.crt"\n', "docker.io/gone.crt cannot be read"),
    ],
)
def test_what_has_no_effect_is_said(folder, text, said) -> None:
    write(folder, text)

    (finding,) = mirrors_check.examine([folder])

    assert finding.level is checks.Level.WARN
    assert said in finding.what
    assert finding.what.startswith("docker.io: ")
    assert finding.fix


def test_a_registries_yaml_that_cannot_be_read_is_said(tmp_path) -> None:
    path = tmp_path / "registries.yaml"
    path.write_text("mirrors: {docker.io: 7}\n")

    (finding,) = mirrors_check.examine([path])

    assert finding.level is checks.Level.WARN
    assert str(path) in finding.what


def test_each_distributions_own_place_is_looked_at() -> None:
    plain = mirrors_check.roots(settings_view.Path("/etc/containerd/config.toml"))
    rancher = mirrors_check.roots(places.RANCHER["rke2"])

    assert plain == [pathlib.Path("/etc/containerd/certs.d")]
    assert rancher == [pathlib.Path("/etc/rancher/rke2/registries.yaml")]
