"""The layers of `lab/odd:1`: what a tar may say that a careful tool never writes.

Each layer is about one thing, so that a failure says what it is about. Whatever
containerd's own unpack makes of them is right, by definition.
"""

import struct

from lab.samples import tars

LONG = "n" * 255
DEEP = "/".join(f"level-{at:03}-{'d' * 60}" for at in range(14))
"""A path of almost 1,000 bytes."""

# struct vfs_cap_data, revision 2: cap_net_raw, permitted and effective.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def layers() -> list[list[tars.Entry]]:
    """Return the entries of all layers above the base, from bottom to top."""
    empty: list[tars.Entry] = []
    return [
        below(),
        hard_links(),
        attributes(),
        nodes(),
        modes(),
        sparse(),
        names(),
        spellings(),
        empty,
        times(),
        duplicates(),
        whiteouts(),
        replaced(),
        twice(),
        twice(),
        late_changes(),
    ]


def below() -> list[tars.Entry]:
    """What the layers above remove, replace and link to."""
    entries = [tars.folder("below"), tars.folder("gone"), tars.folder("opaque")]
    for at in range(20):
        entries.append(tars.file(f"below/file-{at}", f"content {at}\n".encode() * (at + 1)))
        entries.append(tars.file(f"gone/file-{at}", b"to be removed\n"))
        entries.append(tars.file(f"opaque/old-{at}", b"to be hidden\n"))
    return [
        *entries,
        tars.folder("opaque/old-folder"),
        tars.file("opaque/old-folder/file", b"hidden too\n"),
        tars.folder("becomes-file"),
        tars.file("becomes-file/inside", b"lost\n"),
        tars.file("becomes-folder", b"was a file\n"),
        tars.folder("becomes-symlink"),
        tars.file("becomes-symlink/inside", b"lost\n"),
        tars.symlink("link-becomes-folder", "below"),
        tars.folder("mode-changes", mode=0o700),
        tars.file("mode-changes/keeps", b"kept\n"),
        tars.folder("moved"),
        tars.folder("removed-and-made-again"),
        tars.file("removed-and-made-again/old", b"lost\n"),
    ]


def hard_links() -> list[tars.Entry]:
    """Hard links within one layer: to files, with attributes, to a link, to a symlink."""
    return [
        tars.folder("hard"),
        tars.file("hard/one", b"linked\n" * 1000, mode=0o640),
        tars.link("hard/two", "hard/one"),
        tars.link("hard/three", "./hard/two"),
        tars.folder("hard/far/away"),
        tars.link("hard/far/away/four", "hard/one"),
        tars.symlink("hard/symlink", "one"),
        tars.link("hard/link-to-symlink", "hard/symlink"),
        tars.file("hard/empty", b""),
        tars.link("hard/empty-too", "hard/empty"),
        tars.link("hard/linked-by-slash", "/hard/one"),
    ]


def attributes() -> list[tars.Entry]:
    """Extended attributes, with binary and long values, on files and folders."""
    user = {"SCHILY.xattr.user.lab": b"value"}
    return [
        tars.folder("xattr", pax={"SCHILY.xattr.user.folder": b"on a folder"}),
        tars.file("xattr/user", b"u\n", pax=user),
        tars.file("xattr/binary", b"b\n", pax={"SCHILY.xattr.user.binary": bytes(range(256))}),
        tars.file("xattr/long", b"l\n", pax={"SCHILY.xattr.user.long": b"x" * 2000}),
        tars.file("xattr/empty-value", b"e\n", pax={"SCHILY.xattr.user.empty": b""}),
        tars.file(
            "xattr/many", b"m\n", pax={f"SCHILY.xattr.user.n{at}": b"v%d" % at for at in range(20)}
        ),
        tars.file(
            "xattr/capable",
            b"c\n" * 50,
            mode=0o755,
            pax={"SCHILY.xattr.security.capability": CAPABILITY},
        ),
        tars.file("xattr/libarchive", b"a\n", pax={"LIBARCHIVE.xattr.user.lab": b"dmFsdWU"}),
        tars.file("xattr/with-equals", b"q\n", pax={"SCHILY.xattr.user.equals": b"a=b=c"}),
    ]


def nodes() -> list[tars.Entry]:
    """Devices, with small and large numbers, and a FIFO."""

    def node(name: str, kind: bytes, device: tuple[int, int], mode: int = 0o600) -> tars.Entry:
        return tars.Entry(name=f"nodes/{name}".encode(), kind=kind, device=device, mode=mode)

    return [
        tars.folder("nodes"),
        node("null", tars.CHAR, (1, 3), 0o666),
        node("char-large", tars.CHAR, (259, 65537)),
        node("block", tars.BLOCK_DEVICE, (7, 0), 0o660),
        node("fifo", tars.FIFO, (0, 0), 0o644),
    ]


