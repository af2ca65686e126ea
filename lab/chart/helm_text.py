"""Lines of a template: YAML, with the user's values where the rendering has a token."""

import json
import re
from collections.abc import Iterable
from typing import Any

from lab.chart import conditions, renderings

TOKENS = {
    renderings.EXPORT: '{{ include "uimgacc.export" $ }}',
    renderings.IMAGE: '{{ include "uimgacc.image" $ }}',
    renderings.SERVER: '{{ include "uimgacc.server" $ }}',
    renderings.PATH: "{{ $.Values.store.nfs.path }}",
}
END = "{{- end }}"

_OPENING = ("{{- if ", "{{- with ", "{{- range ")
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_WIDTH = 80


def joined(lines: Iterable[str]) -> list[str]:
    """The lines with one condition where two that follow each other are the same."""
    joined: list[str] = []
    opened: list[str] = []
    closed = ""
    for line in lines:
        if closed and closed == line:
            joined.pop()
        else:
            joined.append(line)
        closed = ""
        if line.startswith(_OPENING):
            opened.append(line)
        elif line.startswith("{{- else"):
            opened[-1] = ""
        elif line == END:
            closed = opened.pop()
    return joined


def value_at(place: conditions.Path) -> str:
    """The expression of a value."""
    text = "$.Values"
    for part in place:
        text = f"{text}.{part}" if part.isidentifier() else f'(index {text} "{part}")'
    return text


def key_of(key: str) -> str:
    return key if _PLAIN.fullmatch(key) and key.lower() not in _WORDS else json.dumps(key)


def scalar(value: Any, indent: int) -> list[str]:
    """A value as YAML, which is more lines for a long text."""
    if not isinstance(value, str):
        return [json.dumps(value)]
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return [_filled(value)]
    block = "\n" in value or (len(value) > _WIDTH and '"' in value)
    if not block or value.endswith("\n\n") or value[0].isspace() or "\t" in value:
        return [_filled(json.dumps(value, ensure_ascii=False))]
    space = " " * indent
    body = [
        f"{space}{_filled(line)}".rstrip() if not line else f"{space}{_filled(line)}"
        for line in value.removesuffix("\n").split("\n")
    ]
    return ["|" if value.endswith("\n") else "|-", *body]


def _filled(text: str) -> str:
    """A text with the user's values, and nothing else that Helm would take for a template."""
    text = text.replace("{{", '{{ "{{" }}')
    for token, expression in TOKENS.items():
        text = text.replace(token, expression)
    return text
