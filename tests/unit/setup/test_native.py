"""`node-setup --native`: containerd's own EROFS snapshotter, on real-life configurations.

The containerd that is asked stands in for 2.4 where none is at hand: it merges files as 2.4 does,
over the part of its defaults that counts here. Where UIMGACC_CONTAINERD names a real one, that is
asked as well. `UPDATE_GOLDEN=1` writes the expected differences anew.
"""

import os
import pathlib
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import tomlkit

from agent.setup.config import containerd_binary, inputs, native_cache, settings_view
from agent.setup.node import apply, config_reader, host
from lab import places
from tests import named_containerd
from tests.unit.setup import machines, test_real_containerd

RELEASE = settings_view.Release(2, 4)
CASES = (
    "version-4",
    "version-none",
    "missing",
    "default-2",
    "eks-al2023-v3-nvidia",
    "nvidia-drop-in-2",
)
FOLDER = "/var/lib/uimgacc/native"
WANTED = inputs.Wanted(native=FOLDER, platform="linux/amd64")

DEFAULTS = """
version = 4
root = "/var/lib/containerd"
[plugins."io.containerd.snapshotter.v1.erofs"]
  enable_fsverity = false
  set_immutable = false
  layer_content_caches = []
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_unpacks = 1
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  disable_snapshot_annotations = true
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
"""Part of what containerd 2.4 dumps without a configuration."""


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Callable[[str], None]:
    """Stand in for a containerd with these defaults, which a test may change."""
    machine = host.Host(tmp_path / "node")
    chosen = [DEFAULTS]

    def dump(_binary: str, main: str, **_: Any) -> str:
        merged: dict[str, Any] = tomllib.loads(chosen[0])
        files = [settings_view.File(settings_view.Path(main), text_of(main))]
        for file in files:
            for pattern in settings_view.imports_of(file):
                files += [
                    settings_view.File(path, machine.text(path) or "")
                    for path in machine.matching(pattern)
                ]
        for file in files:
            data = settings_view.parse(file)
            data.pop("imports", None)
            settings_view.merge(merged, settings_view._migrated(data))
        merged["version"] = 4
        return tomlkit.dumps(merged)

    def text_of(main: str) -> str:
        return machine.text(settings_view.Path(main)) or ""

    monkeypatch.setattr(containerd_binary, "dump", dump)
    return lambda text: chosen.__setitem__(0, text)


def made(tmp_path: pathlib.Path, case: str) -> machines.Machine:
    machine = machines.make(tmp_path / "node", case, "2.3")
    target = config_reader.Target(machine.target.main, RELEASE, "containerd")
    return machines.Machine(machine.root, target)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("defaults")
def test_the_difference_is_the_expected_one_once_and_can_be_undone(
    case: str, tmp_path: pathlib.Path
) -> None:
    machine = made(tmp_path, case)
    before = machine.files()

    outcome = apply.set_up(machine.host, machine.target, WANTED)

    said = [f"warning: {line}" for line in outcome.warnings]
    said += [f"note: {line}" for line in outcome.notes]
    handlers = [f"{twin} like {copied}" for twin, copied in outcome.twins.items()]
    result = "\n".join([*said, *handlers, ""]) + outcome.diff()
    golden = machines.GOLDEN / case / "2.4-native.diff"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(result)
    assert result == golden.read_text()
    assert not apply.set_up(machine.host, machine.target, WANTED).changed
    apply.undo(machine.host, machine.target.main)
    assert machine.files() == before


@pytest.mark.usefixtures("defaults")
def test_a_node_goes_to_it_and_back(tmp_path: pathlib.Path) -> None:
    machine = made(tmp_path, "version-4")
    apply.set_up(machine.host, machine.target, inputs.Wanted())
    usual = machine.files()

    assert apply.set_up(machine.host, machine.target, WANTED).changed
    assert apply.set_up(machine.host, machine.target, inputs.Wanted()).changed
    drop_ins = {path: data for path, data in machine.files().items() if inputs.DROP_IN in path}
    assert drop_ins
    assert drop_ins.items() <= usual.items()


@pytest.mark.usefixtures("defaults")
def test_what_others_have_in_the_lists_is_kept(tmp_path: pathlib.Path) -> None:
    machine = made(tmp_path, "version-4")
    with machine.config.open("a") as file:
        file.write(
            '\n[plugins."io.containerd.snapshotter.v1.erofs"]\n'
            '  layer_content_caches = ["/of/others"]\n'
            '[plugins."io.containerd.transfer.v1.local"]\n'
            '  unpack_config = [{ platform = "linux/amd64", snapshotter = "stargz" }]\n'
        )
    apply.set_up(machine.host, machine.target, WANTED)

    plugins = containerd_binary.view_of_dump(
        containerd_binary.dump("containerd", str(machine.target.main)), RELEASE
    ).plugins
    caches = plugins["io.containerd.snapshotter.v1.erofs"]["layer_content_caches"]
    unpack = plugins["io.containerd.transfer.v1.local"]["unpack_config"]
    assert caches == [FOLDER, "/of/others"]
    assert [entry["snapshotter"] for entry in unpack] == ["stargz", "erofs"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("layer_content_caches = []", ""), "no layer_content_caches"),
        (("enable_fsverity = false", "enable_fsverity = true"), "enable_fsverity of"),
        (("set_immutable = false", "set_immutable = true"), "set_immutable of"),
    ],
)
def test_a_containerd_that_cannot_do_it_is_refused_and_nothing_is_changed(
    tmp_path: pathlib.Path, defaults: Callable[[str], None], change: tuple[str, str], reason: str
) -> None:
    machine = made(tmp_path, "version-4")
    before = machine.files()
    defaults(DEFAULTS.replace(*change))
    with pytest.raises(settings_view.ConfigError, match=reason):
        apply.set_up(machine.host, machine.target, WANTED)

    assert machine.files() == before


@pytest.mark.parametrize(("case", "release"), [("k3s-2", "2"), ("kubeadm", "1.7")])
def test_a_containerd_that_cannot_be_asked_is_refused(
    tmp_path: pathlib.Path, case: str, release: str
) -> None:
    machine = machines.make(tmp_path / "node", case, release)
    with pytest.raises(settings_view.ConfigError, match="can be asked"):
        apply.set_up(machine.host, machine.target, WANTED)


@named_containerd.needs_layer_caches
@pytest.mark.parametrize("case", CASES)
def test_a_real_containerd_reads_it_as_meant(case: str, tmp_path: pathlib.Path) -> None:
    binary = str(places.CONTAINERDS["named"] / "containerd")
    main = test_real_containerd.placed(tmp_path / "node", case)
    target = config_reader.Target(main, containerd_binary.release_of(binary), binary)
    machine = host.Host()
    outcome = apply.set_up(machine, target, WANTED)

    view = containerd_binary.view_of_dump(containerd_binary.dump(binary, str(main)), target.release)
    assert {view.runtimes[twin]["snapshotter"] for twin in outcome.twins} == {"erofs"}
    assert {view.platforms[twin]["snapshotter"] for twin in outcome.twins} == {"erofs"}
    assert native_cache.faults(view.plugins, FOLDER) == []
    assert not apply.set_up(machine, target, WANTED).changed