def modes() -> list[tars.Entry]:
    """Mode bits and owners, also those that no old header holds."""
    return [
        tars.folder("modes"),
        tars.file("modes/setuid", b"s\n", mode=0o4755),
        tars.file("modes/setgid", b"s\n", mode=0o2755),
        tars.file("modes/setuid-owned", b"s\n", mode=0o4750, uid=1000, gid=100),
        tars.file("modes/all", b"s\n", mode=0o7777),
        tars.file("modes/none", b"s\n", mode=0),
        tars.folder("modes/sticky", mode=0o1777),
        tars.folder("modes/setgid-folder", mode=0o2775, gid=50),
        tars.file("modes/setgid-folder/inside", b"i\n", gid=7),
        tars.file("modes/with-type-bits", b"t\n", mode=0o100644 & 0o7777777),
        tars.file("modes/large-owner", b"o\n", uid=3_000_000_000, gid=4_000_000_000),
        tars.file("modes/large-owner-gnu", b"o\n", uid=2_500_000, gid=2_500_001, gnu=True),
        tars.symlink("modes/owned-symlink", "none", uid=1234, gid=4321),
    ]


def sparse() -> list[tars.Entry]:
    """Sparse files in the dialects of PAX, one of many pieces, and files of many sizes."""
    few = [(0, 512), (1 << 20, 4096), (3 << 20, 1000)]
    many = [(at * 65536, 512) for at in range(60)]
    size = 4 << 20

    def entry(name: str, dialect: str, holes: list[tuple[int, int]]) -> tars.Entry:
        return sparse_file(name, dialect, holes, size=size)

    return [
        tars.folder("sparse"),
        entry("sparse/pax-0.1", "pax-0.1", few),
        entry("sparse/pax-1.0", "pax-1.0", few),
        entry("sparse/pax-1.0-many", "pax-1.0", many),
        tars.file("sparse/zeros", bytes(2 << 20)),
        tars.file("sparse/some-megabytes", bytes(range(256)) * 16384),
        tars.file("sparse/one-byte", b"x"),
        tars.file("sparse/one-block", b"y" * 4096),
        tars.file("sparse/one-more", b"z" * 4097),
        tars.file("sparse/empty", b""),
    ]


def sparse_file(name: str, dialect: str, holes: list[tuple[int, int]], *, size: int) -> tars.Entry:
    """Return a sparse file whose pieces are of one letter each."""
    data = b"".join(bytes([65 + at % 26]) * length for at, (_, length) in enumerate(holes))
    return tars.file(name, data, sparse=dialect, holes=holes, size=size)


def refused() -> dict[str, list[tars.Entry]]:
    """What containerd does not unpack at all, by name: a pull ends with an error.

    GNU's own kind of sparse files: `unhandled tar header type 83`. A hard link to
    a file that only a layer below has: containerd unpacks into the upper folder
    of an overlay alone, and finds no such file there.
    """
    few = [(0, 512), (1 << 20, 4096), (3 << 20, 1000)]
    many = [(at * 65536, 512) for at in range(60)]
    return {
        "sparse": [
            sparse_file("gnu", "gnu", few, size=4 << 20),
            sparse_file("gnu-many", "gnu", many, size=4 << 20),
            sparse_file("gnu-all-hole", "gnu", [], size=4 << 20),
        ],
        "link": [tars.link("link-down", "etc/passwd")],
        "contiguous": [tars.Entry(name=b"contiguous", kind=b"7", data=b"type 7\n")],
    }


def names() -> list[tars.Entry]:
    """Names: long, deep, in no encoding, with blanks, line ends and controls."""
    raw = b"names/latin-\xe9\xe8-\xff"
    return [
        tars.folder("names"),
        tars.file(f"names/{LONG}", b"255 bytes in one component\n"),
        tars.file(f"names/gnu-{LONG[4:]}", b"by GNU's long name\n", gnu=True),
        tars.file(f"names/{DEEP}/file", b"deep\n"),
        tars.symlink("names/long-symlink", f"{DEEP}/file"),
        tars.symlink("names/longest-symlink", "t" * 4000),
        tars.Entry(name=raw + b"-gnu", data=b"raw bytes in a header\n", gnu=True),
        tars.Entry(
            name=raw + b"-pax", data=b"raw bytes in a record\n", pax={"path": raw + b"-pax"}
        ),
        tars.file("names/unicode-é-ü-日本語-🐳", b"utf-8\n"),
        tars.file("names/with blanks  and\ttab", b"blanks\n"),
        tars.file("names/with\nline end", b"newline\n"),
        tars.file("names/with\\backslash", b"backslash\n"),
        tars.file("names/control-\x01\x1b[31m", b"control\n"),
        tars.file("names/*?[glob]", b"glob\n"),
        tars.file("names/-rf", b"like an option\n"),
        tars.file("names/.hidden", b"hidden\n"),
        tars.file("names/..two-dots", b"two dots\n"),
        tars.file("names/.whatever", b"almost a whiteout\n"),
        tars.symlink("names/dangling", "/does/not/exist"),
        tars.symlink("names/absolute", "/names/.hidden"),
        tars.symlink("names/outside", "../../../../../../etc/passwd"),
        tars.symlink("names/itself", "itself"),
        tars.symlink("names/to-folder", "../below"),
    ]


