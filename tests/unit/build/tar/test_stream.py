"""What mkfs.erofs gets to see of a tar: read back with the standard library's reader."""

import contextlib
import io
import itertools
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import errors
from agent.build import limits
from agent.build.tar import acl, headers, stream
from lab.samples import odd, shapes, tars


def passed(tar: bytes, *, step: int = 1 << 20, **options) -> bytes:
    """The whole output for a tar that is fed in pieces."""
    normaliser = stream.Normaliser(**options)
    out = bytearray()
    for start in range(0, len(tar), step):
        for span in normaliser.feed(tar[start : start + step]):
            out += span
    for span in normaliser.finish():
        out += span
    return bytes(out)


def members(*entries: tars.Entry, **options) -> dict[str, tarfile.TarInfo]:
    """What comes out for some entries, by name, the root left out."""
    with read(passed(tars.archive(entries), **options)) as archive:
        return {one.name: one for one in archive.getmembers() if one.name != "."}


def read(tar: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(tar), errorlevel=2)


def content(name: str, *entries: tars.Entry) -> bytes:
    with read(passed(tars.archive(entries))) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def test_plain_entries_pass_byte_for_byte() -> None:
    tar = tars.archive([tars.folder("a"), tars.file("a/b", b"x" * 1000), tars.file("c")])

    out = passed(tar)

    assert out[:512] == headers.root_entry()
    assert out[512:].rstrip(b"\0") == tar.rstrip(b"\0")


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 4096])
def test_the_size_of_pieces_does_not_matter(step: int) -> None:
    tar = tars.archive(
        [
            tars.folder("./a/"),
            tars.file("a/b", b"x" * 1000, pax={"mtime": b"1.5"}),
            tars.file("n" * 150, b"y" * 513),
            tars.file("implied/deep/file", b"z"),
            tars.symlink("s", "a"),
            tars.file("s/through", b"q" * 700),
            tars.file(
                "holes", b"d" * 600, sparse="pax-1.0", size=5000, holes=[(0, 512), (4096, 88)]
            ),
        ]
    )

    assert passed(tar, step=step) == passed(tar)


def assert_whole_and_within_the_root(out: bytes) -> None:
    """The output is a tar to its end, and no name in it leads out of the root."""
    with read(out) as archive:
        names = archive.getnames()

    assert names[0] == "."
    assert not [name for name in names if name.startswith("/") or ".." in name.split("/")]
    assert (len(out) % 512, out[-1024:]) == (0, bytes(1024))


@given(st.binary(max_size=3000), st.integers(1, 600))
def test_any_bytes_are_refused_or_make_a_whole_tar(data: bytes, step: int) -> None:
    with contextlib.suppress(errors.PermanentError):
        assert_whole_and_within_the_root(passed(data, step=step))


NAMES = st.lists(
    st.sampled_from([b"a", b"b", b"..", b".", b"", b"c" * 60, b"\xff", b"\n"]), max_size=4
).map(b"/".join)
KINDS = st.sampled_from([tars.FILE, tars.FOLDER, tars.SYMLINK, tars.LINK, b"3", b"6", b"7", b"Z"])


@given(st.lists(st.builds(tars.Entry, name=NAMES, kind=KINDS, target=NAMES), max_size=5))
def test_any_entries_are_refused_or_make_a_whole_tar(entries: list[tars.Entry]) -> None:
    with contextlib.suppress(errors.PermanentError):
        assert_whole_and_within_the_root(passed(tars.archive(entries)))


@given(st.integers(0, 1023), st.integers(1, 255))
def test_a_damaged_header_is_refused_or_passed_to_mkfs_as_it_is(position: int, change: int) -> None:
    """mkfs.erofs verifies the checksum, which no mended or half-read header may hide from it."""
    whole = tars.archive([tars.folder("a"), tars.file("a/b", b"x" * 600)])
    tar = bytearray(whole)
    tar[position] ^= change
    start = position // stream.BLOCK * stream.BLOCK
    with contextlib.suppress(errors.PermanentError):
        out = passed(bytes(tar))
        blocks = {out[at : at + stream.BLOCK] for at in range(0, len(out), stream.BLOCK)}
        assert bytes(tar[start : start + stream.BLOCK]) in blocks or out == passed(whole)


