"""What earlier runs of node set-up changed, by the journal, and the files without that."""

from collections.abc import Mapping

from agent.model import keys
from agent.setup.config import inputs, journal, own_part, places, settings_view, toml_edit
from agent.setup.node import host


class Past:
    """What earlier runs did, by their journal."""

    def __init__(self, machine: host.Host, main: settings_view.Path) -> None:
        self._host = machine
        self.main = main
        self.folder = main.parent / journal.FOLDER
        data = machine.read(self.folder / journal.NAME)
        earlier = journal.Journal(changes=[])
        if data is not None:
            earlier = journal.decode(data, str(self.folder / journal.NAME))
        self.changes = {settings_view.Path(change.path): change for change in earlier.changes}

    def before(self, path: settings_view.Path) -> tuple[bytes | None, str | None]:
        """A file without node-setup's part, and a note where the user's edits had to be kept."""
        now = self._host.read(path)
        change = self.changes.get(path)
        if now is None:
            return None, None
        if change is None:
            return self._without_own_part(path, now, b""), None
        backup = None
        if change.backup is not None:
            backup = self._host.read(self.folder / change.backup)
            if backup is None:
                raise journal.JournalError(str(self.folder / change.backup), "missing")
        if journal.digest(now) in change.written or now == backup:
            return backup, None
        left = self._without_own_part(path, now, backup or b"")
        if backup is None and _says_nothing(path, left):
            return None, None
        return left, f"{path} was edited after node-setup: only what node-setup added is removed"

    def restored(
        self,
    ) -> tuple[dict[settings_view.Path, tuple[bytes | None, bytes | None]], list[str]]:
        """All changes that undo everything, and notes."""
        changes = {}
        notes = []
        # The main file first: it may import the others, and containerd may start meanwhile.
        # k3s and RKE2 write their main file at each start, so it is never restored.
        own = set() if places.rancher(self.main) else {self.main}
        paths = sorted({*self.changes, *own}, key=lambda path: (path != self.main, path))
        for path in paths:
            now = self._host.read(path)
            before, note = self.before(path)
            if now != before:
                changes[path] = (now, before)
            if note is not None:
                notes.append(note)
        return changes, notes

    def remember(self, contents: Mapping[settings_view.Path, tuple[bytes | None, bytes]]) -> None:
        """Write backups and the journal: path -> content before and after."""
        changes = []
        for path, (before, after) in sorted(contents.items()):
            backup = None
            if before is not None:
                # Named by content: a backup that the old journal names is never overwritten.
                backup = f"{path.name}.{journal.digest(before)[:12]}.before"
                self._host.write(self.folder / backup, before, mode=0o600)
            old = self.changes.get(path)
            written = [*(old.written if old is not None else []), journal.digest(after)]
            changes.append(
                journal.Change(
                    path=str(path), backup=backup, written=list(dict.fromkeys(written))[-20:]
                )
            )
        self._host.write(
            self.folder / journal.NAME, journal.encode(journal.Journal(changes=changes))
        )
        kept = {change.backup for change in changes}
        for change in self.changes.values():
            if change.backup is not None and change.backup not in kept:
                self._host.remove(self.folder / change.backup)
        self.changes = {settings_view.Path(change.path): change for change in changes}

    def forget(self) -> None:
        """Remove the journal and the backups; the journal first, so no backup is missed."""
        self._host.remove(self.folder / journal.NAME)
        for change in self.changes.values():
            if change.backup is not None:
                self._host.remove(self.folder / change.backup)
            path = settings_view.Path(change.path)
            if path.name == inputs.DROP_IN:
                self._host.remove_empty_folder(path.parent)
        self._host.remove_empty_folder(self.folder)

    def _without_own_part(self, path: settings_view.Path, now: bytes, backup: bytes) -> bytes:
        try:
            text = now.decode()
        except UnicodeDecodeError as error:
            raise settings_view.ConfigError(path, f"not valid TOML: {error}") from error
        if keys.SNAPSHOTTER not in text:
            return now
        if path.suffix == ".tmpl":
            return toml_edit.cut(text).encode()
        drop_in = self.main.parent / "conf.d" / inputs.DROP_IN
        text = own_part.remains(text, path=path, drop_in=drop_in)
        return own_part.restored(text, backup.decode(), path=path).encode()


def _says_nothing(path: settings_view.Path, data: bytes) -> bool:
    """Whether a file that node-setup made has nothing left; an import is another tool's."""
    if path.suffix == ".tmpl":
        return data.decode().strip() in ("", '{{ template "base" . }}')
    left = settings_view.parse(settings_view.File(path, data.decode()))
    return set(left) <= {"version", "imports"} and not left.get("imports")
