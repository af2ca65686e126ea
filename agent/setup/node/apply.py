"""Node set-up on a machine: reads the files, plans, writes, checks, undoes.

Order of writing: the backups, the journal, the drop-in, the main file; each file
is replaced as a whole. So after a crash at any point containerd's configuration is
either the old one or the new one, and both `node-setup` and `--undo` know what is
theirs. If containerd does not understand the result as meant, all is put back.
"""

import contextlib
import dataclasses
import difflib
from collections.abc import Mapping, Sequence

from agent import errors
from agent.model import keys
from agent.setup.config import (
    changes_needed,
    containerd_binary,
    journal,
    places,
    settings_view,
    toml_edit,
)
from agent.setup.node import host


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Which containerd: its main file, its release, its binary if it can be run."""

    main: settings_view.Path
    release: settings_view.Release
    binary: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or with a dry run would be."""

    changes: Mapping[settings_view.Path, tuple[bytes | None, bytes | None]]
    """Path -> content before and after; None is a file that does not exist."""
    twins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    @property
    def changed(self) -> bool:
        """Whether containerd has to be restarted."""
        return bool(self.changes)

    def diff(self) -> str:
        """The changes as a unified diff."""
        return "".join(_diff(path, *contents) for path, contents in self.changes.items())


def set_up(
    machine: host.Host,
    target: Target,
    wanted: changes_needed.Wanted,
    *,
    dry_run: bool = False,
    again: bool = False,
) -> Outcome:
    """Make the node's configuration as wanted; does nothing where it is already.

    Raises UndoneError where that is to happen `again` and nothing was done before.
    """
    with contextlib.nullcontext() if dry_run else machine.locked(target.main.parent):
        if again and not _Past(machine, target.main).changes:
            raise UndoneError
        return _Setup(machine, target).apply(wanted, dry_run=dry_run)


def undo(machine: host.Host, main: settings_view.Path, *, dry_run: bool = False) -> Outcome:
    """Put the configuration back as it was before; a person's later edits stay."""
    if not machine.place(main.parent).is_dir():
        return Outcome(changes={})
    with contextlib.nullcontext() if dry_run else machine.locked(main.parent):
        past = _Past(machine, main)
        changes, notes = past.restored()
        if not dry_run:
            for path, (_, after) in changes.items():
                _put(machine, path, after)
            past.forget()
    return Outcome(changes=changes, notes=notes)


class UndoneError(errors.PermanentError):
    """The node is to be set up *again*, and was not before: somebody has undone it meanwhile."""

    def __init__(self) -> None:
        super().__init__("somebody has undone the set-up of this node: it is left alone")


class _Past:
    """What earlier runs did, as their journal tells it."""

    def __init__(self, machine: host.Host, main: settings_view.Path) -> None:
        self._host = machine
        self.main = main
        self.folder = main.parent / journal.FOLDER
        data = machine.read(self.folder / journal.NAME)
        found = journal.Journal(changes=[])
        if data is not None:
            found = journal.decode(data, str(self.folder / journal.NAME))
        self.changes = {settings_view.Path(change.path): change for change in found.changes}

    def before(self, path: settings_view.Path) -> tuple[bytes | None, str | None]:
        """A file without what is ours, and a note where the user's edits had to be kept."""
        now = self._host.read(path)
        change = self.changes.get(path)
        if now is None:
            return None, None
        if change is None:
            return self._without_ours(path, now, b""), None
        backup = None
        if change.backup is not None:
            backup = self._host.read(self.folder / change.backup)
            if backup is None:
                raise journal.JournalError(str(self.folder / change.backup), "missing")
        if journal.digest(now) in change.ours or now == backup:
            return backup, None
        left = self._without_ours(path, now, backup or b"")
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
        # k3s and RKE2 make theirs anew at each start, so it is none of ours.
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
            ours = [*(old.ours if old is not None else []), journal.digest(after)]
            changes.append(
                journal.Change(path=str(path), backup=backup, ours=list(dict.fromkeys(ours))[-20:])
            )
        written = journal.encode(journal.Journal(changes=changes))
        self._host.write(self.folder / journal.NAME, written)
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
            if path.name == changes_needed.DROP_IN:
                self._host.remove_empty_folder(path.parent)
        self._host.remove_empty_folder(self.folder)

    def _without_ours(self, path: settings_view.Path, now: bytes, backup: bytes) -> bytes:
        try:
            text = now.decode()
        except UnicodeDecodeError as error:
            raise settings_view.ConfigError(path, f"not valid TOML: {error}") from error
        if keys.SNAPSHOTTER not in text:
            return now
        if path.suffix == ".tmpl":
            return toml_edit.cut(text).encode()
        drop_in = self.main.parent / "conf.d" / changes_needed.DROP_IN
        text = changes_needed.remains(text, path=path, drop_in=drop_in)
        return changes_needed.restored(text, backup.decode(), path=path).encode()