@given(st.integers(0, 599), st.integers(1, 255))
def test_content_passes_as_it_is(position: int, change: int) -> None:
    data = bytearray(b"x" * 600)
    data[position] ^= change

    assert content("a/b", tars.folder("a"), tars.file("a/b", bytes(data))) == bytes(data)


def test_the_root_is_what_containerd_makes_it() -> None:
    with read(passed(tars.archive([tars.folder("./", mode=0o700, uid=5), tars.file("a")]))) as got:
        roots = [one for one in got if one.name == "."]

    assert [(root.mode, root.uid, root.mtime) for root in roots] == [(0o755, 0, 0)]


def test_an_empty_tar_is_an_empty_layer() -> None:
    assert passed(b"") == headers.root_entry() + bytes(1024)
    assert passed(bytes(1024)) == headers.root_entry() + bytes(1024)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("./a", "a"),
        ("/a", "a"),
        ("../a", "a"),
        ("x/../a", "a"),
        ("b//./a", "b/a"),
        ("b/a/", "b/a"),
    ],
)
def test_names_are_cleaned(name: str, clean: str) -> None:
    found = members(tars.folder("b"), tars.file(name, b"1"))

    assert clean in found
    assert found[clean].isfile()


def test_parents_that_are_not_named_are_made_as_containerd_does() -> None:
    found = members(tars.file("a/b/c", uid=7))

    assert [(name, one.mode, one.uid) for name, one in found.items()] == [
        ("a", 0o755, 0),
        ("a/b", 0o755, 0),
        ("a/b/c", 0o644, 7),
    ]


def test_parents_that_are_not_named_look_like_those_below() -> None:
    below = {b"tmp": stream.DirInfo(0o1777, 1, 2, 3, 4, ((b"user.k", b"v"),))}

    found = members(tars.file("tmp/x/y"), below=below.get)

    tmp = found["tmp"]
    assert (tmp.mode, tmp.uid, tmp.gid, tmp.mtime) == (0o1777, 1, 2, pytest.approx(3))
    assert tmp.pax_headers["SCHILY.xattr.user.k"] == "v"
    assert found["tmp/x"].mode == 0o755


def test_symlinks_in_parents_are_followed_within_the_root() -> None:
    found = members(
        tars.symlink("lib", "usr/lib"),
        tars.file("lib/a"),
        tars.symlink("abs", "/etc"),
        tars.file("abs/b"),
        tars.symlink("out", "../../.."),
        tars.file("out/c"),
    )

    assert {"usr/lib/a", "etc/b", "c"} <= found.keys()


def test_symlinks_in_a_circle_are_refused() -> None:
    with pytest.raises(headers.LayerTarError, match="circle"):
        members(tars.symlink("a", "b"), tars.symlink("b", "a"), tars.file("a/x"))


def test_a_symlink_that_was_replaced_is_not_followed() -> None:
    found = members(tars.symlink("a", "b"), tars.folder("a"), tars.file("a/x"))

    assert "a/x" in found


def test_symlinks_have_mode_777() -> None:
    entry = tars.Entry(name=b"s", kind=tars.SYMLINK, target=b"t", mode=0)

    assert members(entry)["s"].mode == 0o777


@pytest.mark.parametrize(
    ("pax", "wanted"),
    [
        (b"5.5", b"5.500000000"),
        (b"5.000000001999", b"5.000000001"),
        (b"-1.5", None),
        (b"99999999999999", None),
        (b"9000000000", b"9000000000.000000000"),
        (b"12345678901", None),
    ],
)
def test_times(pax: bytes, wanted: bytes | None) -> None:
    found = members(tars.file("a", pax={"mtime": pax}))["a"]

    if wanted is None:
        assert found.mtime == 0
    else:
        assert found.pax_headers["mtime"].encode() == wanted


