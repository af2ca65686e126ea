"""Reading a manifest that a person wrote: an error names the field and what was expected.

A `Field` is a value together with its path in the document. It is read strictly
where it is used (`spec.containers[0].image: expected a string`) and not looked at
elsewhere: a manifest of a later Kubernetes has fields that are not known here.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from agent import errors

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class ManifestError(errors.PermanentError):
    """A manifest cannot be used as it is.

    `field` is the path of the field at fault (`spec.images[3]`), `reason` what is
    wrong with it.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A value of a document and its path; None stands for null and for absent alike."""

    value: object
    path: str = ""

    @property
    def absent(self) -> bool:
        """Whether the field is missing or null."""
        return self.value is None

    def error(self, reason: str) -> ManifestError:
        """The error that names this field."""
        return ManifestError(self.path, reason)

    def get(self, *keys: str) -> "Field":
        """The field below, along a path of keys; absent where any of them is."""
        field = self
        for key in keys:
            field = field._child(key)
        return field

    def _child(self, key: str) -> "Field":
        step = key if _PLAIN_KEY.fullmatch(key) else f"[{key!r}]"
        path = f"{self.path}{'' if not self.path or step[0] == '[' else '.'}{step}"
        return Field(self.mapping().get(key), path)

    def mapping(self) -> Mapping[object, object]:
        """The value as a mapping; an absent one is empty."""
        if self.value is None:
            return {}
        if not isinstance(self.value, Mapping):
            raise self.error("expected a mapping")
        return self.value

    def items(self) -> Iterator["Field"]:
        """The entries of a list; an absent one has none."""
        if self.value is None:
            return
        if not isinstance(self.value, list | tuple):
            raise self.error("expected a list")
        for index, value in enumerate(self.value):
            yield Field(value, f"{self.path}[{index}]")

    def text(self, default: str | None = None) -> str:
        """The value as a string; absent gives `default`, without one it is an error."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise self.error("expected a string")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """The value as a list of strings; an absent one is empty."""
        return tuple(item.text() for item in self.items())

    def labels(self) -> dict[str, str]:
        """The value as a mapping of strings to strings, as annotations and labels are.

        YAML reads an unquoted true or 20 as no string, and the API server refuses
        such an annotation; the message says what to write instead.
        """
        pairs: dict[str, str] = {}
        for key, value in self.mapping().items():
            if not isinstance(key, str):
                raise self.error(f"expected strings as keys, not {key!r}")
            if not isinstance(value, str):
                written = str(value).lower() if isinstance(value, bool) else value
                raise self._child(key).error(f'expected a string: write "{written}" in quotes')
            pairs[key] = value
        return pairs

    def boolean(self) -> bool:
        """The value as true or false; an absent one is false."""
        if not isinstance(self.value, bool | None):
            raise self.error("expected true or false")
        return bool(self.value)

    def integer(self, *, at_least: int, at_most: int | None = None) -> int:
        """The value as a whole number within bounds; digits in quotes are accepted."""
        value = self.value
        if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error("expected a whole number")
        if value < at_least or (at_most is not None and value > at_most):
            bounds = f"{at_least} to {at_most}" if at_most is not None else f"at least {at_least}"
            raise self.error(f"expected {bounds}, not {value}")
        return value

    def label_selector(self) -> str:
        """A label selector in the form of a request: a=b,c in (d,e),!f; "" for an absent one."""
        parts = [f"{key}={value}" for key, value in self.get("matchLabels").labels().items()]
        for each in self.get("matchExpressions").items():
            key, values = each.get("key").text(), ",".join(each.get("values").texts())
            match each.get("operator").text():
                case "In":
                    parts.append(f"{key} in ({values})")
                case "NotIn":
                    parts.append(f"{key} notin ({values})")
                case "Exists":
                    parts.append(key)
                case "DoesNotExist":
                    parts.append(f"!{key}")
                case other:
                    raise each.get("operator").error(f"not known: {other}")
        return ",".join(parts)


def document(value: object) -> Field:
    """A whole document, which must be a mapping."""
    field = Field(value)
    if not isinstance(value, Mapping):
        raise field.error("expected a mapping with apiVersion and kind")
    return field
