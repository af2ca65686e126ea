"""The notifications of registries, read: pure functions.

Each registry has a form of its own, and no field says which one it is, so it is known by its parts:

- CNCF Distribution (also GitLab, Gitea): `events`, each with `action` and a `target` that has
  `repository` and, of a manifest that was pushed by its tag, `tag`.
  https://distribution.github.io/distribution/about/notifications
- Azure Container Registry: one such event by itself.
  https://learn.microsoft.com/azure/container-registry/container-registry-webhook-reference
- Harbor: `type` PUSH_ARTIFACT and `event_data`; as CloudEvents `harbor.artifact.pushed` and
  `data`. https://goharbor.io/docs/main/working-with-projects/project-configuration/configure-webhooks
- Quay: `repository` and `updated_tags`, a list, or an object in old versions.
  https://docs.projectquay.io/use_quay.html#repository-events
- Alibaba Cloud Container Registry and Docker Hub: `push_data` with `tag`, and `repository` with
  `repo_full_name` or `repo_name`. https://www.alibabacloud.com/help/doc-detail/60949.htm
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from agent import errors
from agent.control.tags import tag_hints

Sender = Literal["distribution", "azure", "harbor", "quay", "alibaba"]
"""Whose form a notification has; `alibaba` is Docker Hub's as well."""

_MOST = 200
"""Tags that one notification may name."""

_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HARBOR_PUSHES = ("PUSH_ARTIFACT", "harbor.artifact.pushed")


class NotificationInvalid(errors.PermanentError):
    """A body that is no notification of a registry that is known; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"this is no notification that can be read: {reason}")
        self.reason = reason


def read(body: bytes) -> tuple[Sender, Sequence[tag_hints.Hint]]:
    """Whose notification this is, and the tags that it says were pushed; none for other events.

    Raises NotificationInvalid.
    """
    try:
        parsed = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotificationInvalid(str(error)) from error
    for sender, is_of, pushed in _FORMS:
        if is_of(parsed):
            return sender, _distinct(pushed(parsed))
    raise NotificationInvalid("it has the form of no registry that is known")


def _distinct(pushed: Iterator[tuple[object, object]]) -> Sequence[tag_hints.Hint]:
    """The tags, each once; what cannot be the name of one is left out."""
    hints: dict[tag_hints.Hint, None] = {}
    for repository, tag in pushed:
        if len(hints) == _MOST:
            raise NotificationInvalid(f"it names more than {_MOST} tags")
        if not isinstance(repository, str) or not isinstance(tag, str):
            continue
        if len(repository) <= 255 and _REPOSITORY.fullmatch(repository) and _TAG.fullmatch(tag):
            hints[tag_hints.Hint(repository, tag)] = None
    return tuple(hints)


def _distribution(parsed: dict[str, Any]) -> Iterator[tuple[object, object]]:
    for event in parsed["events"]:
        if isinstance(event, dict):
            yield from _event(event)


def _event(event: dict[str, Any]) -> Iterator[tuple[object, object]]:
    target = event.get("target")
    if event.get("action") == "push" and isinstance(target, dict):
        yield target.get("repository"), target.get("tag")


def _harbor(parsed: dict[str, Any]) -> Iterator[tuple[object, object]]:
    if parsed["type"] not in _HARBOR_PUSHES:
        return
    data = _harbor_data(parsed)
    repository, resources = data.get("repository"), data.get("resources")
    if isinstance(repository, dict) and isinstance(resources, list):
        for resource in resources:
            if isinstance(resource, dict):
                yield repository.get("repo_full_name"), resource.get("tag")


def _harbor_data(parsed: dict[str, Any]) -> dict[str, Any]:
    data = parsed.get("event_data", parsed.get("data"))
    return data if isinstance(data, dict) else {}


def _quay(parsed: dict[str, Any]) -> Iterator[tuple[object, object]]:
    # Iterating over an object gives its keys, which are the tags in old versions.
    return ((parsed["repository"], tag) for tag in parsed["updated_tags"])


def _alibaba(parsed: dict[str, Any]) -> Iterator[tuple[object, object]]:
    repository = parsed["repository"]
    yield (
        repository.get("repo_full_name", repository.get("repo_name")),
        parsed["push_data"].get("tag"),
    )


_FORMS: Sequence[
    tuple[
        Sender,
        Callable[[dict[str, Any]], bool],
        Callable[[dict[str, Any]], Iterator[tuple[object, object]]],
    ]
] = (
    ("distribution", lambda parsed: isinstance(parsed.get("events"), list), _distribution),
    ("azure", lambda parsed: "action" in parsed and isinstance(parsed.get("target"), dict), _event),
    ("harbor", lambda parsed: "type" in parsed and bool(_harbor_data(parsed)), _harbor),
    ("quay", lambda parsed: isinstance(parsed.get("updated_tags"), list | dict)
     and "repository" in parsed, _quay),
    ("alibaba", lambda parsed: isinstance(parsed.get("push_data"), dict)
     and isinstance(parsed.get("repository"), dict), _alibaba),
)  # fmt: skip
