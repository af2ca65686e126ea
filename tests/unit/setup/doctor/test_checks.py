"""The doctor's findings, each with a fix."""

import pathlib
import socket

import pytest

from agent.kits.processes import workers
from agent.model.erofs import superblock
from agent.mounts.devices import device_mapper
from agent.setup.doctor import checks, examination, switch_check
from agent.store import signing_keys
from agent.store.publish import writer
from lab import places
from tests.unit.store import making, signing

SHARED = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 8:2 / /var rw shared:5 - ext4 /dev/sda2 rw
24 23 8:3 / /var/lib/other rw - ext4 /dev/sda3 rw
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/var/lib/containerd", ("/var", True)),
        ("/var/lib/other/x", ("/var/lib/other", False)),
        ("/variable", ("/", False)),
    ],
)
def test_the_mount_of_a_folder_and_whether_it_is_shared(
    folder: str, expected: tuple[str, bool]
) -> None:
    assert checks.mount_of(pathlib.Path(folder), SHARED) == expected


@pytest.mark.parametrize(
    ("says", "level"),
    [
        ("mkfs.erofs (erofs-utils) 1.8.6", checks.Level.OK),
        ("mkfs.erofs 1.5", checks.Level.WARN),
        ("hello", checks.Level.WARN),
    ],
)
def test_the_version_of_mkfs(says: str, level: checks.Level, tmp_path: pathlib.Path) -> None:
    command = tmp_path / "mkfs.erofs"
    command.write_text(f"#!/bin/sh\necho '{says}'\n")
    command.chmod(0o755)

    assert checks.mkfs(str(command)).level is level


def test_a_missing_mkfs_is_no_failure_of_a_node(tmp_path: pathlib.Path) -> None:
    found = checks.mkfs(str(tmp_path / "none"))

    assert found.level is checks.Level.WARN
    assert "UIMGACC_MKFS" in found.fix