def test_only_xattrs_that_linux_takes_are_kept() -> None:
    pax = {
        "SCHILY.xattr.user.a": b"1\0\n=",
        "SCHILY.xattr.security.capability": odd.CAPABILITY,
        "SCHILY.xattr.trusted.overlay.opaque": b"y",
        "SCHILY.xattr.other.thing": b"3",
        "LIBARCHIVE.xattr.user.b": b"NA",
    }

    file = members(tars.file("a", pax=pax))["a"]
    link = members(tars.symlink("a", "b", pax=pax))["a"]

    assert {key for key in file.pax_headers if "xattr" in key} == {
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.security.capability",
    }
    assert {key for key in link.pax_headers if "xattr" in key} == {
        "SCHILY.xattr.security.capability"
    }


def test_a_global_header_changes_nothing() -> None:
    header = tars.pax_header({"path": b"other", "SCHILY.xattr.user.g": b"1"})
    block = header[:148] + b" " * 8 + b"g" + header[157:512]
    block = block[:148] + b"%06o\0 " % sum(block) + block[156:]

    with read(passed(block + header[512:] + tars.archive([tars.file("a")]))) as got:
        assert got.getnames() == [".", "a"]


@pytest.mark.parametrize("dialect", ["pax-0.1", "pax-1.0"])
def test_sparse_files_are_filled_up(dialect: str) -> None:
    holes = [(512, 512), (4096, 100)]
    entry = tars.file("s", b"a" * 512 + b"b" * 100, sparse=dialect, size=10_000, holes=holes)

    data = content("s", entry, tars.file("after"))

    assert data == bytes(512) + b"a" * 512 + bytes(3072) + b"b" * 100 + bytes(10_000 - 4196)


def test_gnu_sparse_files_are_refused_like_in_containerd() -> None:
    entry = tars.file("s", b"a" * 512, sparse="gnu", size=10_000, holes=[(512, 512)])

    with pytest.raises(headers.LayerTarError, match="containerd does not unpack it either"):
        members(entry)


def test_long_names_of_both_kinds_and_large_numbers() -> None:
    long = "d" * 120
    found = members(
        tars.folder(long),
        tars.file(f"{long}/pax", uid=3_000_000, gid=2**31),
        tars.file(f"{long}/gnu", gnu=True, uid=3_000_000, mtime=-5),
        tars.symlink("s", "t" * 300),
    )

    assert found[f"{long}/pax"].uid == 3_000_000
    assert found[f"{long}/pax"].gid == 2**31
    assert (found[f"{long}/gnu"].uid, found[f"{long}/gnu"].mtime) == (3_000_000, 0)
    assert found["s"].linkname == "t" * 300


def test_v7_and_nul_type_headers_are_understood() -> None:
    tar = bytearray(tars.archive([tars.folder("a/"), tars.file("b", b"1")]))
    for start in (0, 512):
        tar[start + 257 : start + 265] = bytes(8)
        tar[start + 156] = 0
        tar[start + 148 : start + 156] = b" " * 8
        tar[start + 148 : start + 156] = b"%06o\0 " % sum(tar[start : start + 512])

    with read(passed(bytes(tar))) as got:
        kinds = {one.name: one.type for one in got}

    assert (kinds["a"], kinds["b"]) == (tarfile.DIRTYPE, tarfile.REGTYPE)


def test_whiteouts_keep_their_name_and_owner_and_lose_the_rest() -> None:
    found = members(tars.folder("a"), tars.file("a/.wh.b", b"data", uid=5, mode=0o644))["a/.wh.b"]

    assert (found.size, found.mode, found.uid, found.mtime) == (0, 0, 5, 0)


