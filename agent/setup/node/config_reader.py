"""containerd itself as the reader of its configuration: what it makes of files, written or not."""

import dataclasses
import secrets
from collections.abc import Sequence

from agent.setup.config import containerd_binary, places, settings_view, start_faults, toml_edit
from agent.setup.node import host


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Which containerd: its main file, its release, its binary if it can be run."""

    main: settings_view.Path
    release: settings_view.Release
    binary: str | None = None


class ConfigReader:
    """Asks the target's containerd with `config dump`; each answer is None where it cannot.

    It can for 2.x, where its program is known. In 1.x the files' own text decides what must be
    written. The main file of k3s and RKE2 has node set-up's part only after their next start.
    """

    def __init__(self, machine: host.Host, target: Target) -> None:
        self._host = machine
        self._target = target

    def view_of(self, files: Sequence[settings_view.File]) -> settings_view.View | None:
        """What it makes of the files as they are; `files` are these, the main file first.

        Raises ConfigError where it does not start with them.
        """
        return self._view(self._target.main, files)

    def view_of_drafts(self, files: Sequence[settings_view.File]) -> settings_view.View | None:
        """What it would make of a main file and its imports, which need not be written yet."""
        if not self._can_ask:
            return None
        stem = self._host.folder_for_drafts / f"node-setup-{secrets.token_hex(6)}"
        drafts: dict[settings_view.Path, str] = {}
        imports = []
        for at, file in enumerate(files[1:], 1):
            place = file.path
            if self._host.text(file.path) != file.text:
                place = stem.with_name(f"{stem.name}-{at}.toml")
                drafts[place] = file.text
            imports.append(str(place))
        main = stem.with_name(f"{stem.name}-0.toml")
        drafts[main] = toml_edit.assign(
            files[0].text, ("imports",), imports, path=self._target.main
        )
        try:
            for path, text in drafts.items():
                self._host.write(path, text.encode(), mode=0o600)
            return self._view(main, files)
        finally:
            for path in drafts:
                self._host.remove(path)

    @property
    def _can_ask(self) -> bool:
        target = self._target
        return (
            target.binary is not None
            and target.release.merges
            and places.rancher(target.main) is None
        )

    def _view(
        self, main: settings_view.Path, files: Sequence[settings_view.File]
    ) -> settings_view.View | None:
        target = self._target
        if target.binary is None or places.rancher(target.main) is not None:
            return None
        try:
            text = containerd_binary.dump(target.binary, str(main), enter=self._host.enter)
        except containerd_binary.ContainerdError as error:
            raise settings_view.ConfigError(
                target.main,
                "containerd does not start with this configuration, nothing is changed:"
                f" {start_faults.explained(files, error.reason)}",
            ) from error
        return containerd_binary.view_of_dump(text, target.release)
