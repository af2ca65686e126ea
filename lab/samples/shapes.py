"""Small images, each about one thing that a tar or a manifest may say; see `lab.samples.odd`.

Made by the tests that use them, not kept in the lab's registry: what containerd makes of each
is right by definition, a tree or a refusal.
"""

import struct

from lab.samples import odd, tars

Layers = list[list[tars.Entry]]

_NO_ID = 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return a POSIX ACL as an xattr has it: tags, permissions, users or groups."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NAMED = acl((1, 6, _NO_ID), (2, 7, 5), (4, 4, _NO_ID), (16, 7, _NO_ID), (32, 0, _NO_ID))
PLAIN = acl((1, 6, _NO_ID), (4, 4, _NO_ID), (32, 4, _NO_ID))
ACCESS = {"SCHILY.xattr.system.posix_acl_access": NAMED}
DEFAULT = {"SCHILY.xattr.system.posix_acl_default": NAMED}
CAPABLE = {"SCHILY.xattr.security.capability": odd.CAPABILITY}


def user(**values: bytes) -> dict[str, bytes]:
    """Return the PAX records of xattrs in the namespace of users."""
    return {f"SCHILY.xattr.user.{name}": value for name, value in values.items()}


def xattr(name: str, value: bytes) -> tars.Entry:
    """Return a file with one xattr."""
    return tars.file("f", b"x\n", pax={f"SCHILY.xattr.{name}": value})


def trees() -> dict[str, Layers]:
    """Return images that containerd unpacks, by name."""
    return {
        "links": [links()],
        "acls": [acls(), more_in_acl_folders()],
        "folders-again": [folders_again()],
        "parents": [parents_below(), parents_between(), parents_above()],
        "bottom": [bottom()],
        "above-bottom": [bottom(), bottom()],
        "whiteouts-again": [[tars.folder("d"), tars.file("d/f")], whiteouts_again()],
        "xattrs": [xattrs()],
        "times": [[tars.file("plus", pax={"mtime": b"+5.25"}), tars.file("minus", mtime=-1)]],
        "long": [long()],
    }


def links() -> list[tars.Entry]:
    """Return hard links whose files are overwritten, and links that change their file."""
    return [
        tars.file("f", b"1\n"),
        tars.link("h", "f"),
        tars.link("h2", "h", mode=0o600, uid=4),
        tars.file("f", b"2\n", mode=0o777),
        tars.file("g", b"1\n", mode=0o600),
        tars.file("g", b"2\n", mode=0o601),
        tars.link("i", "g", mode=0o644),
        tars.file("g", b"3\n", mode=0o644),
        tars.file("k", b"k\n"),
        tars.link("l", "k"),
        tars.file("l", b"own\n"),
        tars.link("m", "l", mode=0o640, gid=3),
        tars.file("capable", b"c\n", mode=0o755, pax=CAPABLE),
        tars.link("incapable", "capable", mode=0o755),
        tars.file("capable-2", b"c\n", mode=0o755, pax=CAPABLE),
        tars.link("capable-too", "capable-2", mode=0o755, pax=CAPABLE),
        tars.file("x", b"x\n", pax=user(a=b"1", b=b"1")),
        tars.link("y", "x", pax=user(b=b"2", c=b"2")),
        tars.link("z", "y", mode=0o4755, mtime=99),
        tars.folder("e"),
        tars.folder("d"),
        tars.file("d/f", b"old\n"),
        tars.link("kept", "d/f"),
        tars.symlink("d/s", "f"),
        tars.link("kept-s", "d/s", uid=7),
        tars.symlink("d", "e"),
        tars.file("d/f", b"new\n", mode=0o604),
    ]


def acls() -> list[tars.Entry]:
    """Return ACLs on files and folders, and what is made in folders with default ones."""
    plain = {"SCHILY.xattr.system.posix_acl_access": PLAIN}
    plain_default = {"SCHILY.xattr.system.posix_acl_default": PLAIN}
    return [
        tars.file("f", b"f\n", mode=0o640, pax=ACCESS),
        tars.file("plain", b"p\n", mode=0o751, pax=plain),
        tars.file("linked", b"l\n", mode=0o640, pax=ACCESS),
        tars.link("link", "linked", mode=0o604),
        tars.symlink("s", "f", pax=ACCESS),
        tars.folder("d", pax={**DEFAULT, **user(a=b"1")}),
        tars.file("d/f", b"f\n", mode=0o640),
        tars.file("d/own", b"o\n", mode=0o640, pax=plain),
        tars.folder("d/sub", mode=0o711),
        tars.file("d/sub/f", b"f\n"),
        tars.symlink("d/s", "f"),
        tars.Entry(name=b"d/fifo", kind=tars.FIFO, mode=0o622),
        tars.Entry(name=b"d/null", kind=tars.CHAR, device=(1, 3), mode=0o666),
        tars.file("d/implied/f", b"f\n"),
        tars.link("d/link", "f", mode=0o600),
        tars.folder("p", pax=plain_default),
        tars.file("p/f", b"f\n", mode=0o640),
        tars.folder("p/sub"),
        tars.folder("late"),
        tars.file("late/before", b"b\n"),
        tars.folder("late", mode=0o750, pax={**DEFAULT, **ACCESS}),
        tars.file("late/after", b"a\n"),
        tars.folder("late", mode=0o705),
    ]