@pytest.mark.parametrize("name", [".wh.", "a/.wh..", "a/.wh..."])
def test_whiteouts_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(errors.PermanentError, match="whiteout"):
        members(tars.folder("a"), tars.file(name))


def test_an_opaque_root_becomes_an_attribute() -> None:
    with read(passed(tars.archive([tars.file(".wh..wh..opq")]))) as got:
        root = got.getmembers()[-1]

    assert root.name == "."
    assert root.pax_headers["SCHILY.xattr.trusted.overlay.opaque"] == "y"


def test_hard_links_name_the_clean_path() -> None:
    found = members(tars.folder("a"), tars.file("a/b"), tars.link("c", "./a/../a/b"))

    assert found["c"].linkname == "a/b"


@pytest.mark.parametrize("target", ["a", "./a", "/"])
def test_a_hard_link_to_itself_or_to_a_directory_is_refused(target: str) -> None:
    with pytest.raises(errors.PermanentError, match="hard link"):
        members(tars.link("a", target))


def test_something_in_a_file_is_refused() -> None:
    with pytest.raises(headers.LayerTarError, match="a, which is a file"):
        members(tars.file("a"), tars.file("a/b"))


@pytest.mark.parametrize("cut", [100, 600, 1300])
def test_a_tar_that_is_cut_off_is_refused(cut: int) -> None:
    tar = tars.archive([tars.folder("a"), tars.file("b", b"x" * 1000)])

    with pytest.raises(headers.LayerTarError, match="middle"):
        passed(tar[:cut])


def test_a_tar_without_its_end_or_with_more_after_it_is_whole() -> None:
    tar = tars.archive([tars.folder("a"), tars.file("b", b"x" * 1000)])
    whole = tar[: 512 + 512 + 1000]

    assert passed(whole) == passed(tar)
    assert passed(tar + b"garbage" * 1000) == passed(tar)


def both_passes(
    *entries: tars.Entry, is_bottom: bool = False, below=stream.nothing_below
) -> tarfile.TarFile:
    """What comes out in the end; a second pass finds nothing more to correct."""
    tar = tars.archive(entries)
    first = stream.Normaliser(below, is_bottom=is_bottom)
    out = b"".join(bytes(span) for span in first.feed(tar)) + b"".join(first.finish())
    if known := first.corrections():
        second = stream.Normaliser(below, known, is_bottom=is_bottom)
        out = b"".join(bytes(span) for span in second.feed(tar)) + b"".join(second.finish())
        assert not second.corrections()
    return read(out)


def xattrs_of(info: tarfile.TarInfo) -> dict[str, bytes]:
    """The xattrs of what came out, by name."""
    prefix = "SCHILY.xattr."
    return {
        key.removeprefix(prefix): value.encode("utf-8", "surrogateescape")
        for key, value in info.pax_headers.items()
        if key.startswith(prefix)
    }


def test_a_hard_link_that_changes_its_file_asks_for_a_second_pass() -> None:
    entries = [
        tars.file("one", mode=0o640),
        tars.link("two", "one", mode=0o600, uid=5),
        tars.link("three", "two", mode=0o600, uid=5, pax={"SCHILY.xattr.user.k": b"v"}),
    ]

    with both_passes(*entries) as got:
        one = got.getmember("one")

    assert (one.mode, one.uid, one.pax_headers["SCHILY.xattr.user.k"]) == (0o600, 5, "v")


def test_a_hard_link_like_its_file_asks_for_nothing() -> None:
    normaliser = stream.Normaliser()
    tar = tars.archive([tars.file("a", mode=0o640), tars.link("b", "a", mode=0o640)])
    assert list(normaliser.feed(tar))

    assert not normaliser.corrections()


