"""Node set-up on a machine: reads the files, plans, writes, checks, undoes.

containerd itself is asked twice: what it makes of the files without node-setup's part, and
whether it reads the result as intended. If it does not, all is put back; where
nothing had to change, the fault is reported all the same, with file and line.

Order of writing: the backups, the journal, the drop-in, the main file; each file
is replaced as a whole. So after a crash at any point containerd's configuration is
either the old one or the new one, and both `node-setup` and `--undo` know which part
node-setup wrote.
"""

import contextlib
import dataclasses
import difflib
from collections.abc import Mapping, Sequence

from agent import errors
from agent.setup.config import (
    changes_needed,
    fixed_systems,
    inputs,
    places,
    settings_view,
    start_faults,
    toml_edit,
)
from agent.setup.node import config_reader, host, past_changes


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or with a dry run would be."""

    changes: Mapping[settings_view.Path, tuple[bytes | None, bytes | None]]
    """Path -> content before and after; None is a file that does not exist."""
    twins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    names_images: bool = False
    """As in agent.setup.config.changes_needed.Plan."""

    @property
    def changed(self) -> bool:
        """Whether containerd has to be restarted."""
        return bool(self.changes)

    def diff(self) -> str:
        """The changes as a unified diff."""
        return "".join(_diff(path, *contents) for path, contents in self.changes.items())


def set_up(
    machine: host.Host,
    target: config_reader.Target,
    wanted: inputs.Wanted,
    *,
    dry_run: bool = False,
    again: bool = False,
) -> Outcome:
    """Make the node's configuration as wanted; does nothing where it is already.

    Raises UndoneError where that is to happen `again` and nothing was done before.
    """
    with contextlib.nullcontext() if dry_run else machine.locked(target.main.parent):
        if again and not past_changes.Past(machine, target.main).changes:
            raise UndoneError
        return _Setup(machine, target).apply(wanted, dry_run=dry_run)


def undo(machine: host.Host, main: settings_view.Path, *, dry_run: bool = False) -> Outcome:
    """Put the configuration back as it was before; a person's later edits stay."""
    if not machine.place(main.parent).is_dir():
        return Outcome(changes={})
    with contextlib.nullcontext() if dry_run else machine.locked(main.parent):
        past = past_changes.Past(machine, main)
        changes, notes = past.restored()
        if not dry_run:
            for path, (_, after) in changes.items():
                _put(machine, path, after)
            past.forget()
    return Outcome(changes=changes, notes=notes)


class UndoneError(errors.PermanentError):
    """The node is to be set up *again*, and is not set up: the set-up was undone meanwhile."""

    def __init__(self) -> None:
        super().__init__("the set-up of this node was undone: it is left as it is")


