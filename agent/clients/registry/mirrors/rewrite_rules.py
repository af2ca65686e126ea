"""Rewriting repositories for a mirror, as k3s and RKE2 do (`rewrite` of registries.yaml).

A pattern is a regular expression of Go's package regexp, whose syntax is RE2's, and so is the
library's; what Go puts in for `$1` is here. The first pattern that changes the repository counts.
Source: k3s-io/containerd core/remotes/docker/resolver.go, Go's regexp.Expand.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import re2

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # they are raised, and need not be on stderr as well

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))", re.ASCII)


class PatternError(ValueError):
    """A pattern is no regular expression."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rewrite:
    """Each match of `pattern` is replaced by `template`, in which $1 is the first group."""

    pattern: str
    template: str

    def __post_init__(self) -> None:
        """Raise PatternError."""
        try:
            re2.compile(self.pattern, _OPTIONS)
        except (re2.error, TypeError) as error:
            raise PatternError(
                f"the pattern {self.pattern!r} is not usable: {_reason(error)}"
            ) from error

    def apply(self, text: str) -> str:
        """The text with all matches replaced."""
        done, end = "", 0
        previous = -1
        for match in re2.compile(self.pattern, _OPTIONS).finditer(text):
            start, stop = match.span()
            if start == stop == previous:
                continue  # Go takes no empty match where the last one ended.
            done += text[end:start] + _expanded(self.template, match)
            end = previous = stop
        return done + text[end:]


def _reason(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def rewritten(wanted: Sequence[Rewrite], repository: str) -> str:
    """A repository as a mirror has it."""
    for each in wanted:
        changed = each.apply(repository)
        if changed != repository:
            return changed
    return repository


def _expanded(template: str, match: Any) -> str:
    def value(variable: re.Match[str]) -> str:
        if variable[1]:
            return "$"
        name = variable[2] or variable[3]
        key = int(name) if name.isdecimal() else name
        try:
            return match.group(key) or ""
        except IndexError:
            return ""

    return _VARIABLE.sub(value, template)