def test_a_hard_link_changes_the_file_that_it_was_made_of_and_no_later_one() -> None:
    entries = [
        tars.file("f", b"1"),
        tars.link("h", "f"),
        tars.link("h2", "h", mode=0o600, uid=4),
        tars.file("f", b"2", mode=0o777),
        tars.file("g", b"1", mode=0o601),
        tars.file("g", b"22", mode=0o602),
        tars.link("i", "g", mode=0o644),
        tars.file("g", b"333", mode=0o644),
    ]

    with both_passes(*entries) as got:
        made = [(one.name, one.mode, one.uid) for one in got if one.isreg()]

    assert made == [
        ("f", 0o600, 4), ("f", 0o777, 0), ("g", 0o601, 0), ("g", 0o644, 0), ("g", 0o644, 0)
    ]  # fmt: skip


def test_a_link_that_was_replaced_is_a_file_of_its_own() -> None:
    entries = [
        tars.file("f"),
        tars.link("h", "f"),
        tars.file("h", b"own"),
        tars.link("i", "h", mode=0o600),
    ]

    with both_passes(*entries) as got:
        made = [(one.name, one.mode) for one in got if one.isreg()]

    assert made == [("f", 0o644), ("h", 0o600)]


def test_a_hard_link_without_capability_takes_that_of_its_file() -> None:
    capability = {"SCHILY.xattr.security.capability": odd.CAPABILITY}
    for pax, kept in ({}, False), (capability, True):
        with both_passes(tars.file("f", pax=capability), tars.link("h", "f", pax=pax)) as got:
            assert ("security.capability" in xattrs_of(got.getmember("f"))) is kept


def test_a_hard_link_to_what_the_layer_does_not_have_is_refused() -> None:
    with pytest.raises(headers.LayerTarError, match="hard link a to etc/passwd"):
        both_passes(tars.link("a", "etc/passwd"), tars.file("etc/passwd"))


ACL = shapes.NAMED


def acl_of(mode: int) -> bytes:
    changed = acl.with_mode(ACL, mode)
    assert changed is not None
    return changed


def raw(name: str, *entries: tars.Entry, **options) -> dict[bytes, bytes]:
    """The xattrs of a name in the output, as bytes."""
    files = both_passes(*entries, **options).fileobj
    assert files is not None
    files.seek(0)
    return pax_xattrs(files.read())[name.encode()]


def pax_xattrs(tar: bytes) -> dict[bytes, dict[bytes, bytes]]:
    """The xattrs in a tar by path; the standard library reads them as text."""
    result: dict[bytes, dict[bytes, bytes]] = {}
    at, pending = 0, {}
    while at + 512 <= len(tar) and any(tar[at : at + 512]):
        block = tar[at : at + 512]
        size = int(block[124:135], 8)
        data = tar[at + 512 : at + 512 + size]
        at += 512 + (size + 511) // 512 * 512
        if block[156:157] == b"x":
            pending = headers._parse_pax(data)
            continue
        name = block[:100].rstrip(b"\0")
        found = {key[13:]: value for key, value in pending.items() if key[:13] == b"SCHILY.xattr."}
        result.setdefault(name, {}).update(found)
        pending = {}
    return result


def test_an_acl_is_as_chmod_leaves_it() -> None:
    pax = {"SCHILY.xattr.system.posix_acl_access": ACL}

    assert raw("f", tars.file("f", mode=0o640, pax=pax)) == {acl.ACCESS: acl_of(0o640)}
    assert raw("s", tars.symlink("s", "f", pax=pax)) == {}