def more_in_acl_folders() -> list[tars.Entry]:
    """Return what a second layer makes in folders of the first one, named and not."""
    return [
        tars.file("d/second", b"2\n", mode=0o600),
        tars.file("d/sub/deep/second", b"2\n"),
        tars.folder("late"),
        tars.file("late/second", b"2\n"),
        tars.file("p/second", b"2\n"),
    ]


def folders_again() -> list[tars.Entry]:
    """Return folders that are named more than once."""
    return [
        tars.folder("d", pax=user(a=b"1", b=b"1")),
        tars.file("d/f", b"f\n"),
        tars.folder("d", mode=0o700, pax=user(b=b"2", c=b"2")),
        tars.folder("e", pax=user(a=b"1")),
        tars.folder("e", mode=0o711, mtime=77),
        tars.folder("g"),
        tars.folder("g", pax=user(a=b"1")),
        tars.folder("h", pax=user(a=b"1")),
        tars.file("h", b"a file now\n"),
        tars.folder("i", pax=user(a=b"1")),
        tars.symlink("i", "d"),
        tars.folder("i", mode=0o750),
    ]


def parents_below() -> list[tars.Entry]:
    """Return folders that layers above put things into without naming them."""
    return [
        tars.folder("usr"),
        tars.folder("usr/lib", mode=0o700, uid=9, pax=user(a=b"1")),
        tars.symlink("lib", "usr/lib"),
        tars.symlink("absolute", "/usr/lib"),
        tars.symlink("chain", "lib"),
        tars.symlink("dangling", "nowhere"),
        tars.symlink("up", "usr/../usr/lib"),
        tars.symlink("through", "lib/../lib"),
        tars.symlink("to-file", "file"),
        tars.file("file", b"f\n"),
        tars.folder("a", mode=0o750, uid=5, gid=6),
        tars.folder("etc", mode=0o711),
        tars.folder("gone", mode=0o750),
        tars.folder("hidden", mode=0o750),
        tars.folder("hidden/deep", mode=0o705),
    ]


def parents_between() -> list[tars.Entry]:
    """Return what stands between them."""
    return [
        tars.symlink("a", "etc"),
        tars.file(".wh.gone"),
        tars.file("hidden/.wh..wh..opq"),
    ]


def parents_above() -> list[tars.Entry]:
    """Return things in folders of the layers below."""
    return [
        tars.file("lib/new", b"n\n"),
        tars.file("absolute/new", b"n\n"),
        tars.file("chain/new", b"n\n"),
        tars.file("dangling/new", b"n\n"),
        tars.file("up/new", b"n\n"),
        tars.file("through/new", b"n\n"),
        tars.file("to-file/new", b"n\n"),
        tars.file("a/new", b"n\n"),
        tars.file("gone/new", b"n\n"),
        tars.file("hidden/deep/new", b"n\n"),
        tars.file("usr/lib/deep/er/new", b"n\n"),
    ]


def bottom() -> list[tars.Entry]:
    """Return whiteouts in a layer that may have nothing below."""
    return [
        tars.file(".wh.never"),
        tars.folder("d"),
        tars.file("d/.wh.f"),
        tars.file("d/g", b"g\n"),
        tars.folder("o"),
        tars.file("o/.wh..wh..opq"),
        tars.file("o/g", b"g\n"),
        tars.file("e/.wh.f"),
        tars.file("replaced/.wh.f"),
        tars.file("replaced/f", b"back\n"),
    ]


def bottom_removing() -> list[tars.Entry]:
    """Return whiteouts of what the same layer has, which only a bottom layer may have."""
    return [
        tars.folder("d"),
        tars.file("d/f", b"gone\n"),
        tars.folder("d/g"),
        tars.file("d/g/h", b"gone\n"),
        tars.symlink("d/s", "f"),
        tars.file("kept", b"k\n"),
        tars.file("d/.wh.f"),
        tars.file("d/.wh.g"),
        tars.file("d/.wh.s"),
        tars.folder("d/g"),
        tars.file("d/g/again", b"a\n"),
        tars.file("made/by/implication", b"gone\n"),
        tars.file("made/.wh..wh..opq"),
        tars.file("made/after", b"a\n"),
    ]


