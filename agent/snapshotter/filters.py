r"""containerd's filter language, as far as snapshots have fields.

    labels."containerd.io/snapshot.ref"==sha256:...,parent=="k8s.io/7/x"

Selectors in one filter are joined by comma (and), several filters are an or.
Operators are `==`, `!=`, `~=` (a regular expression) and none (the field is
present). Source: containerd pkg/filters/parser.go.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

_PATH = re.compile(r'(?P<field>[A-Za-z_]\w*)(?:\.(?P<key>"(?:[^"\\]|\\.)*"|[^=!~,\s"]+))?')
_OPERATOR = re.compile(r"==|!=|~=")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_BARE = re.compile(r"[^,]*")

Field = Callable[[str, str], str | None]
"""Gives the value of a field (`labels` with its key), None where it is absent."""


class FilterError(ValueError):
    """A filter that does not parse; `text` is the filter."""

    def __init__(self, text: str, at: int) -> None:
        super().__init__(f"filter does not parse at {at}: {text[:200]!r}")
        self.text = text


@dataclasses.dataclass(frozen=True, slots=True)
class Selector:
    """One comparison; `operator` is "" for presence."""

    field: str
    key: str
    operator: str
    value: str

    def matches(self, field: Field) -> bool:
        """Whether what `field` gives fulfils the comparison."""
        actual = field(self.field, self.key)
        match self.operator:
            case "==":
                return actual == self.value
            case "!=":
                return (actual or "") != self.value
            case "~=":
                return actual is not None and re.search(self.value, actual) is not None
            case _:
                return bool(actual)


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _check_expression(text: str, at: int, value: str) -> None:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise FilterError(text, at) from error


def parse(text: str) -> tuple[Selector, ...]:
    """Parse one filter; raises FilterError."""
    selectors = []
    at = 0
    while at < len(text):
        path = _PATH.match(text, at)
        if path is None:
            raise FilterError(text, at)
        at = path.end()
        operator = _OPERATOR.match(text, at)
        value = ""
        if operator is not None:
            at = operator.end()
            literal = _QUOTED.match(text, at) or _BARE.match(text, at)
            assert literal is not None
            value, at = _unquote(literal[0]), literal.end()
            if operator[0] == "~=":
                _check_expression(text, at, value)
        selectors.append(
            Selector(
                path["field"], _unquote(path["key"] or ""), operator[0] if operator else "", value
            )
        )
        if at < len(text):
            if text[at] != ",":
                raise FilterError(text, at)
            at += 1
    return tuple(selectors)


def parse_all(filters: Sequence[str]) -> list[tuple[Selector, ...]]:
    """Parse the filters of a List request; none at all match everything."""
    return [parse(text) for text in filters]


def any_matches(filters: Sequence[tuple[Selector, ...]], field: Field) -> bool:
    """Whether one of the filters (or there is none) accepts what `field` gives."""
    return not filters or any(
        all(selector.matches(field) for selector in selectors) for selectors in filters
    )


def required(selectors: tuple[Selector, ...], field: str, key: str = "") -> str | None:
    """The value that `field` must equal for a filter to match, if it says so."""
    for selector in selectors:
        if (selector.field, selector.key, selector.operator) == (field, key, "=="):
            return selector.value
    return None