def test_what_is_made_in_a_directory_with_a_default_acl_inherits_one() -> None:
    pax = {"SCHILY.xattr.system.posix_acl_default": ACL}
    entries = [
        tars.file("d0/before"),
        tars.folder("d", pax=pax),
        tars.file("d/f", mode=0o640),
        tars.folder("d/sub", mode=0o711),
        tars.file("d/sub/f"),
        tars.symlink("d/s", "f"),
        tars.file("d/implied/f"),
        tars.file("e/f"),
    ]

    assert raw("d/f", *entries) == {acl.ACCESS: acl_of(0o640)}
    assert raw("d/sub", *entries) == {acl.ACCESS: acl_of(0o711), acl.DEFAULT: ACL}
    assert raw("d/sub/f", *entries) == {acl.ACCESS: acl_of(0o644)}
    assert raw("d/implied/f", *entries) == {acl.ACCESS: acl_of(0o644)}
    assert raw("d/implied", *entries) == {acl.ACCESS: acl_of(0o755), acl.DEFAULT: ACL}
    assert raw("d/s", *entries) == raw("e/f", *entries) == {}
    below = {b"e": stream.DirInfo(0o755, 0, 0, 0, 0, ((acl.DEFAULT, ACL),))}.get
    assert raw("e/f", *entries, below=below) == {acl.ACCESS: acl_of(0o644)}


def test_a_second_entry_for_a_directory_changes_its_xattrs_and_adds_to_them() -> None:
    entries = [
        tars.folder("d", pax={"SCHILY.xattr.user.a": b"1", "SCHILY.xattr.user.b": b"1"}),
        tars.file("d/f"),
        tars.folder("d", pax={"SCHILY.xattr.user.b": b"2", "SCHILY.xattr.user.c": b"2"}),
        tars.folder("e", pax={"SCHILY.xattr.user.a": b"1"}),
        tars.folder("e", mode=0o700),
    ]

    with both_passes(*entries) as got:
        made = [(one.name, xattrs_of(one)) for one in got if one.isdir() and one.name != "."]

    assert made == [
        ("d", {"user.a": b"1", "user.b": b"2", "user.c": b"2"}),
        ("d", {}),
        ("e", {"user.a": b"1"}),
        ("e", {}),
    ]


def test_whiteouts_of_the_bottom_layer_leave_no_trace() -> None:
    entries = [
        tars.file(".wh.never"),
        tars.folder("d"),
        tars.file("d/f", b"gone"),
        tars.file("d/g/h"),
        tars.file("d/.wh.f"),
        tars.file("d/.wh.g"),
        tars.file("d/g/again"),
        tars.file("d/.wh..wh..opq"),
        tars.file("e/made/by-implication"),
        tars.file(".wh..wh..opq"),
    ]

    with both_passes(*entries, is_bottom=True) as got:
        assert got.getnames() == [".", "d"]


@pytest.mark.parametrize(
    "after", [tars.file("d"), tars.symlink("d", "nowhere"), tars.file(".wh.d"), tars.file("e")]
)
def test_a_directory_that_is_gone_in_the_end_is_refused_as_containerd_fails_on_its_time(
    after: tars.Entry,
) -> None:
    entries = [tars.folder("d"), tars.folder("d/g"), tars.folder("e"), after]

    with pytest.raises(headers.LayerTarError, match=r"and removes it again"):
        both_passes(*entries, tars.file("d"), is_bottom=True)


def test_a_directory_that_is_replaced_by_something_is_not_gone() -> None:
    entries = [tars.folder("d"), tars.file("d/g/h"), tars.symlink("d", "e"), tars.folder("e")]

    with both_passes(*entries) as got:
        assert got.getmembers()[-1].name == "e"


def test_a_whiteout_of_what_the_same_layer_has_is_refused_above_the_bottom() -> None:
    for entry in tars.file("f"), tars.folder("f"), tars.symlink("f", "g"), tars.file(".wh.f"):
        with pytest.raises(headers.LayerTarError, match="whiteout of f"):
            both_passes(entry, tars.file(".wh.f"))


