import pathlib

import pytest

from agent.mounts import mountinfo, nfs

PLACE = pathlib.Path("/var/lib/uimgacc/store")
EXPORT = "nfs.example:/export/store"


def wanted(options: str = "", export: str = EXPORT) -> nfs.Wanted:
    return nfs.wanted(export, options, PLACE)


def mount(target: str, source: str = EXPORT, kind: str = "nfs4") -> mountinfo.Entry:
    return mountinfo.Entry(
        device=50, root="/", target=target, kind=kind, source=source, options="ro"
    )


def path(number: int, options: str = "") -> str:
    return f"{PLACE}.mounts/{wanted(options).key}-{number}"


def linked(number: int, options: str = "") -> str:
    return f"store.mounts/{wanted(options).key}-{number}"


@pytest.mark.parametrize(
    ("text", "server", "where", "source"),
    [
        ("nfs.example:/a/b/", "nfs.example", "/a/b", "nfs.example:/a/b"),
        ("10.0.0.1:/", "10.0.0.1", "/", "10.0.0.1:/"),
        ("[fd00::1]:/a", "fd00::1", "/a", "[fd00::1]:/a"),
    ],
)
def test_an_export_is_read_as_in_fstab(text, server, where, source) -> None:
    export = nfs.parse_export(text)

    assert (export.server, export.path, export.source) == (server, where, source)


@pytest.mark.parametrize("text", ["", "nfs.example", "nfs.example:", ":/a", "/a", "fd00::1:/a"])
def test_what_is_no_export_is_refused(text) -> None:
    with pytest.raises(nfs.Unusable, match="SERVER:/PATH"):
        nfs.parse_export(text)


def test_versions_are_tried_until_the_server_speaks_one() -> None:
    tried = nfs.attempts(nfs.parse_options(""))

    assert [(kind, options.rpartition("vers=")[2]) for kind, options in tried] == [
        ("nfs4", "4.2"),
        ("nfs4", "4.1"),
        ("nfs4", "4.0"),
    ]


def test_a_version_that_is_asked_for_is_the_only_one() -> None:
    ((kind, options),) = nfs.attempts(nfs.parse_options("nfsvers=3,nconnect=8,ro,noatime"))

    assert kind == "nfs"
    assert {"vers=3", "nolock", "nconnect=8", "hard"} <= set(options.split(","))
    assert "nconnect=2" not in options
    assert "noatime" not in options


@pytest.mark.parametrize("option", ["soft", "softerr", "rw", "addr=10.0.0.1"])
def test_options_that_would_hurt_are_refused(option) -> None:
    with pytest.raises(nfs.Unusable, match=option):
        nfs.parse_options(f"nconnect=2,{option}")


def test_on_a_fresh_node_it_is_mounted_and_linked() -> None:
    plan = nfs.plan(wanted(), nfs.Seen(""))

    assert plan == nfs.Plan(pathlib.Path(path(1)), mount=path(1), link=linked(1))


def test_an_empty_folder_made_for_the_place_gives_way() -> None:
    plan = nfs.plan(wanted(), nfs.Seen("folder", empty=True))

    assert (plan.mount, plan.link) == (path(1), linked(1))


@pytest.mark.parametrize("seen", [nfs.Seen("folder", empty=False), nfs.Seen("file")])
def test_what_exists_at_the_place_is_left_alone(seen) -> None:
    with pytest.raises(nfs.Unusable, match="exists already"):
        nfs.plan(wanted(), seen)


def test_what_a_predecessor_mounted_is_taken() -> None:
    seen = nfs.Seen("link", linked(1), mounts=[mount(path(1))])

    assert nfs.plan(wanted(), seen) == nfs.Plan(pathlib.Path(path(1)))


def test_a_predecessor_that_died_before_it_could_link_is_finished() -> None:
    seen = nfs.Seen("", mounts=[mount(path(1))])

    assert nfs.plan(wanted(), seen) == nfs.Plan(pathlib.Path(path(1)), link=linked(1))


def test_after_a_reboot_the_same_folder_is_used_again() -> None:
    assert nfs.plan(wanted(), nfs.Seen("link", linked(1))) == nfs.Plan(
        pathlib.Path(path(1)), mount=path(1)
    )


def test_a_stale_mount_is_replaced_and_goes_when_it_can() -> None:
    seen = nfs.Seen("link", linked(1), mounts=[mount(path(1))])

    assert nfs.plan(wanted(), seen, {path(1)}) == nfs.Plan(
        pathlib.Path(path(2)),
        mount=path(2),
        link=linked(2),
        old=(path(1),),
        unmount=(path(1),),
    )


def test_an_old_mount_stays_while_a_layer_is_from_it() -> None:
    seen = nfs.Seen(
        "link",
        linked(2),
        mounts=[mount(path(1)), mount(path(2))],
        layers=[f"{path(1)}/sha256/ab/ab.erofs", f"{path(2)}/sha256/cd/cd.erofs"],
    )

    assert nfs.plan(wanted(), seen, {path(1)}) == nfs.Plan(pathlib.Path(path(2)), old=(path(1),))


def test_other_options_are_another_mount() -> None:
    seen = nfs.Seen("link", linked(1), mounts=[mount(path(1))])
    plan = nfs.plan(wanted("nconnect=8"), seen)

    assert plan.mount == path(1, "nconnect=8")
    assert plan.unmount == (path(1),)


def test_the_order_of_options_makes_no_other_mount() -> None:
    assert wanted("sec=sys,port=2050").key == wanted("port=2050,sec=sys").key


def test_what_an_administrator_has_mounted_there_is_used_as_it_is() -> None:
    seen = nfs.Seen("folder", mounts=[mount(str(PLACE))])

    assert nfs.plan(wanted(), seen) == nfs.Plan(PLACE)


def test_another_file_system_at_the_place_is_not_taken_for_the_export() -> None:
    seen = nfs.Seen("folder", mounts=[mount(str(PLACE), "other.example:/export/store")])
    with pytest.raises(nfs.Unusable, match=r"other\.example"):
        nfs.plan(wanted(), seen)


def test_an_administrators_mount_that_is_stale_is_his_to_unmount() -> None:
    seen = nfs.Seen("folder", mounts=[mount(str(PLACE))])
    with pytest.raises(nfs.Unusable, match="umount -l"):
        nfs.plan(wanted(), seen, {str(PLACE)})