class _Setup:
    """One run of node set-up."""

    def __init__(self, machine: host.Host, target: Target) -> None:
        self._host = machine
        self._target = target
        self._past = _Past(machine, target.main)

    def apply(self, wanted: changes_needed.Wanted, *, dry_run: bool) -> Outcome:
        """Plan, check, write; see `set_up`."""
        node = self._node()
        found = changes_needed.plan(node, wanted)
        after = {path: text.encode() for path, text in found.files.items()}
        self._check(node, found)
        changes: dict[settings_view.Path, tuple[bytes | None, bytes | None]] = {
            path: (self._host.read(path), data)
            for path, data in sorted(after.items(), key=lambda item: item[0] == node.main)
        }
        # What an earlier run made and this one does not want any more.
        notes = list(found.notes)
        others = {*self._past.changes, *(file.path for file in node.imported)}
        others |= set() if node.rendered else {node.main}
        for path in sorted(others - set(after)):
            before, note = self._past.before(path)
            changes[path] = (self._host.read(path), before)
            notes += [note] if note is not None else []
        changes = {path: pair for path, pair in changes.items() if pair[0] != pair[1]}
        if changes and not dry_run:
            first = not self._past.changes
            self._write(changes, after)
            self._verify(changes, found, first=first)
        return Outcome(changes=changes, twins=found.twins, notes=notes, warnings=found.warnings)

    def _node(self) -> changes_needed.Node:
        main = self._target.main
        rendered = places.rancher(main) is not None
        data = self._before(main)
        if data is None and rendered:
            raise settings_view.ConfigError(
                main, "does not exist yet; start k3s or RKE2 once first"
            )
        text = None if data is None else data.decode()
        templates = {}
        for name in places.TEMPLATES:
            template = self._before(main.with_name(name))
            if template is not None:
                templates[main.with_name(name)] = template.decode()
        return changes_needed.Node(
            main=main,
            text=text,
            imported=self._imported(main, text or ""),
            release=self._target.release,
            rendered=rendered,
            templates=templates,
        )

    def _before(self, path: settings_view.Path) -> bytes | None:
        return self._past.before(path)[0]

    def _imported(self, main: settings_view.Path, text: str) -> list[settings_view.File]:
        found = []
        for pattern in settings_view.imports_of(settings_view.File(main, text)):
            for path in self._host.matching(pattern):
                data = None if path == main else self._before(path)
                if path.name != changes_needed.DROP_IN and data is not None:
                    found.append(settings_view.File(path, data.decode()))
        return found

    def _check(self, node: changes_needed.Node, found: changes_needed.Plan) -> None:
        """Read the planned files as containerd will, in their order with all others."""
        text = found.files.get(node.main, node.text or "")
        # A template's addition comes after all that the file has now.
        text += "".join(
            f"\n{toml_edit.added(after)}"
            for path, after in found.files.items()
            if path.suffix == ".tmpl"
        )
        main = settings_view.File(node.main, text)
        imported = []
        for pattern in settings_view.imports_of(main):
            planned = [path for path in found.files if path.match(pattern)]
            for path in sorted({*self._host.matching(pattern), *planned} - {node.main}):
                content = found.files.get(path)
                data = self._before(path) if content is None else content.encode()
                imported += [settings_view.File(path, data.decode())] if data is not None else []
        _raise_faults(node.main, found.meant(settings_view.view(main, imported, node.release)))

    def _write(
        self,
        changes: Mapping[settings_view.Path, tuple[bytes | None, bytes | None]],
        after: Mapping[settings_view.Path, bytes],
    ) -> None:
        self._past.remember({path: (self._before(path), data) for path, data in after.items()})
        for path, (_, data) in changes.items():
            _put(self._host, path, data)

    def _verify(
        self,
        changes: Mapping[settings_view.Path, tuple[bytes | None, bytes | None]],
        found: changes_needed.Plan,
        *,
        first: bool,
    ) -> None:
        """Ask containerd itself; put everything back where it does not agree."""
        binary = self._target.binary
        if binary is None or places.rancher(self._target.main) is not None:
            return
        try:
            text = containerd_binary.dump(binary, str(self._target.main), enter=self._host.enter)
            seen = containerd_binary.view_of_dump(text, self._target.release)
            _raise_faults(self._target.main, found.meant(seen))
        except errors.AgentError:
            for path, (before, _) in reversed(list(changes.items())):
                _put(self._host, path, before)
            if first:
                self._past.forget()
            raise


def _raise_faults(path: settings_view.Path, faults: Sequence[str]) -> None:
    if faults:
        raise settings_view.ConfigError(
            path,
            "the result would not be what is meant, nothing is changed: "
            + "; ".join(faults)
            + " (does a file that is imported later override it?)",
        )


def _put(machine: host.Host, path: settings_view.Path, data: bytes | None) -> None:
    if data is None:
        machine.remove(path)
    else:
        machine.write(path, data)


def _says_nothing(path: settings_view.Path, data: bytes) -> bool:
    """Whether a file that we made has nothing left but what any file has."""
    if path.suffix == ".tmpl":
        return data.decode().strip() in ("", '{{ template "base" . }}')
    return set(settings_view.parse(settings_view.File(path, data.decode()))) <= {
        "version",
        "imports",
    }


def _diff(path: settings_view.Path, before: bytes | None, after: bytes | None) -> str:
    old, new = (
        [] if data is None else data.decode(errors="replace").splitlines(keepends=True)
        for data in (before, after)
    )
    names = ["/dev/null" if data is None else str(path) for data in (before, after)]
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(old, new, names[0], names[1])
    )