def xattr(name: str, value: bytes = b"v", kind: bytes = tars.FILE) -> tars.Entry:
    return tars.Entry(name=b"f", kind=kind, pax={f"SCHILY.xattr.{name}": value}, target=b"t")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (xattr(""), "name has 0 bytes"),
        (xattr("user." + "n" * 251), "name has 256 bytes"),
        (xattr("user."), "user. and no more"),
        (xattr("security."), "security. and no more"),
        (xattr("user.k", bytes(20_000)), "4 KiB"),
        (xattr("other.k", bytes(65_537)), "65537 bytes"),
        (xattr("security.capability", b"x" * 20), "security.capability"),
        (xattr("security.capability", odd.CAPABILITY[:12]), "security.capability"),
        (xattr("system.posix_acl_access", b"abc"), "no ACL"),
        (xattr("system.posix_acl_access", ACL[:-8]), "no ACL"),
        (xattr("system.posix_acl_access", ACL[:-1]), "no ACL"),
        (xattr("system.posix_acl_default", ACL), "no directory"),
        (tars.file("f", pax={"mtime": b"99999999999999999999"}), "not a number"),
        (tars.file("f", pax={"atime": b"x"}), "not a time"),
        (tars.file("/".join(["n" * 200] * 25)), "too long"),
        (tars.file("n" * 256), "too long"),
        (tars.symlink("f", ""), "target of 0 bytes"),
        (tars.symlink("f", "t" * 4096), "target of 4096 bytes"),
    ],
)
def test_what_linux_does_not_take_is_refused(entry: tars.Entry, words: str) -> None:
    with pytest.raises(headers.LayerTarError, match=words):
        both_passes(entry)


@pytest.mark.parametrize(
    "entry",
    [
        xattr("user.", kind=tars.FIFO),
        xattr("unknown.k"),
        xattr("trusted." + "n" * 300),
        xattr("system.posix_acl_access", b"\1\0\0\0"),
        xattr("user.k", kind=tars.SYMLINK),
        xattr("system.posix_acl_default", b""),
        xattr("system.posix_acl_access", acl.encode([(1, 6, 0), (4, 4, 0), (32, 4, 0)])),
    ],
)
def test_xattrs_that_linux_does_not_keep_are_dropped(entry: tars.Entry) -> None:
    assert raw("f", entry) == {}


def test_a_time_may_have_a_plus() -> None:
    assert members(tars.file("a", pax={"mtime": b"+5.5"}))["a"].mtime == pytest.approx(5.5)


# -- what a tar may take ----------------------------------------------------


def account(**bounds: int) -> limits.Account:
    return limits.Account(limits.Limits(**bounds))


def test_a_hole_is_generated_and_not_listed() -> None:
    """An exabyte of zeros, in 1 MiB at a time, for a reader who takes ten."""
    tar = tars.archive([tars.file("f", sparse="pax-1.0", size=1 << 60, holes=[(1 << 60, 0)])])
    normaliser = stream.Normaliser(account=account(blob=1 << 60, room=1 << 60))

    spans = [len(span) for span in itertools.islice(normaliser.feed(tar), 20)]

    assert spans[-10:] == [1 << 20] * 10


@pytest.mark.parametrize("dialect", ["pax-0.1", "pax-1.0"])
def test_a_hole_beyond_the_limit_is_refused_at_its_header(dialect: str) -> None:
    size = (1 << 63) - 1
    tar = tars.archive([tars.file("f", sparse=dialect, size=size, holes=[(size, 0)])])
    normaliser = stream.Normaliser()

    spans: list[object] = []
    with pytest.raises(limits.TooMuch, match="unpacks to more than"):
        spans.extend(normaliser.feed(tar))
    assert len(spans) < 4


def test_a_file_beyond_the_limit_is_refused_at_its_header() -> None:
    header = tars.header(tars.file("f"), 5 << 30)

    with pytest.raises(limits.TooMuch, match="unpacks to more than"):
        passed(header)


def test_a_map_that_goes_backwards_is_refused() -> None:
    holes = [(0, 1024), (1024, -1024), (0, 0)]
    tar = tars.archive([tars.file("f", sparse="pax-1.0", size=1024, holes=holes)])

    with pytest.raises(headers.LayerTarError, match="contradicts itself"):
        passed(tar)