def whiteouts_again() -> list[tars.Entry]:
    """Return whiteouts that are followed by what they hide."""
    return [
        tars.file(".wh.d"),
        tars.folder("d", mode=0o700),
        tars.file("d/g", b"g\n"),
        tars.file(".wh.f"),
        tars.file("f", b"f\n"),
        tars.file("e/.wh..wh..opq"),
        tars.file("e/.wh..wh..opq"),
    ]


def xattrs() -> list[tars.Entry]:
    """Return xattrs that Linux drops, and the largest that it takes."""

    def on(name: str, key: str, value: bytes = b"v") -> tars.Entry:
        return tars.file(name, b"x\n", pax={f"SCHILY.xattr.{key}": value})

    return [
        on("unknown", "unknown.k"),
        on("trusted-long", "trusted." + "n" * 300),
        on("acl-version", "system.posix_acl_access", b"\1\0\0\0"),
        on("acl-empty", "system.posix_acl_access", NAMED[:4]),
        on("acl-nothing", "system.posix_acl_access", b""),
        on("default-nothing", "system.posix_acl_default", b""),
        on("large", "user.k", bytes(4000)),
        on("name", "user." + "n" * 250),
        on("capability-3", "security.capability", b"\1\0\0\3" + odd.CAPABILITY[4:] + bytes(4)),
        tars.symlink("symlink", "none", pax={**user(k=b"v"), **DEFAULT}),
        tars.Entry(name=b"fifo", kind=tars.FIFO, pax={**user(k=b"v"), "SCHILY.xattr.user.": b"v"}),
    ]


def long() -> list[tars.Entry]:
    """Return the longest names and targets."""
    return [
        tars.file("n" * 255, b"n\n"),
        tars.file("/".join(["p" * 200] * 19), b"deep\n"),
        tars.symlink("s", "t" * 4095),
    ]


def refused() -> dict[str, Layers]:
    """Return images that containerd does not unpack, by name."""
    base = [tars.folder("a"), tars.file("a/f"), tars.file("file", b"f\n")]
    one: dict[str, list[tars.Entry]] = {
        "xattr-empty-name": [xattr("", b"v")],
        "xattr-long-name": [xattr("user." + "n" * 251, b"v")],
        "xattr-user-alone": [xattr("user.", b"v")],
        "xattr-security-alone": [xattr("security.", b"v")],
        "xattr-20000": [xattr("user.k", bytes(20_000))],
        "xattr-many": [tars.file("f", pax=user(**{f"k{at}": bytes(500) for at in range(20)}))],
        "capability": [xattr("security.capability", b"x" * 20)],
        "capability-1": [xattr("security.capability", b"\1\0\0\1" + bytes(8))],
        "acl": [xattr("system.posix_acl_access", NAMED[:-1])],
        "acl-no-mask": [xattr("system.posix_acl_access", acl((1, 6, 0), (2, 7, 5), (4, 4, 0)))],
        "acl-short": [xattr("system.posix_acl_access", b"abc")],
        "acl-default-file": [xattr("system.posix_acl_default", NAMED)],
        "time-overflow": [tars.file("f", pax={"mtime": b"99999999999999999999"})],
        "time-access": [tars.file("f", pax={"atime": b"never"})],
        "uid-overflow": [tars.file("f", pax={"uid": b"99999999999999999999"})],
        "path-5000": [tars.file("/".join(["p" * 199] * 25))],
        "name-256": [tars.file("n" * 256)],
        "symlink-empty": [tars.symlink("s", "")],
        "symlink-4096": [tars.symlink("s", "t" * 4096)],
        "link-nowhere": [tars.link("h", "nowhere")],
        "link-later": [tars.link("h", "f"), tars.file("f")],
        "link-folder": [tars.folder("d"), tars.link("h", "d")],
        "into-file": [tars.file("f"), tars.file("f/g")],
        "circle": [tars.symlink("a", "b"), tars.symlink("b", "a"), tars.file("a/f")],
    }
    return {
        **{name: [entries] for name, entries in one.items()},
        "below-file": [base, [tars.file("file/deep/f")]],
        "below-whiteout": [base, [tars.file(".wh.a")], [tars.file("a/deep/f")]],
        "below-file-of-link": [[*base, tars.symlink("l", "file")], [tars.file("l/deep/f")]],
        "folder-gone": [[tars.folder("d"), tars.folder("d/e"), tars.file("d")]],
        "folder-to-nowhere": [[tars.folder("d"), tars.symlink("d", "nowhere")]],
        "whiteout-of-own": [base, [tars.file("f"), tars.file(".wh.f")]],
        "whiteout-twice": [base, [tars.file(".wh.f"), tars.file(".wh.f")]],
        "whiteout-of-folder": [base, [tars.folder("f"), tars.file(".wh.f")]],
    }
