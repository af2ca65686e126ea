"""A layer's tar, put right on its way to mkfs.erofs: the same bytes wherever possible.

mkfs.erofs reads tars in its own way; containerd unpacks them in Go's
(archive/tar) and with rules of its own (pkg/archive/tar.go, applyNaive). Where
the two differ, the image that a container sees would differ. So this filter reads
every header as containerd does, and hands on what mkfs.erofs understands in the
same sense. Entries that both read alike, nearly all, pass as they are; the others
get a new header (a PAX one where needed). What differs, and is mended here:

- the root: containerd ignores an entry for it (0755, root); mkfs.erofs takes it
  over, and makes it 0777 without one
- parents that the tar does not name: containerd makes them 0755, root; with
  mkfs.erofs they inherit from above
- names: cleaned (`./`, `/`, `..`, `//`); symlinks in parents are followed, within
  the root
- V7, star and GNU headers; file type NUL; negative base-256; empty numbers
- PAX: global headers and LIBARCHIVE.xattr are ignored, fractions of seconds have
  any number of digits, GNU sparse files (0.0, 0.1, 1.0) are filled up
- times before 1970 or after 2262 become 1970; symlinks have mode 0777
- xattrs: those that a file system does not take are dropped, `trusted.` always; ACLs are as
  chmod leaves them, and inherited from directories with default ones
- hard links that change their file, directories that are named twice: see `corrections`
- whiteouts in a bottom layer, and of what the same layer has
- sizes of entries that have no data; data after the end; a missing end
"""

import dataclasses
from collections.abc import Callable, Generator, Iterator

from agent.build import limits
from agent.build.tar import corrections, detours, headers, inodes, names, pieces, sparse, xattrs

BLOCK = pieces.BLOCK
_END = bytes(2 * BLOCK)
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"

Spans = Iterator[pieces.Span]


@dataclasses.dataclass(frozen=True, slots=True)
class DirInfo:
    """What a directory of a layer below has, for one that a layer implies but does not name."""

    mode: int
    uid: int
    gid: int
    mtime: int
    mtime_ns: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


MADE = DirInfo(0o755, 0, 0, 0)
"""What an implied directory is made like when nothing below has it."""

Below = Callable[[bytes], DirInfo | None]
"""Looks a directory up in the layers below: what containerd copies for an implied parent."""


def nothing_below(path: bytes) -> DirInfo | None:
    """The layers below a bottom layer."""
    return None


