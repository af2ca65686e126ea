"""Clients are shared by those with the same credentials, and few are open."""

import base64
import contextlib
from collections.abc import Sequence

import pytest

from agent.clients.registry import connections, failures
from agent.control.tags import tag_access, tag_questions
from agent.model import caches, images
from tests.fakes import registry as fakes

SECRET = base64.b64encode(b'{"auths": {}}').decode()


class Secrets:
    """Those of a cluster, by name; each reading is noted."""

    def __init__(self) -> None:
        self.contents: dict[str, str] = {}
        self.read: list[str] = []

    async def pull_secrets(self, names: Sequence[caches.SecretName]) -> list[str]:
        self.read += [str(name) for name in names]
        return [self.contents.get(name.name, SECRET) for name in names]


def access(*names: str, **changes: object) -> tag_questions.Access:
    secrets = tuple(caches.SecretName("team", name) for name in names)
    return tag_questions.Access(secrets=secrets, **changes)


@pytest.fixture
async def secrets() -> Secrets:
    return Secrets()


async def test_secrets_of_the_same_content_have_one_client_and_are_read_once(secrets) -> None:
    async with tag_access.Accesses(secrets, connections.Options(), seconds=600) as accesses:
        names = set()
        for each in (access("a"), access("b"), access("a"), access()):
            async with accesses.client(each) as (_, name):
                names.add(name)

    assert len(names) == 2
    assert secrets.read == ["team/a", "team/b"]


async def test_a_registry_without_tls_is_another_access(secrets) -> None:
    async with (
        tag_access.Accesses(secrets, connections.Options(), seconds=600) as accesses,
        accesses.client(access()) as (_, one),
        accesses.client(access(plain_http=("r.io",))) as (_, other),
    ):
        assert one != other


async def test_what_was_opened_is_closed_also_beyond_the_limit_and_after_its_time(
    secrets, monkeypatch
) -> None:
    """tests/leaks.py looks at the sockets and tasks that are left."""
    monkeypatch.setattr(tag_access, "_MOST", 2)
    monkeypatch.setattr(tag_access, "_CLIENT_SECONDS", 0.0)
    async with fakes.FakeRegistry() as fake:
        pushed = fake.add_image([fakes.tar(a=b"1")], "1")
        reference = images.parse_reference(f"{fake.host}/team/app:1")
        async with (
            tag_access.Accesses(secrets, connections.Options(), seconds=0) as accesses,
            contextlib.AsyncExitStack() as stack,
        ):
            for number in range(6):
                secrets.contents[f"s-{number}"] = base64.b64encode(b"{}" + b" " * number).decode()
                one = access(f"s-{number % 3}", plain_http=(fake.host,))
                client, _ = await stack.enter_async_context(accesses.client(one))
                assert await client.digest(reference) == pushed


async def test_a_secret_that_cannot_be_used_is_said(secrets) -> None:
    class Broken(Secrets):
        async def pull_secrets(self, names: Sequence[caches.SecretName]) -> list[str]:
            raise failures.RequestRefused("the Secret team/a does not exist")

    async with tag_access.Accesses(Broken(), connections.Options(), seconds=600) as accesses:
        with pytest.raises(failures.RequestRefused):
            async with accesses.client(access("a")):
                raise AssertionError
