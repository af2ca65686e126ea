"""Systems that make containerd's configuration themselves: it is looked at, not written.

Talos with the document that the documentation shows, merged into its file as Talos does it.
"""

import pathlib
import re
import shutil
import tomllib

import pytest
import tomlkit
import yaml

from agent.setup.config import containerd_binary, fixed_systems, inputs, places, settings_view
from agent.setup.doctor import checks
from agent.setup.node import apply, config_reader, host
from lab import places as lab_places
from tests.unit.setup import machines

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs/install/talos.md"
MERGED = "etc/cri/conf.d/cri.toml"
RELEASES = [name for name in lab_places.CONTAINERDS if name != "1.7"]


def documented() -> str:
    """The TOML of the document for Talos."""
    (block, *_) = re.findall(r"```yaml\n(apiVersion.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(yaml.safe_load(block)["content"])


def with_document(root: pathlib.Path) -> None:
    """Merge it, tables into tables: Talos makes one file of all its parts."""
    merged = tomllib.loads((root / MERGED).read_text())
    settings_view.merge(merged, tomllib.loads(documented()))
    (root / MERGED).write_text(tomlkit.dumps(merged))


@pytest.fixture(params=[None, *RELEASES])
def node(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> machines.Machine:
    """A Talos node, without a containerd that can be asked, and with each of the lab."""
    root = tmp_path / "node"
    shutil.copytree(machines.GOLDEN / "talos", root)
    main = places.find_config(host.Host(root))
    assert str(main) == "/etc/cri/containerd.toml"
    if request.param is None:
        return machines.Machine(root, config_reader.Target(main, settings_view.Release(2, 2)))
    binary = lab_places.CONTAINERDS[request.param] / "containerd"
    if not binary.exists():
        pytest.skip("lab/setup was not run")
    # It runs outside of the node's root, so it is given the paths that are true there.
    machine = host.Host()
    for path in root.rglob("*.toml"):
        path.write_text(path.read_text().replace('"/etc/cri', f'"{root}/etc/cri'))
    base_spec = root / "etc/cri/conf.d/base-spec.json"
    base_spec.write_text("{}")
    release = containerd_binary.release_of(str(binary))
    target = config_reader.Target(settings_view.Path(f"{root}{main}"), release, binary=str(binary))
    return machines.Machine(machine.root, target)


def root_of(node: machines.Machine) -> pathlib.Path:
    return pathlib.Path(str(node.target.main).removesuffix("/etc/cri/containerd.toml") or node.root)


@pytest.fixture
def talos(node: machines.Machine, monkeypatch: pytest.MonkeyPatch) -> machines.Machine:
    """The node, which says that it is Talos wherever its root is."""
    text = (root_of(node) / "etc/os-release").read_text() if node.root == pathlib.Path("/") else ""
    if text:
        monkeypatch.setattr(places, "fixed_system", lambda _: fixed_systems.of(text))
    return node


def test_talos_without_the_document_is_told_what_is_missing(talos: machines.Machine) -> None:
    before = (root_of(talos) / MERGED).read_bytes()

    with pytest.raises(settings_view.ConfigError, match=r"docs/install/talos\.md") as caught:
        apply.set_up(talos.host, talos.target, inputs.Wanted())

    assert "the runtime handler uimgacc (twin of runc) is not there" in str(caught.value)
    assert "disable_snapshot_annotations is still true" in str(caught.value)
    assert (root_of(talos) / MERGED).read_bytes() == before
    assert not list(root_of(talos).rglob("*uimgacc*"))


@pytest.mark.parametrize("node", RELEASES, indirect=True)
def test_the_doctor_says_so(talos: machines.Machine) -> None:
    assert talos.target.binary is not None
    (found,) = checks.configuration(talos.target.main, talos.target.binary, inputs.Wanted())

    assert found.level is checks.Level.FAIL
    assert "docs/install/talos.md" in found.what


def test_talos_with_the_document_is_set_up(talos: machines.Machine) -> None:
    with_document(root_of(talos))
    before = (root_of(talos) / MERGED).read_bytes()

    outcome = apply.set_up(talos.host, talos.target, inputs.Wanted())

    assert outcome.twins == {"uimgacc": "runc", "uimgacc-runc": "runc"}
    assert (outcome.changed, outcome.names_images) == (False, True)
    assert outcome.warnings == []
    assert not apply.undo(talos.host, talos.target.main).changed
    assert (root_of(talos) / MERGED).read_bytes() == before


def test_bottlerocket_has_no_place_for_it(tmp_path: pathlib.Path) -> None:
    node = machines.write(tmp_path / "node", "version = 3\n", "2")
    (tmp_path / "node/etc/os-release").write_text('NAME=Bottlerocket\nID="bottlerocket"\n')

    with pytest.raises(settings_view.ConfigError, match="its pods are pulled as usual"):
        apply.set_up(node.host, node.target, inputs.Wanted())

    assert not list((tmp_path / "node").rglob("*uimgacc*"))


@pytest.mark.parametrize("text", ["", "ID=debian\n", "NAME=talos\nID_LIKE=talos\n", "VERSION_ID=1"])
def test_others_are_edited(text: str) -> None:
    assert fixed_systems.of(text) is None