def spellings() -> list[tars.Entry]:
    """One path in different spellings, and parents that no entry makes."""
    record = tars.pax_record(b"comment", b"a global header, as git-archive writes it")
    return [
        tars.Entry(name=b"pax_global_header", kind=b"g", data=record),
        tars.folder("./"),
        tars.folder("./spelled/"),
        tars.file("./spelled/dot", b"dot\n"),
        tars.file("/spelled/slash", b"slash\n"),
        tars.file("spelled//double", b"double\n"),
        tars.file("spelled/./inner", b"inner\n"),
        tars.file("spelled/down/../up", b"up\n"),
        tars.folder("spelled/trailing/"),
        tars.file("no/parents/here/file", b"parents are implied\n"),
        tars.file("no/parents/there/file", b"parents are implied\n", uid=5, gid=6, mode=0o600),
        tars.Entry(name=b"spelled/old-style", kind=b"\0", data=b"type NUL\n"),
    ]


def times() -> list[tars.Entry]:
    """Modification times: with nanoseconds, zero, before 1970, after 2038."""
    return [
        tars.folder("times"),
        tars.file("times/nanoseconds", b"t\n", pax={"mtime": b"1700000000.123456789"}),
        tars.file("times/tenth", b"t\n", pax={"mtime": b"1700000000.1"}),
        tars.file("times/zero", b"t\n", mtime=0),
        tars.file("times/negative", b"t\n", mtime=-86400),
        tars.file("times/negative-gnu", b"t\n", mtime=-5, gnu=True),
        tars.file("times/negative-fraction", b"t\n", pax={"mtime": b"-1.5"}),
        tars.file("times/after-2038", b"t\n", mtime=1 << 32),
        tars.symlink("times/symlink", "zero", mtime=1_000_000_000),
        tars.folder("times/folder", mtime=1_111_111_111),
        tars.file("times/folder/inside", b"t\n"),
        tars.file(
            "times/access",
            b"t\n",
            pax={"atime": b"1600000000.5", "ctime": b"1600000001", "mtime": b"1600000002"},
        ),
    ]


def duplicates() -> list[tars.Entry]:
    """The same name twice in one archive: the later one wins."""
    return [
        tars.folder("double"),
        tars.file("double/file", b"first, longer than the second\n"),
        tars.file("double/file", b"second\n", mode=0o600, uid=9),
        tars.file("double/file-then-symlink", b"first\n"),
        tars.symlink("double/file-then-symlink", "file"),
        tars.symlink("double/symlink-then-file", "file"),
        tars.file("double/symlink-then-file", b"not through the link\n"),
        tars.folder("double/folder", mode=0o700),
        tars.file("double/folder/inside", b"stays\n"),
        tars.folder("double/folder", mode=0o755, mtime=1_234_567_890),
        tars.file("double/file-then-folder", b"first\n"),
        tars.folder("double/file-then-folder"),
        tars.file("double/file-then-folder/inside", b"inside\n"),
        tars.file("double/linked", b"before\n"),
        tars.link("double/link", "double/linked"),
        tars.file("double/linked", b"after: the link keeps what was before\n"),
    ]


def whiteouts() -> list[tars.Entry]:
    """Whiteouts of files, of folders, of nothing; opaque folders, with and without entry."""
    gone = [tars.file(f"gone/.wh.file-{at}") for at in range(10)]
    return [
        *gone,
        tars.file("below/.wh.file-0"),
        tars.file("below/.wh.never-was"),
        tars.folder("opaque", mode=0o711),
        tars.file("opaque/.wh..wh..opq"),
        tars.file("opaque/new", b"new\n"),
        tars.file(".wh.moved"),
        tars.folder("moved-here"),
        tars.file(".wh.removed-and-made-again"),
    ]


def replaced() -> list[tars.Entry]:
    """Kinds that change between layers, and a folder whose mode and time change."""
    return [
        tars.file("becomes-file", b"now a file\n"),
        tars.folder("becomes-folder"),
        tars.file("becomes-folder/inside", b"new\n"),
        tars.symlink("becomes-symlink", "below"),
        tars.folder("link-becomes-folder"),
        tars.file("link-becomes-folder/own", b"not in below\n"),
        tars.folder("mode-changes", mode=0o1777, uid=33, gid=33, mtime=1_500_000_000),
        tars.folder("removed-and-made-again", mode=0o750),
        tars.file("removed-and-made-again/new", b"new\n"),
        tars.file("below/file-1", b"replaced\n", mode=0o600),
        tars.folder("times", mtime=1_222_222_222),
    ]


def twice() -> list[tars.Entry]:
    """A layer that the image has twice: the same diff ID in two places."""
    return [tars.folder("twice"), tars.file("twice/file", b"the same layer\n")]


def late_changes() -> list[tars.Entry]:
    """Only attributes of what is below: a whole new copy, by the rules of layers."""
    return [
        tars.folder("below", mode=0o750),
        tars.file("below/file-2", b"content 2\n" * 3, mode=0o4711, uid=42),
        tars.file("twice/.wh.file"),
    ]