class _Setup:
    """One run of node set-up."""

    def __init__(self, machine: host.Host, target: config_reader.Target) -> None:
        self._host = machine
        self._target = target
        self._past = past_changes.Past(machine, target.main)
        self._reader = config_reader.ConfigReader(machine, target)

    def apply(self, wanted: inputs.Wanted, *, dry_run: bool) -> Outcome:
        """Plan, check, write; see `set_up`."""
        node = self._node()
        plan = self._planned(node, wanted)
        after = {path: text.encode() for path, text in plan.files.items()}
        changes: dict[settings_view.Path, tuple[bytes | None, bytes | None]] = {
            path: (self._host.read(path), data)
            for path, data in sorted(after.items(), key=lambda item: item[0] == node.main)
        }
        # What an earlier run made and this one does not want any more.
        notes = list(plan.notes)
        others = {*self._past.changes, *(file.path for file in node.imported)}
        others |= set() if node.rendered else {node.main}
        for path in sorted(others - set(after)):
            before, note = self._past.before(path)
            changes[path] = (self._host.read(path), before)
            notes += [note] if note is not None else []
        changes = {path: pair for path, pair in changes.items() if pair[0] != pair[1]}
        if changes and (system := places.fixed_system(self._host)):
            self._verify_fixed(node, plan, system)
            changes = {}
            notes = ["node-setup's part is in the configuration, which the system makes itself"]
        elif changes and not dry_run:
            first = not self._past.changes
            self._write(changes, after)
            self._verify_or_restore(changes, plan, first=first)
        elif not changes:
            self._verify(plan)
        return Outcome(
            changes=changes,
            twins=plan.twins,
            notes=notes,
            warnings=plan.warnings,
            names_images=plan.names_images,
        )

    def _planned(self, node: inputs.Node, wanted: inputs.Wanted) -> changes_needed.Plan:
        """The first plan that containerd reads as intended; raise what was wrong with the first."""
        refused: errors.AgentError | None = None
        for style in changes_needed.styles(node):
            planned = changes_needed.plan(node, wanted, style)
            try:
                self._check(node, planned)
            except errors.AgentError as error:
                refused = refused or error
            else:
                return planned
        assert refused is not None
        raise refused

    def _node(self) -> inputs.Node:
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
        return inputs.Node(
            main=main,
            text=text,
            imported=self._imported(main, text or ""),
            release=self._target.release,
            rendered=rendered,
            templates=templates,
            dumped=self._reader.view_of_drafts(self._files(main, text or "")),
        )

    def _before(self, path: settings_view.Path) -> bytes | None:
        return self._past.before(path)[0]

    def _imported(self, main: settings_view.Path, text: str) -> list[settings_view.File]:
        return self._files(main, text)[1:]

    def _files(
        self,
        main: settings_view.Path,
        text: str,
        planned: Mapping[settings_view.Path, str] | None = None,
    ) -> list[settings_view.File]:
        """The main file and all that it imports, in containerd's order.

        Imported files may import others. Without `planned`, as they are without node-setup's part.
        """
        texts = {} if planned is None else dict(planned)
        files = [settings_view.File(main, text)]
        for file in files:  # which grows as imports are read
            for pattern in settings_view.imports_of(file):
                known = {each.path for each in files}
                matching = {*self._host.matching(pattern)}
                matching |= {path for path in texts if path.match(pattern)}
                for path in sorted(matching - known):
                    content = texts.get(path)
                    data = self._before(path) if content is None else content.encode()
                    is_own = content is None and path.name == inputs.DROP_IN
                    if data is not None and not is_own:
                        files.append(settings_view.File(path, data.decode()))
        return files

    def _check(self, node: inputs.Node, plan: changes_needed.Plan) -> None:
        """Read the planned files as containerd will, in their order with all others."""
        text = plan.files.get(node.main, node.text or "")
        # A template's addition comes after all that the file has now.
        text += "".join(
            f"\n{toml_edit.added(after)}"
            for path, after in plan.files.items()
            if path.suffix == ".tmpl"
        )
        files = self._files(node.main, text, plan.files)
        if node.release.refuses_higher_versions and (fault := start_faults.higher_version(files)):
            raise settings_view.ConfigError(
                node.main, f"containerd would not start, nothing is changed: {fault}"
            )
        asked = self._reader.view_of_drafts(files)
        view = asked or settings_view.view(files[0], files[1:], node.release)
        _raise_faults(node.main, plan.meant(view))

    def _write(
        self,
        changes: Mapping[settings_view.Path, tuple[bytes | None, bytes | None]],
        after: Mapping[settings_view.Path, bytes],
    ) -> None:
        self._past.remember({path: (self._before(path), data) for path, data in after.items()})
        for path, (_, data) in changes.items():
            _put(self._host, path, data)

    def _verify_fixed(
        self, node: inputs.Node, plan: changes_needed.Plan, system: fixed_systems.FixedSystem
    ) -> None:
        """Raise ConfigError unless what the system has made is as the plan means it."""
        main = self._target.main
        # As they are, with what a person has put there of node-setup's part.
        texts = {file.path: self._host.text(file.path) or "" for file in node.imported}
        files = self._files(main, self._host.text(main) or "", texts)
        view = self._reader.view_of(files) or settings_view.view(
            files[0], files[1:], self._target.release
        )
        if faults := plan.meant(view):
            raise settings_view.ConfigError(main, f"{system.advice}. Missing: {'; '.join(faults)}")

    def _verify(self, plan: changes_needed.Plan) -> None:
        """Ask containerd what it makes of the files as they are now; raise ConfigError."""
        main = self._target.main
        written = {path: self._host.text(path) or "" for path in plan.files}
        files = self._files(main, self._host.text(main) or "", written)
        view = self._reader.view_of(files)
        if view is not None:
            _raise_faults(main, plan.meant(view))

    def _verify_or_restore(
        self,
        changes: Mapping[settings_view.Path, tuple[bytes | None, bytes | None]],
        plan: changes_needed.Plan,
        *,
        first: bool,
    ) -> None:
        """Ask containerd itself; put everything back where it does not agree."""
        try:
            self._verify(plan)
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
            "the result would not be as intended, nothing is changed: "
            + "; ".join(faults)
            + " (does a file that is imported later override it?)",
        )


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


def _put(machine: host.Host, path: settings_view.Path, data: bytes | None) -> None:
    if data is None:
        machine.remove(path)
    else:
        machine.write(path, data)
