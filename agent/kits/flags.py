"""Settings of a role from its command line and environment, and the text that describes them.

A setting is a field of a frozen dataclass, annotated with its type and what it means:

    store_seconds: Annotated[float, "How long the store may take for one answer."] = 2.0

It is then the flag --store-seconds and the variable UIMGACC_STORE_SECONDS. A flag wins over the
variable, the variable over the default. All that is wrong is reported at once, a line for each.
"""

import argparse
import dataclasses
import inspect
import os
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

PREFIX = "UIMGACC_"

_Settings = TypeVar("_Settings")


class _WrongValueError(ValueError):
    """A value cannot be read; the message says what was expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class FlagOnly:
    """In an annotation: the setting has no environment variable."""


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """In an annotation: another name than the field's, in dashes, for flag and variable."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Formerly:
    """In an annotation: an earlier name of the setting, in dashes, that is still read.

    Without `variable` only its flag is: the variable means something else to another role.
    """

    name: str
    variable: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """In an annotation: raises ValueError for a text that is not a value of this setting."""

    check: Callable[[str], object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as its field declares it.

    `names` are its name in dashes and then its former ones. `variables` may be empty. `default`
    is dataclasses.MISSING where the setting is required.
    """

    field: str
    names: tuple[str, ...]
    variables: tuple[str, ...]
    help: str
    default: object
    kind: Any
    checks: tuple[Checked, ...]

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING

    @property
    def repeatable(self) -> bool:
        """Whether the flag may be given several times, for one value each."""
        return typing.get_origin(self.kind) is tuple

    @property
    def switch(self) -> bool:
        """Whether the flag has no value: where it stands, it is true."""
        return self.kind is bool and not self.variables

    @property
    def default_text(self) -> str:
        """The default as a person would write it; "" where there is none, or it is empty."""
        if self.required or self.default in (None, "", ()):
            return ""
        return _written(self.default)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that there are, where they can be counted."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is typing.Literal else ()

    def read(self, text: str) -> object:
        """A value of the setting; raise _WrongValueError."""
        for each in self.checks:
            try:
                each.check(text)
            except ValueError as error:
                raise _WrongValueError(str(error)) from error
        if self.choices:
            if text not in self.choices:
                raise _WrongValueError(f"expected {' or '.join(self.choices)}, not {text!r}")
            return text
        inner = [each for each in typing.get_args(self.kind) if each not in (type(None), ...)]
        if not text and types.NoneType in typing.get_args(self.kind):
            return None
        return _READERS[inner[0] if inner else self.kind](text)


def _path(text: str) -> pathlib.Path:
    if not text:
        raise _WrongValueError("expected a path")
    return pathlib.Path(text).absolute()


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise _WrongValueError(f"expected true or false, not {text!r}")
    return text.lower() == "true"


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise _WrongValueError(f"expected a number that is not negative, not {text!r}")
    return number


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise _WrongValueError(f"expected a whole number that is not negative, not {text!r}")
    return number


_READERS: Mapping[Any, Callable[[str], object]] = {
    pathlib.Path: _path,
    bool: _truth,
    float: _number,
    int: _whole,
    str: str,
}


def settings_of(made: type) -> tuple[Setting, ...]:
    """The settings that a dataclass declares, its own before inherited ones.

    Fields without a text are no settings.
    """
    hints = typing.get_type_hints(made, include_extras=True)
    own = inspect.get_annotations(made)
    return tuple(
        _setting(field, hints[field.name])
        for field in sorted(dataclasses.fields(made), key=lambda field: field.name not in own)
        if typing.get_origin(hints[field.name]) is typing.Annotated
    )


def _setting(field: "dataclasses.Field[Any]", hint: Any) -> Setting:
    kind, *notes = typing.get_args(hint)
    (text,) = (note for note in notes if isinstance(note, str))
    named = [note.name for note in notes if isinstance(note, Named)]
    former = [note for note in notes if isinstance(note, Formerly)]
    name = named[0] if named else field.name.replace("_", "-")
    of_variables = [name, *(note.name for note in former if note.variable)]
    alone = any(isinstance(note, FlagOnly) for note in notes)
    return Setting(
        field=field.name,
        names=(name, *(note.name for note in former)),
        variables=() if alone else tuple(_variable(each) for each in of_variables),
        help=" ".join(text.split()),
        default=field.default,
        kind=kind,
        checks=tuple(note for note in notes if isinstance(note, Checked)),
    )


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace("-", "_")


def read(
    made: type[_Settings],
    arguments: Sequence[str],
    *,
    program: str,
    description: str,
    check: Callable[[_Settings], Iterable[str]] = lambda _settings: (),
    environment: Mapping[str, str] = os.environ,
) -> _Settings:
    """The settings that arguments and environment give; ends the process where they are wrong.

    `check` says what is wrong with values that can be read, a sentence for each problem.
    """
    declared = settings_of(made)
    parser = _parser(declared, program, description)
    given, unknown = parser.parse_known_args(arguments)
    problems = [f"unknown: {each}" for each in unknown]
    values: dict[str, object] = {}
    for setting in declared:
        try:
            value = _value(setting, getattr(given, setting.field), environment)
        except _WrongValueError as error:
            problems.append(str(error))
        else:
            values |= {} if value is dataclasses.MISSING else {setting.field: value}
    if not problems:
        settings = made(**values)
        problems = list(check(settings))
        if not problems:
            return settings
    parser.print_usage(sys.stderr)
    sys.stderr.writelines(f"{program}: {problem}\n" for problem in problems)
    sys.exit(2)


def _value(setting: Setting, given: Any, environment: Mapping[str, str]) -> object:
    if setting.switch:
        return bool(given)
    flag = f"--{setting.names[0]}"
    if given is not None:
        texts, source = [given] if isinstance(given, str) else list(given), flag
    else:
        named = [each for each in setting.variables if each in environment]
        if not named:
            if setting.required:
                also = f" ({setting.variables[0]})" if setting.variables else ""
                raise _WrongValueError(f"{flag}{also} is needed: {setting.help}")
            return dataclasses.MISSING
        texts, source = [environment[named[0]]], named[0]
    try:
        values = tuple(setting.read(text) for text in texts)
    except _WrongValueError as error:
        raise _WrongValueError(f"{source}: {error}") from error
    return values if setting.repeatable else values[-1]


def _parser(declared: Sequence[Setting], program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog="A flag wins over its environment variable, which stands in brackets.",
        formatter_class=_Formatter,
    )
    for setting in declared:
        shape: dict[str, Any] = {"action": "store_true"}
        if not setting.switch:
            shape = {"action": "append"} if setting.repeatable else {}
            shape["metavar"] = _metavar(setting)
        parser.add_argument(
            *(f"--{name}" for name in setting.names[:1]),
            dest=setting.field,
            help=_described(setting).replace("%", "%%"),
            **shape,
        )
        for former in setting.names[1:]:
            parser.add_argument(f"--{former}", dest=setting.field, help=argparse.SUPPRESS, **shape)
    return parser


class _Formatter(argparse.HelpFormatter):
    """Every flag on a line of its own, its text below it: most have longer names than usual."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=6, width=100)


def _described(setting: Setting) -> str:
    notes = "".join(f" [{each}]" for each in setting.variables[:1])
    if setting.repeatable:
        notes += " Repeatable."
    if setting.default_text and not setting.switch:
        notes += f" (default {setting.default_text})"
    return f"{setting.help}{notes}"


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "|".join(setting.choices)
    inner = [each for each in typing.get_args(setting.kind) if each is not type(None)]
    kind = inner[0] if inner else setting.kind
    unit = setting.field.rpartition("_")[2]
    if kind in (float, int):
        return unit.upper() if unit in ("seconds", "hours", "days", "gib") else "NUMBER"
    return {pathlib.Path: "PATH", bool: "true|false"}.get(kind, "TEXT")


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown(made: type) -> Iterator[str]:
    """The lines of a table of the settings, for the reference."""
    yield "| variable | flag | default | meaning |"
    yield "|---|---|---|---|"
    for setting in settings_of(made):
        variable = ", formerly ".join(f"`{each}`" for each in setting.variables)
        default = "required" if setting.required else setting.default_text
        shown = f"`{default}`" if default and not setting.required else default
        text = setting.help.replace("|", "\\|")
        yield f"| {variable} | `--{setting.names[0]}` | {shown} | {text} |"
