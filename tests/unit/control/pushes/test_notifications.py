"""The notifications of each registry name what was pushed; other events name nothing."""

import json
from typing import Any

import pytest

from agent.control.pushes import notifications

DIGEST = f"sha256:{'1' * 64}"

HARBOR = {
    "resources": [
        {"digest": DIGEST, "tag": "2.1", "resource_url": "harbor.example.com/team/app:2.1"}
    ],
    "repository": {"name": "app", "namespace": "team", "repo_full_name": "team/app"},
}


def event(**target: object) -> dict[str, Any]:
    return {"id": "1", "action": "push", "target": target, "request": {"host": "r.example.com"}}


FORMS: dict[str, dict[str, Any]] = {
    "distribution": {
        "events": [
            event(mediaType="application/octet-stream", digest=DIGEST, repository="team/app"),
            event(digest=DIGEST, repository="team/app", tag="2.1"),
        ]
    },
    "azure": {"id": "1", "timestamp": "t", **event(repository="team/app", tag="2.1")},
    "harbor": {"type": "PUSH_ARTIFACT", "operator": "admin", "event_data": HARBOR},
    "harbor as CloudEvents": {
        "specversion": "1.0",
        "type": "harbor.artifact.pushed",
        "data": HARBOR,
    },
    "quay": {
        "name": "app",
        "repository": "team/app",
        "docker_url": "quay.example.com/team/app",
        "updated_tags": ["2.1"],
    },
    "quay of long ago": {"repository": "team/app", "updated_tags": {"2.1": "b750"}},
    "alibaba": {
        "push_data": {"digest": DIGEST, "pushed_at": "2026-01-01 00:00:00", "tag": "2.1"},
        "repository": {"name": "app", "namespace": "team", "repo_full_name": "team/app"},
    },
    "alibaba (Docker Hub)": {
        "push_data": {"tag": "2.1", "pusher": "a"},
        "repository": {"name": "app", "repo_name": "team/app"},
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_each_registry_is_understood(form: str) -> None:
    sender, hints = notifications.read(json.dumps(FORMS[form]).encode())

    assert form.startswith(sender)
    assert [str(each) for each in hints] == ["team/app:2.1"]


@pytest.mark.parametrize(
    "body",
    [
        {"events": []},
        {"events": [{**event(repository="a", tag="1"), "action": "pull"}]},
        {"events": [event(repository="a"), None, {"action": "push", "target": 1}]},
        {"type": "DELETE_ARTIFACT", "event_data": HARBOR},
        {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"digest": DIGEST}]}},
        {"action": "delete", "target": {"repository": "a", "tag": "1"}},
        {"repository": "a/b", "updated_tags": []},
        {"repository": "A/../B", "updated_tags": ["1"]},
        {"repository": "a/b", "updated_tags": ["x" * 129, "a b", 7, None]},
        {"repository": {}, "push_data": {}},
    ],
    ids=str,
)
def test_what_pushes_no_tag_names_none(body: dict[str, Any]) -> None:
    assert notifications.read(json.dumps(body).encode())[1] == ()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b"{}", b'{"type": "PUSH_ARTIFACT"}', b"[" * 100_000],
    ids=["empty", "list", "cut", "no text", "nothing", "no data", "deep"],
)
def test_what_is_of_no_registry_is_refused(body: bytes) -> None:
    with pytest.raises(notifications.NotificationInvalid):
        notifications.read(body)


def test_a_notification_names_a_bounded_number_of_tags() -> None:
    body = {"repository": "a/b", "updated_tags": [str(number) for number in range(201)]}

    with pytest.raises(notifications.NotificationInvalid, match="200"):
        notifications.read(json.dumps(body).encode())
