"""Why containerd does not start with a configuration, in words that name file and line; pure."""

import re
from collections.abc import Sequence

from agent.setup.config import settings_view

_VERSION = re.compile(r"^\s*version\s*=", re.MULTILINE)


def higher_version(files: Sequence[settings_view.File]) -> str:
    """Which file has a higher version than the main file may import; "" where none has.

    `files` are in the order in which containerd reads them, the main file first. The rule is
    that of containerd 2.3 (cmd/containerd/server/config, LoadConfigWithPlugins).
    """
    highest: int | None = None
    owner = files[0]
    for file in files:
        stated = settings_view.stated_version(settings_view.parse(file))
        if highest is None:
            highest, owner = stated, file if stated is not None else owner
        elif stated is not None and stated > highest:
            main = files[0]
            return (
                f"{file.path}:{_line(file)} is in version {stated}, which is higher than version"
                f" {highest} of {owner.path}:{_line(owner)}. Convert {main.path} with"
                f" `containerd --config {main.path} config migrate`, or have the tool that wrote"
                f" {file.path} write version {highest}"
            )
    return ""


def explained(files: Sequence[settings_view.File], reason: str) -> str:
    """What containerd said, and where the fault is if that can be found."""
    for file in files:
        try:
            settings_view.parse(file)
        except settings_view.ConfigError as error:
            return str(error)
    higher = higher_version(files)
    return f"{reason}. {higher}" if higher else reason


def _line(file: settings_view.File) -> int:
    """The line, from 1, on which a file states its version."""
    match = _VERSION.search(file.text)
    return file.text.count("\n", 0, match.end()) + 1 if match else 1