class Normaliser:
    """Feed it the tar in pieces of any size; it generates what mkfs.erofs should get.

    What it generates refers to the piece that was fed: use all of it before the next one.
    What the tar takes is counted by `account`, which raises limits.TooMuch. With `diverted`, what
    it generates has a Detour before the data of each large file.
    `implied` are the directories that the tar has things in but does not name.
    `has_whiteouts` says whether it hides anything below. With `is_bottom` there is nothing
    below: whiteouts remove what the layer itself has so far, and leave no trace.

    Some entries change what earlier ones made, which has passed by then. `corrections` says
    so at the end, and a second pass with these gets it right.
    """

    def __init__(
        self,
        below: Below = nothing_below,
        known: corrections.Corrections = corrections.NONE,
        *,
        is_bottom: bool = False,
        account: limits.Account | None = None,
        diverted: detours.Detours | None = None,
    ) -> None:
        self.implied: list[bytes] = []
        self.entries = 0
        self.has_whiteouts = False
        self._below = below
        self._known = known
        self._is_bottom = is_bottom
        self._account = account or limits.Account()
        self._diverted = diverted or detours.Detours.none()
        self._inodes = inodes.Inodes()
        self._names = names.Names(self._inodes, known.files, look=self._account.look)
        self._quick = self._names.quick if not known.removals else _never_quick
        self._changed_folders: set[bytes] = set()
        self._removals: list[tuple[int, corrections.Removal]] = []
        self._certain: set[bytes] = set()
        self._removed = {one.path: one.entry for one in known.removals}
        """The last entry that removes a path: they are in the order of the tar."""
        self._absent: set[bytes] = set()
        self._kept = 0
        self._ended = False
        self._pieces = pieces.Pieces(self._account)
        self._work = self._run()
        self._pieces.emit(headers.root_entry())
        next(self._work, None)

    def feed(self, piece: bytes) -> Spans:
        """Take the next piece of the tar; generates what to hand on."""
        if self._ended:
            return
        self._pieces.begin(piece)
        while True:
            state = next(self._work, None)
            self._keep_entries()
            if state is None:
                self._ended = True
            elif state is pieces.NEXT:
                self._pieces.end()
            yield from self._pieces.taken()
            if state is not pieces.FULL:
                return

    def _keep_entries(self) -> None:
        """Count the memory of the entries since the last time, and the work of all."""
        kept = self.entries * limits.ENTRY + self._names.folders * limits.FOLDER
        self._account.keep(max(0, kept - self._kept))
        self._kept = max(self._kept, kept)
        self._account.compare(self._names.compared)

    def corrections(self) -> corrections.Corrections:
        """What another pass must know; nothing after one that knew it."""
        if self._known:
            return corrections.NONE
        existed = self._inodes.existing((number, one.path) for number, one in self._removals)
        return corrections.Corrections(
            files=self._inodes.changed(),
            folders={
                path: list(self._names.xattrs(path).items()) for path in self._changed_folders
            },
            removals=[one for _, one in self._removals if one.path in existed | self._certain],
        )

    def finish(self) -> Spans:
        """The tar is at its end; generates the rest. Raises LayerTarError where it was cut off."""
        if not self._ended and self._pieces.broken_off:
            raise headers.LayerTarError("it ends in the middle of an entry")
        self._inodes.require_sound()
        self._require_folders()
        yield from self._pieces.taken()
        yield bytes(self._pieces.owed)
        yield _END

    def _require_folders(self) -> None:
        """Raise LayerTarError for directories that are gone: containerd sets their times last."""
        places = {path: self._names.where(path) for path in self._names.gone}
        end = len(self._inodes.paths)
        files = self._inodes.existing((end, place) for place in places.values())
        for path, place in places.items():
            if not self._names.has(place) and place not in files:
                raise headers.LayerTarError(
                    f"it has the directory {headers.show(path)}, and removes it again"
                )

    # -- the archive -------------------------------------------------------

    def _run(self) -> pieces.Steps:
        quick, tar, unpack = self._quick, self._pieces, self._account.unpack
        diverted = self._diverted.takes
        while True:
            # The fast way: a whole header in this piece that both sides read alike.
            while tar.at + BLOCK <= len(tar.raw):
                size = quick(tar.raw[tar.at : tar.at + BLOCK])
                if size < 0:
                    break
                self.entries += 1
                length = BLOCK + pieces.padded(size)
                unpack(length)
                if diverted(b"0", size):
                    yield from self._divert(tar.raw[tar.at : tar.at + BLOCK])
                elif tar.at + length <= len(tar.raw):
                    tar.at += length
                else:
                    yield from tar.let_pass(BLOCK)
                    yield from tar.data(size)
            if (yield from self._slow()):
                return
            if tar.is_full:
                yield pieces.FULL

    def _slow(self) -> Generator[bool, None, bool]:
        """One entry with all that belongs to it; True at the end of the archive."""
        extra, tar = headers.Extra(), self._pieces
        while True:
            tar.broken_off = False
            while tar.at == len(tar.raw):
                yield pieces.NEXT
            tar.broken_off = True
            block = yield from tar.take(BLOCK)
            if not any(block):
                tar.broken_off = False
                if any((yield from tar.take(BLOCK))):
                    raise headers.LayerTarError("an empty block in the middle of it")
                return True
            if not extra.seen and (size := self._quick(block)) >= 0:
                # It lay across two pieces, or begins one.
                self.entries += 1
                self._account.unpack(pieces.padded(size))
                if self._diverted.takes(b"0", size):
                    entry = headers.parse(block)
                    self._emit(entry, entry.name)
                else:
                    tar.emit(block)
                yield from tar.data(size)
                return False
            header = headers.parse(block)
            if header.kind not in b"xgLK":
                break
            if header.size > limits.HEADER:
                raise headers.LayerTarError("a name or PAX header of more than 1 MiB")
            content = yield from tar.take(header.size)
            yield from tar.drop(pieces.padded(header.size) - header.size)
            extra.add(header.kind, content)
        self.entries += 1
        yield from self._entry(extra.merge(header))
        return False

    def _divert(self, block: bytes) -> pieces.Steps:
        """A large file, whose header is the next block of this piece; both sides read it alike."""
        yield from self._pieces.drop(BLOCK)
        entry = headers.parse(block)
        self._emit(entry, entry.name)
        yield from self._pieces.data(entry.size)

    def _emit(self, entry: headers.Entry, path: bytes) -> None:
        """Emit the header of an entry, or what stands for a large file."""
        if not self._diverted.takes(entry.kind, entry.size):
            self._pieces.emit(entry.encode(path))
            return
        empty, detour = self._diverted.send(entry)
        self._pieces.emit(empty.encode(path))
        self._pieces.divert(detour)

    def _entry(self, entry: headers.Entry) -> pieces.Steps:
        stored = entry.size if headers.has_data(entry.kind) else 0
        filling = None
        if entry.sparse is not None:
            if entry.kind != b"0":
                raise headers.LayerTarError("a sparse entry that is not a file")
            used, numbers = yield from sparse.read(self._pieces, entry.sparse, stored)
            stored -= used
            entry.size = entry.sparse.size if entry.sparse.size is not None else stored
            filling = sparse.require_sound(numbers, data=stored, size=entry.size)
        path = self._place(entry)
        if path is None:
            yield from self._pieces.drop(pieces.padded(stored))
            return
        # Before a byte of it: what is too large is refused at its header.
        self._account.unpack(pieces.padded(stored if filling is None else entry.size))
        if filling is not None:
            yield from sparse.fill(self._pieces, filling, stored=stored, size=entry.size)
        else:
            yield from self._pieces.data(stored)

    def _place(self, entry: headers.Entry) -> bytes | None:
        """Emit the header of an entry and what must stand before it; None: nothing, no data."""
        parent, base = self._names.locate(entry.name)
        if not base:
            return None  # The root: containerd leaves it as it is.
        path = parent + b"/" + base if parent else base
        names.require_fit(path, entry)
        self._keep(path, entry)
        self._make_parents(parent)
        if base == _OPAQUE:
            self._make_opaque(parent)
            return None
        if base.startswith(_WHITEOUT):
            self._whiteout(entry, parent, base)
            return None
        if entry.kind == b"5":
            self._folder(path, parent, entry)
            return path if self._put(path, entry) else None
        if entry.kind == b"1":
            self._link(path, entry)
        else:
            before = xattrs.inherited(entry.kind, self._names.default_acl(parent))
            entry.xattrs = xattrs.settled(entry.kind, entry.mode, entry.xattrs, before)
            self._names.add(path, entry.kind, entry.link)
            self._correct(entry)
            self._inodes.note(path, entry)
        return path if self._put(path, entry) else None

    def _keep(self, path: bytes, entry: headers.Entry) -> None:
        """Count the memory of an entry beyond what each takes, here and in mkfs.erofs."""
        self._names.enter(path.rpartition(b"/")[0])
        texts = (
            len(path) + len(entry.link) + sum(len(key) + len(value) for key, value in entry.xattrs)
        )
        self._account.keep(limits.ODD_ENTRY + 2 * texts)

    def _put(self, path: bytes, entry: headers.Entry) -> bool:
        """Emit an entry, unless a later whiteout removes it; whether its data are to follow."""
        if self._known.removals and self._is_removed(path):
            return False
        if entry.kind == b"1" and entry.link in self._absent:
            raise headers.LayerTarError(
                f"the bottom layer has a hard link, {headers.show(path)}, to a file that a"
                " whiteout in the same layer removes"
            )
        self._emit(entry, path)
        return True

    def _is_removed(self, path: bytes) -> bool:
        above = path
        while above:
            if self._removed.get(above, 0) > self.entries:
                self._absent.add(path)
                return True
            above = above.rpartition(b"/")[0]
        self._absent.discard(path)
        return False

    def _link(self, path: bytes, entry: headers.Entry) -> None:
        target = self._names.link_target(entry.link)
        if target == path:
            raise headers.LayerTarError(f"the hard link {headers.show(path)} to itself")
        if self._names.is_folder(target):
            raise headers.LayerTarError(
                f"the hard link {headers.show(path)} to the directory {headers.show(target)}"
            )
        entry.link = target
        entry.xattrs = xattrs.settled(entry.kind, entry.mode, entry.xattrs, {})
        self._names.add(path, entry.kind, entry.link)
        self._inodes.note_link(path, entry)

    def _correct(self, entry: headers.Entry) -> None:
        """Give an entry the attributes that hard links to it will ask for."""
        for change in self._known.files.get(len(self._inodes.paths), ()):
            entry.mode = entry.mode if entry.kind == b"2" else change.mode
            entry.uid, entry.gid = change.uid, change.gid
            entry.mtime, entry.mtime_ns = change.mtime, change.mtime_ns
            kept = xattrs.after_chown(entry.xattrs)
            entry.xattrs = xattrs.settled(entry.kind, entry.mode, change.xattrs, kept)

    def _folder(self, path: bytes, parent: bytes, entry: headers.Entry) -> None:
        """Find the xattrs of a directory, and let the entry have those that are to be emitted.

        mkfs.erofs adds the xattrs of a second entry to those of the first.
        """
        is_new = not self._names.is_folder(path)
        before = dict(self._names.xattrs(path))
        if is_new:
            before = xattrs.inherited(b"5", self._names.default_acl(parent))
        after = dict(xattrs.settled(b"5", entry.mode, entry.xattrs, before))
        self._names.add(path, b"5", b"")
        self._names.set_xattrs(path, after)
        if path in self._known.folders:
            entry.xattrs = [*self._known.folders[path]] if is_new else []
        elif is_new:
            entry.xattrs = list(after.items())
        else:
            entry.xattrs = [pair for pair in after.items() if pair[0] not in before]
            if any(after.get(name) != value for name, value in before.items()):
                self._changed_folders.add(path)

    def _make_opaque(self, parent: bytes) -> None:
        self.has_whiteouts = True
        if not self._is_bottom:
            self._pieces.emit(headers.opaque_entry(parent))
            return
        # containerd removes what it has not unpacked by an entry of its own.
        below = parent + b"/" if parent else b""
        self._account.look(len(self.implied))
        for path in self.implied:
            if path.startswith(below) and self._names.is_folder(path):
                self._remove(path)

    def _whiteout(self, entry: headers.Entry, parent: bytes, base: bytes) -> None:
        self.has_whiteouts = True
        hidden = base.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise headers.LayerTarError(f"a whiteout of nothing, {headers.show(base)}")
        path = parent + b"/" + hidden if parent else hidden
        if self._is_bottom:
            self._remove(path)
            return
        if self._names.has(path):
            raise headers.LayerTarError(
                f"a whiteout of {headers.show(path)}, which the same layer has"
            )
        self._inodes.note_whiteout(path)
        whiteout = headers.Entry(
            kind=b"0", name=b"", mode=0, uid=entry.uid, gid=entry.gid, size=0, mtime=0
        )
        self._inodes.note(path, whiteout)
        self._pieces.emit(whiteout.encode(parent + b"/" + base if parent else base))

    def _remove(self, path: bytes) -> None:
        removal = corrections.Removal(path, self.entries)
        self._removals.append((len(self._inodes.paths), removal))
        self._inodes.note_removed(path)
        if self._names.remove(path):
            self._certain.add(path)

    def _make_parents(self, parent: bytes) -> None:
        for path in self._names.missing(parent):
            self._account.imply(path)
            self.implied.append(path)
            self._inodes.note_made(path)
            info = self._below(path) or MADE
            made = headers.Entry(
                kind=b"5",
                name=path,
                mode=info.mode,
                uid=info.uid,
                gid=info.gid,
                size=0,
                mtime=info.mtime,
                mtime_ns=info.mtime_ns,
                xattrs=list(info.xattrs),
            )
            self._account.keep(limits.ENTRY)
            self._keep(path, made)
            self._folder(path, path.rpartition(b"/")[0], made)
            self._names.note_unnamed(path)
            self._put(path, made)


def _never_quick(_: bytes) -> int:
    return -1