def test_sockets_that_are_not_there_or_deaf(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "s.sock"
    missing = checks.snapshotter(str(file), deadline=1)
    file.touch()
    deaf = checks.snapshotter(str(file), deadline=1)

    assert (missing.level, deaf.level) == (checks.Level.FAIL, checks.Level.FAIL)
    assert "does not exist" in missing.what
    assert checks.running(str(file), "uimgacc", deadline=1)[0].level is checks.Level.FAIL


def test_a_snapshotter_that_hangs_is_told_from_one_that_is_away(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(file))
        listener.listen()
        found = checks.snapshotter(str(file), deadline=0.2)

    assert found.level is checks.Level.FAIL
    assert "accepts connections" in found.what
    assert "kill -9" in found.fix


async def test_a_store_that_is_well_and_one_that_is_none(tmp_path: pathlib.Path) -> None:
    writer.create(tmp_path / "store")
    async with workers.Pool(checks.TRIES, name="test", size=1) as tries:
        (well,) = await checks.store(tmp_path / "store", tries, deadline=10)
        (none,) = await checks.store(tmp_path, tries, deadline=10)

    assert well.level is checks.Level.OK
    assert "lz4" in well.what
    assert none.level is checks.Level.FAIL
    assert "store init" in none.fix


async def test_a_damaged_record_is_found(tmp_path: pathlib.Path) -> None:
    writer.create(tmp_path)
    (tmp_path / "meta" / "caches" / "imc-damaged.json").write_text("{")
    async with workers.Pool(checks.TRIES, name="test", size=1) as tries:
        found = await checks.store(tmp_path, tries, deadline=10)

    assert [finding.check for finding in found] == ["store", "records"]
    assert "store check" in found[1].fix


async def test_a_store_that_no_key_has_signed_is_found(tmp_path: pathlib.Path) -> None:
    place = making.store(tmp_path / "store")
    making.cache(place, "imc-one", making.image(place, "a"))
    key = signing_keys.generate()
    trusted = signing.keys(place, key, tmp_path / "keys")
    async with workers.Pool(checks.TRIES, name="test", size=1) as tries:
        found = await checks.store(place.root, tries, deadline=10, trusted=trusted)
        assert [finding.check for finding in found] == ["store", "signatures"]
        assert "cache imc-one" in found[1].what
        assert "store sign" in found[1].fix

        signing.sign(place, key)
        after = await checks.store(place.root, tries, deadline=10, trusted=trusted)
    assert "signatures" not in [finding.check for finding in after]


@pytest.mark.root
async def test_erofs_and_overlay_are_really_tried(tmp_path: pathlib.Path) -> None:
    async with workers.Pool(checks.TRIES, name="test", size=1) as tries:
        found = await checks.kernel(tries, tmp_path, deadline=20)

    assert [(finding.check, finding.level) for finding in found] == [
        ("erofs", checks.Level.OK),
        ("overlay", checks.Level.OK),
    ]
    assert list(tmp_path.iterdir()) == []
    assert "uimgacc-doctor" not in pathlib.Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("fault", [None, OSError(22, "this kernel has no dm-verity")])
async def test_dm_verity_is_checked_where_layers_are_to_be_verified(
    fault, tmp_path, monkeypatch
) -> None:
    def check() -> None:
        if fault is not None:
            raise fault

    monkeypatch.setattr(device_mapper, "check", check)
    patient = examination.Patient(root=str(tmp_path), verify=True)
    unasked = examination.Patient(root=str(tmp_path))

    found = [one async for one in examination.examine(patient) if one.check == "dm-verity"]
    others = [one async for one in examination.examine(unasked) if one.check == "dm-verity"]

    assert [one.level for one in found] == [checks.Level.FAIL if fault else checks.Level.OK]
    assert "modprobe dm_verity" in found[0].fix if fault else not found[0].fix
    assert others == []


async def test_every_finding_that_is_not_well_has_a_fix(tmp_path: pathlib.Path) -> None:
    patient = examination.Patient(
        config=str(tmp_path / "config.toml"),
        containerd_binary=str(tmp_path / "containerd"),
        containerd=str(tmp_path / "containerd.sock"),
        address=str(tmp_path / "snapshotter.sock"),
        root=str(tmp_path),
        mkfs=str(tmp_path / "mkfs.erofs"),
    )

    found = [finding async for finding in examination.examine(patient)]

    assert {"erofs", "overlay", "configuration", "snapshotter", "containerd", "store"} <= {
        finding.check for finding in found
    }
    assert all(finding.fix for finding in found if finding.level is not checks.Level.OK)


async def test_a_configuration_that_was_not_set_up_is_found(tmp_path: pathlib.Path) -> None:
    binary = places.CONTAINERDS["2"] / "containerd"
    if not binary.exists():
        pytest.skip("lab/setup was not run")
    main = tmp_path / "config.toml"
    main.write_text("version = 3\n")

    found = checks.configuration(
        checks.settings_view.Path(main), str(binary), checks.inputs.Wanted()
    )

    assert found[0].level is checks.Level.FAIL
    assert "node-setup" in found[0].fix
    assert main.read_text() == "version = 3\n"


@pytest.mark.parametrize("page", ["README.md", "docs/start/compatibility.md"])
def test_the_pages_name_the_kernel_that_the_doctor_asks_for(page: str) -> None:
    text = (pathlib.Path(__file__).parents[4] / page).read_text()

    assert f"{superblock.KERNEL_MINIMUM} or newer" in text


@pytest.mark.root
async def test_whether_a_copy_can_be_put_behind_a_running_mount(tmp_path: pathlib.Path) -> None:
    async with workers.Pool(checks.TRIES, name="the test", size=1) as tries:
        found = await switch_check.examine(tries, tmp_path, deadline=10)
        missing = await switch_check.examine(tries, tmp_path / "none", deadline=10)

    assert found.level is checks.Level.OK, found.what
    assert (missing.level, "modprobe loop" in missing.fix) == (checks.Level.WARN, True)
    assert list(tmp_path.iterdir()) == []


def test_containerds_own_snapshotter_takes_no_pods_with_image_volumes() -> None:
    finding = checks.snapshotter("/nowhere.sock", deadline=1, native="/the/links")

    assert finding.level is checks.Level.OK
    assert "pods with image volumes do not start on it" in finding.what