@pytest.mark.parametrize(
    "entries",
    [
        [tars.file(f"f{number}") for number in range(50)],
        [tars.folder(f"d{number}") for number in range(50)],
        [tars.file("n" * 200 + f"/{number}") for number in range(20)],
        [tars.file("x", pax={"SCHILY.xattr.user.k": b"v" * 3000}) for _ in range(6)],
        [tars.file("a"), *(tars.link(f"l{number}", "a") for number in range(25))],
        [tars.symlink(f"l{number}", "t" * 3000) for number in range(6)],
        [tars.file("/".join("abcdefghijklmnopqrstuvwxyz"))],
    ],
)
def test_the_memory_for_entries_is_bounded(entries: list[tars.Entry]) -> None:
    tar = tars.archive(entries)

    assert passed(tar, account=account(memory=1 << 20))
    with pytest.raises(limits.TooMuch, match="need more memory"):
        passed(tar, account=account(memory=30_000))


def test_a_path_has_so_many_names_at_most() -> None:
    deep = "/".join(["d"] * limits.PATH_DEPTH)

    assert passed(tars.archive([tars.file(deep)]))
    with pytest.raises(limits.TooMuch, match="more than 512 names"):
        passed(tars.archive([tars.file(f"{deep}/f")]))


@pytest.mark.parametrize("entry", [tars.file("a/../" * 3000 + "b"), tars.link("l", "a/" * 3000)])
def test_a_name_is_judged_after_it_is_cleaned(entry: tars.Entry) -> None:
    tar = tars.archive([tars.file("f"), entry])
    if entry.kind == tars.FILE:
        assert passed(tar)
    else:
        with pytest.raises(headers.LayerTarError, match="too long"):
            passed(tar)


def replaced(count: int) -> list[tars.Entry]:
    pairs = [(tars.folder(f"d{number}"), tars.file(f"d{number}")) for number in range(count)]
    return [tars.folder(f"all{number}") for number in range(count)] + [
        one for pair in pairs for one in pair
    ]


def test_looking_for_what_entries_remove_is_bounded() -> None:
    tar = tars.archive(replaced(100))

    assert passed(tar)
    with pytest.raises(limits.TooMuch, match="more than 5,000 steps"):
        passed(tar, account=account(steps=5000))


def test_following_symlinks_is_bounded() -> None:
    maze = [tars.symlink(f"l{number}", f"x/../l{number + 1}") for number in range(200)]
    maze += [tars.file(f"l0/{number % 2}/f") for number in range(100)]

    with pytest.raises(limits.TooMuch, match="more than 10,000 steps"):
        passed(tars.archive(maze), account=account(steps=10_000))


def test_a_header_of_a_hundred_thousand_records_is_read_once() -> None:
    records = {f"k{number}": b"" for number in range(80_000)}

    assert passed(tars.archive([tars.file("f", pax=records)]))


def test_opaque_markers_of_the_bottom_do_not_look_at_all_again_and_again() -> None:
    entries = [tars.file(f"d{number}/f") for number in range(100)]
    entries += [tars.file(f"x{number}/.wh..wh..opq") for number in range(100)]

    with pytest.raises(limits.TooMuch, match="steps"):
        passed(tars.archive(entries), is_bottom=True, account=account(steps=5000))


def test_large_directories_are_bounded_as_mkfs_compares_all_of_their_names() -> None:
    tar = tars.archive([tars.file(f"f{number}") for number in range(101)])

    assert passed(tar, account=account(compared=5050))
    with pytest.raises(limits.TooMuch, match="too many entries"):
        passed(tar, account=account(compared=5049))
    assert passed(
        tars.archive([tars.file(f"d{number % 10}/f{number}") for number in range(101)]),
        account=account(compared=1000),
    )


def test_a_sparse_file_of_negative_size_is_refused() -> None:
    """It would give back what others took."""
    tar = tars.archive([tars.file("f", sparse="pax-1.0", size=-(1 << 60))])

    with pytest.raises(headers.LayerTarError, match="negative size"):
        passed(tar)
