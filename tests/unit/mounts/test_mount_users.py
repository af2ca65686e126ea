import contextlib
import os

from agent.mounts import mount_users, mountinfo

FOLDER = "/r/layers"
A, B, C = "a" * 16, "b" * 16, "c" * 16


def layer(name: str, device: int, target: str | None = None) -> mountinfo.Entry:
    return mountinfo.Entry(device, "/", target or f"{FOLDER}/{name}", "erofs", "/store/x.erofs", "")


def overlay(target: str, options: str) -> mountinfo.Entry:
    return mountinfo.Entry(99, "/", target, "overlay", "overlay", options)


def used(*tables: list[mountinfo.Entry]) -> dict[str, set[str]]:
    found = mount_users.of(FOLDER, tables)
    return {name: set(targets) for name, targets in found.used.items()}


def test_a_layer_at_its_place_is_mounted_but_not_used() -> None:
    found = mount_users.of(FOLDER, [[layer(A, 7)]])

    assert (dict(found.mounted), dict(found.used)) == ({A: 7}, {})


def test_an_overlay_uses_each_layer_that_it_names() -> None:
    options = f"rw,lowerdir={FOLDER}/{A}:{FOLDER}/{B}:/r/s/3/fs,upperdir=/r/s/4/fs,workdir=/r/s/4/w"

    assert used([layer(A, 7), layer(B, 8), layer(C, 9), overlay("/c", options)]) == {
        A: {"/c"},
        B: {"/c"},
    }


def test_the_options_of_newer_kernels_are_read_as_well() -> None:
    options = f"rw,lowerdir+={FOLDER}/{A},lowerdir+={FOLDER}/{B},upperdir=/u"

    assert set(used([overlay("/c", options)])) == {A, B}


def test_containerds_shortened_lists_are_read_as_well() -> None:
    assert used([overlay("/c", f"lowerdir={A}:{B}")]) == {A: {"/c"}, B: {"/c"}}
    assert used([overlay("/c", f"lowerdir=layers/{A}:s/5/fs")]) == {A: {"/c"}}


def test_layers_of_another_root_are_others() -> None:
    assert used([overlay("/c", f"lowerdir=/other/layers/{A}:/other/{B}")]) == {}


def test_a_bind_mount_of_a_layer_uses_it() -> None:
    assert used([layer(A, 7), layer(A, 7, "/view")]) == {A: {"/view"}}


def test_a_layer_without_its_place_is_used_still() -> None:
    """As somebody's umount leaves it: the overlay holds the file system by itself."""
    found = mount_users.of(FOLDER, [[overlay("/c", f"lowerdir={FOLDER}/{A}")]])

    assert (dict(found.mounted), set(found.used)) == ({}, {A})


def test_what_only_another_namespace_has_counts() -> None:
    own = [layer(A, 7), layer(B, 8)]
    left_over = [overlay("/", f"lowerdir={FOLDER}/{A}")]
    copied = [layer(B, 8)]

    assert used(own, left_over, copied) == {A: {"/"}}


def test_our_own_mount_table_is_among_all() -> None:
    """Compared by what stays: others may mount something meanwhile."""
    before = set(mountinfo.read())
    tables = [set(table) for table in mount_users.all_tables()]
    stays = before & set(mountinfo.read())

    assert any(stays <= table for table in tables)


def test_each_namespace_is_read_once() -> None:
    """All threads and children of the test share one."""
    namespaces = []
    for process, _ in mount_users.tables():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            namespaces.append(os.readlink(f"/proc/{process}/ns/mnt"))

    assert os.readlink("/proc/self/ns/mnt") in namespaces
    assert len(set(namespaces)) == len(namespaces)


def test_what_is_shown_to_user_namespaces_is_no_use_of_a_layer_and_an_overlay_on_it_is() -> None:
    shown = layer(A, 7, f"/r/m/12/layers/{A}")
    options = f"lowerdir=/r/m/12/layers/{A}:/r/m/12/s/3/fs,upperdir=/r/s/12/fs"

    assert used([layer(A, 7), shown]) == {}
    assert used([layer(A, 7), shown, overlay("/c", options)]) == {A: {"/c"}}
    assert used([overlay("/c", options.replace("/r/m/12/", "")), layer(A, 7)]) == {A: {"/c"}}
