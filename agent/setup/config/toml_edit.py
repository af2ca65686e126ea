"""Changes to the text of a TOML file that leave everything else as it is; pure.

New tables go to the end between two marker lines; single values are set by
tomlkit, which keeps comments and layout. Every result is parsed again and
compared with what it was meant to be: a file in which that fails is refused, not
damaged.
"""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import tomlkit
import tomlkit.exceptions

from agent.setup.config import settings_view

BEGIN = "# >>> uimgacc node-setup: made by `uimgacc node-setup`, removed by `--undo` >>>"
END = "# <<< uimgacc node-setup <<<"

Tables = Sequence[tuple[settings_view.KeyPath, Mapping[str, Any]]]


def render(tables: Tables) -> str:
    """Tables as TOML; those inside others get headers of their own."""
    return "\n".join(_render_table(keys, values) for keys, values in tables)


def block(tables: Tables) -> str:
    """Tables as TOML between the markers."""
    return f"{BEGIN}\n{render(tables)}{END}\n"


def append(text: str, tables: Tables, *, path: settings_view.Path) -> str:
    """The text with tables added at its end."""
    if not tables:
        return text
    gap = "" if not text or text.endswith("\n") else "\n"
    newline = "\r\n" if "\r\n" in text else "\n"
    blank = "\n" if text else ""
    result = text + (gap + blank + block(tables)).replace("\n", newline)
    wanted = _parsed(text, path)
    for keys, values in tables:
        settings_view.merge(wanted, _nested(keys, values))
    return _verified(result, wanted, path)


def assign(text: str, keys: settings_view.KeyPath, value: Any, *, path: settings_view.Path) -> str:
    """The text with one value set; the table of the key is made where there is none."""
    before = _parsed(text, path)
    if settings_view.value_at(before, keys) == value:
        return text
    document = _document(text, path)
    table: Any = document
    try:
        for key in keys[:-1]:
            if key not in table:
                table[key] = tomlkit.table(is_super_table=key != keys[-2])
            table = table[key]
        table[keys[-1]] = value
    except (tomlkit.exceptions.TOMLKitError, TypeError) as error:
        raise _refusal(path) from error
    settings_view.merge(before, _nested(keys[:-1], {keys[-1]: value}))
    if keys == ("imports",):
        before["imports"] = value
    return _verified(tomlkit.dumps(document), before, path)


def remove(text: str, keys: settings_view.KeyPath, *, path: settings_view.Path) -> str:
    """The text without a key, and without the tables that are empty because of that."""
    before = _parsed(text, path)
    if settings_view.value_at(before, keys) is None:
        return text
    document = _document(text, path)
    try:
        _drop(document, keys)
    except (tomlkit.exceptions.TOMLKitError, TypeError) as error:
        raise _refusal(path) from error
    _drop(before, keys)
    return _verified(tomlkit.dumps(document), before, path)


def added(text: str) -> str:
    """What stands between the markers; "" where they are not."""
    begin = text.find(BEGIN)
    end = text.find(END, begin)
    return "" if begin < 0 or end < 0 else text[begin + len(BEGIN) : end]


def cut(text: str) -> str:
    """The text without what stands between the markers, and without the markers."""
    begin = text.find(BEGIN)
    end = text.find(END, begin)
    if begin < 0 or end < 0:
        return text
    after = text[end + len(END) :]
    after = after.removeprefix("\r").removeprefix("\n")
    before = text[:begin]
    for blank in ("\r\n\r\n", "\n\n"):
        if before.endswith(blank):
            before = before[: len(before) - len(blank) // 2]
            break
    else:
        before = "" if before in ("\n", "\r\n") else before
    return before + after


def _drop(data: Any, keys: settings_view.KeyPath) -> None:
    if len(keys) > 1:
        _drop(data[keys[0]], keys[1:])
        if len(data[keys[0]]):
            return
    del data[keys[0]]


def _render_table(keys: settings_view.KeyPath, values: Mapping[str, Any]) -> str:
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = ["[" + ".".join(tomlkit.key(key).as_string() for key in keys) + "]"]
    lines += [
        f"  {tomlkit.key(key).as_string()} = {_text(value)}"
        for key, value in values.items()
        if key not in inner
    ]
    text = "\n".join(lines) + "\n"
    return text + "".join("\n" + _render_table((*keys, key), inner[key]) for key in inner)


def _text(value: Any) -> str:
    """A value in one line; tomlkit would make a list of tables a section of its own."""
    if isinstance(value, Sequence) and any(isinstance(each, Mapping) for each in value):
        array = tomlkit.array()
        for each in value:
            table = tomlkit.inline_table()
            table.update(each)
            array.append(table)
        return str(array.as_string())
    return str(tomlkit.item(value).as_string())


def _nested(keys: settings_view.KeyPath, values: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = dict(values)
    for key in reversed(keys):
        result = {key: result}
    return result


def _parsed(text: str, path: settings_view.Path) -> dict[str, Any]:
    return copy.deepcopy(settings_view.parse(settings_view.File(path, text)))


def _document(text: str, path: settings_view.Path) -> tomlkit.TOMLDocument:
    try:
        document = tomlkit.parse(text)
    except tomlkit.exceptions.TOMLKitError as error:
        raise settings_view.ConfigError(path, f"not valid TOML: {error}") from error
    if tomlkit.dumps(document) != text:
        raise _refusal(path)
    return document


def _verified(text: str, wanted: Mapping[str, Any], path: settings_view.Path) -> str:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal(path) from error
    if parsed != wanted:
        raise _refusal(path)
    return text


def _refusal(path: settings_view.Path) -> settings_view.ConfigError:
    return settings_view.ConfigError(
        path,
        "is written in a way that cannot be edited without risk (inline or dotted tables where"
        " node-setup's tables belong?); write it as `containerd config dump` prints it, then"
        " try again",
    )
