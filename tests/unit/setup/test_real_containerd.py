"""What the real containerds make of the result: the twins are there, nothing else changed."""

import copy
import os
import pathlib
import shutil
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from agent.setup.config import containerd_binary, inputs, places, settings_view
from agent.setup.node import apply, config_reader, host
from lab import places as lab_places
from tests.unit.setup import machines

BINARIES = {
    "1.7": lab_places.CONTAINERDS["1.7"] / "containerd",
    "2": lab_places.CONTAINERDS["2"] / "containerd",
}
if named := os.environ.get("UIMGACC_CONTAINERD"):
    BINARIES["2.3"] = pathlib.Path(named) / "containerd"
CASES = [(case, release) for case, release in machines.CASES if release in BINARIES]

pytestmark = pytest.mark.skipif(
    not all(binary.exists() for binary in BINARIES.values()), reason="lab/setup was not run"
)


def placed(folder: pathlib.Path, case: str) -> settings_view.Path:
    """A case's files below a folder, with the absolute paths in them moved there, too."""
    shutil.copytree(machines.GOLDEN / case, folder, ignore=shutil.ignore_patterns("*.diff"))
    for path in folder.rglob("*.toml"):
        text = path.read_text()
        rancher = [f"/var/lib/rancher/{name}/agent/etc/containerd/con" for name in places.RANCHER]
        for start in ("/etc/containerd/con", *rancher):
            text = text.replace(f'"{start}', f'"{folder}{start}')
        path.write_text(text)
    found = list(folder.rglob("config.toml"))
    return settings_view.Path(found[0] if found else folder / "etc" / "containerd" / "config.toml")


def dumped(binary: pathlib.Path, main: settings_view.Path) -> dict[str, Any]:
    if not pathlib.Path(main).exists():
        empty = pathlib.Path(main).parent / "empty"
        empty.write_text("version = 2\n")
        main = settings_view.Path(empty)
    return tomllib.loads(containerd_binary.dump(str(binary), str(main)))


def start_rancher(main: settings_view.Path) -> None:
    """Make the main file from its template, as k3s and RKE2 do at each start."""
    base = pathlib.Path(main).read_text()
    for template in pathlib.Path(main).parent.glob("*.tmpl"):
        text = template.read_text().replace('{{ template "base" . }}\n', base)
        pathlib.Path(main).write_text(text)


def without_ours(data: Mapping[str, Any]) -> dict[str, Any]:
    """A dump as it was before, but for what node set-up says that it adds."""
    found = copy.deepcopy(dict(data))
    found.pop("imports", None)
    found.get("proxy_plugins", {}).pop("uimgacc", None)
    if not found.get("proxy_plugins"):
        found.pop("proxy_plugins", None)
    for version in (2, 3):
        keys = settings_view.keys_of(version)
        runtimes: Any = settings_view.table_at(found, keys.runtimes)
        for name in [name for name in runtimes if name.startswith("uimgacc")]:
            del runtimes[name]
        images: Any = settings_view.table_at(found, keys.images)
        images.pop("disable_snapshot_annotations", None)
        images.pop("runtime_platforms", None)
    return found


@pytest.mark.parametrize(("case", "release"), CASES)
def test_containerd_sees_the_twins_and_nothing_else_new(
    case: str, release: str, tmp_path: pathlib.Path
) -> None:
    binary = BINARIES[release]
    main = placed(tmp_path / "node", case)
    before = dumped(binary, main)
    target = config_reader.Target(main, containerd_binary.release_of(str(binary)), str(binary))

    outcome = apply.set_up(host.Host(), target, inputs.Wanted())

    start_rancher(main)
    after = dumped(binary, main)
    view = containerd_binary.view_of_dump(
        containerd_binary.dump(str(binary), str(main)), target.release
    )
    assert view.proxies["uimgacc"]["address"] == inputs.ADDRESS
    if view.cri_disabled and release == "1.7":
        return  # It dumps nothing of a plugin that is turned off.
    assert {view.runtimes[twin]["snapshotter"] for twin in outcome.twins} == {"uimgacc"}
    assert not view.annotations_disabled or settings_view.pulls_itself(view, target.release)
    if target.release.merges:
        assert {view.platforms[twin]["snapshotter"] for twin in outcome.twins} == {"uimgacc"}
    for twin, copied in outcome.twins.items():
        if copied in view.runtimes:
            ignored = ("snapshotter", "sandboxer", "sandbox_mode", "options")
            like = [
                {key: value for key, value in view.runtimes[name].items() if key not in ignored}
                for name in (twin, copied)
            ]
            assert like[0] == like[1]
            given = view.runtimes[copied].get("options", {})
            assert {k: v for k, v in view.runtimes[twin].get("options", {}).items() if v} == {
                k: v for k, v in given.items() if v
            }
    # 1.7 without a `runtimes` table: the built-in runc is written down, so its defaults show.
    assert without_zeros(without_ours(after)) == without_zeros(without_ours(before))


def without_zeros(data: Any) -> Any:
    """Without empty values, and `sandbox_mode`, whose default 1.7 fills in when it starts."""
    if isinstance(data, dict):
        cleaned = {key: without_zeros(value) for key, value in data.items()}
        return {k: v for k, v in cleaned.items() if v and k != "sandbox_mode"}
    return data


def test_what_containerd_does_not_understand_as_meant_is_put_back(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = BINARIES["2"]
    main = placed(tmp_path / "node", "default-2")
    before = pathlib.Path(main).read_bytes()
    target = config_reader.Target(main, settings_view.Release(2, 1), str(binary))
    monkeypatch.setattr(containerd_binary, "dump", lambda *_, **__: "version = 3\n")

    with pytest.raises(settings_view.ConfigError, match="nothing is changed"):
        apply.set_up(host.Host(), target, inputs.Wanted())

    assert pathlib.Path(main).read_bytes() == before
    assert sorted(path.name for path in pathlib.Path(main).parent.rglob("*")) in (
        ["conf.d", "config.toml"],
        ["config.toml"],
    )


def test_a_binary_that_is_none_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(containerd_binary.ContainerdError, match="no such program"):
        containerd_binary.release_of(str(tmp_path / "containerd"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", (2, 1)),
        ("containerd github.com/containerd/containerd v1.7.27 05044ec0a9a7", (1, 7)),
        ("containerd containerd.io 1.6.20 2806fc1057397dbaeefbea0e4e17bddfbd388f38", (1, 6)),
        ("2.2", (2, 2)),
    ],
)
def test_the_release_is_read(text: str, expected: tuple[int, int]) -> None:
    assert containerd_binary.parse_release(text) == settings_view.Release(*expected)
