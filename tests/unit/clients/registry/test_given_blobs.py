"""Whether a registry gives a blob: to these credentials, and to everybody."""

import pytest

from agent.clients.registry import distribution, failures
from agent.model import oci
from tests.fakes import registry as fakes
from tests.unit.clients.registry import test_distribution as clients

DATA = b"a layer"
ALICE, MALLORY = clients.ALICE, clients.MALLORY

fake = clients.fake


def client(fake: fakes.FakeRegistry, *known) -> distribution.Client:
    return distribution.Client(clients.Known(*known), clients.options(fake))


def described(name: str) -> oci.Descriptor:
    return oci.Descriptor(name, len(DATA))


async def is_given(fake: fakes.FakeRegistry, name: str, *known) -> bool:
    async with client(fake, *known) as reading:
        return await reading.gives(clients.reference(fake), name)


async def test_one_request_asks_whether_a_blob_is_given(fake) -> None:
    name = fake.add_blob(DATA)

    assert await is_given(fake, name)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(("code", "requests"), [(400, 2), (403, 2), (404, 1), (405, 2)])
async def test_what_is_no_yes_is_a_no(fake, code, requests) -> None:
    name = fake.add_blob(DATA)
    fake.faults[name] += [fakes.status(code)] * 2

    assert not await is_given(fake, name)
    assert len(fake.requests) == requests


async def test_where_a_head_is_refused_one_byte_is_asked_for(fake) -> None:
    name = fake.add_blob(DATA)
    fake.faults[name].append(fakes.status(405))

    assert await is_given(fake, name)
    assert [headers.get("Range") for _, _, headers in fake.requests] == [None, "bytes=0-0"]


async def test_an_unknown_blob_and_other_credentials_are_a_no(fake) -> None:
    name = fake.add_blob(DATA)
    fake.user = "alice:secret"

    assert not await is_given(fake, name, MALLORY)
    assert not await is_given(fake, fakes.digest(b"other"), ALICE)
    assert await is_given(fake, name, ALICE)


async def test_a_registry_that_is_busy_is_asked_again_and_given_up_as_for_a_download(fake) -> None:
    name = fake.add_blob(DATA)
    fake.faults[name] += [fakes.status(503)]

    assert await is_given(fake, name)
    fake.faults[name] += [fakes.status(503)] * 1000
    with pytest.raises(failures.RegistryUnreachable):
        await is_given(fake, name)


async def test_storage_elsewhere_is_followed(fake) -> None:
    name = fake.add_blob(DATA)
    fake.faults[name].append(fakes.redirect(f"http://{fake.host}/elsewhere/{name}"))

    assert await is_given(fake, name)
    assert [kind for kind, _, _ in fake.requests] == ["blobs", "elsewhere"]


async def read(reading: distribution.Client, fake: fakes.FakeRegistry, name: str) -> None:
    blob = reading.blob(clients.reference(fake), name, len(DATA))
    assert b"".join([chunk async for chunk in blob]) == DATA


async def test_what_is_given_without_credentials_is_public_without_a_request(fake) -> None:
    name = fake.add_blob(DATA)

    async with client(fake, ALICE) as reading:
        assert not await reading.is_public(clients.reference(fake), described(name), ask=False)
        await read(reading, fake, name)
        assert await reading.is_public(clients.reference(fake), described(name), ask=False)

    assert len(fake.requests) == 1


@pytest.mark.parametrize("is_public", [True, False])
async def test_where_credentials_were_sent_the_registry_is_asked_without(fake, is_public) -> None:
    name = fake.add_blob(DATA)
    fake.user, fake.bearer, fake.anonymous = "alice:secret", True, is_public

    async with client(fake, ALICE) as reading:
        await read(reading, fake, name)
        asked = len(fake.requests)
        assert not await reading.is_public(clients.reference(fake), described(name), ask=False)
        assert len(fake.requests) == asked
        assert (
            await reading.is_public(clients.reference(fake), described(name), ask=True) is is_public
        )


async def test_a_private_repository_is_asked_once(fake) -> None:
    names = [fake.add_blob(DATA + bytes([at])) for at in range(3)]
    fake.user = "alice:secret"

    async with client(fake, ALICE) as reading:
        for name in names:
            assert not await reading.is_public(clients.reference(fake), described(name), ask=True)

    assert len(fake.requests) == 1


async def test_open_storage_behind_a_registry_with_a_password_is_not_public(fake) -> None:
    """The redirect was given to these credentials only."""
    name = fake.add_blob(DATA)
    fake.user = "alice:secret"
    async with fakes.FakeRegistry() as storage:
        storage.add_blob(DATA)
        place = f"http://{storage.host}/elsewhere/{name}"
        fake.faults[name].append(fakes.redirect(place))

        async with client(fake, ALICE) as reading:
            await read(reading, fake, name)
            assert not await reading.is_public(clients.reference(fake), described(name), ask=False)
            assert not await reading.is_public(clients.reference(fake), described(name), ask=True)
        assert len(storage.requests) == 1


async def test_an_answer_that_does_not_come_is_a_no(fake) -> None:
    name = fake.add_blob(DATA)
    fake.user, fake.bearer = "alice:secret", True

    async with client(fake, ALICE) as reading:
        await read(reading, fake, name)
        fake.faults[name].append(fakes.status(503))
        fake.anonymous = True
        assert not await reading.is_public(clients.reference(fake), described(name), ask=True)


async def test_a_page_that_answers_strangers_is_not_the_blob(fake) -> None:
    """A way in between that asks browsers to log in answers 200."""
    name = fake.add_blob(DATA)
    fake.user, fake.bearer, fake.anonymous = "alice:secret", True, True

    async with client(fake, ALICE) as reading:
        await read(reading, fake, name)
        fake.faults[name].append(fakes.other_bytes(b"<html>Who are you?</html>"))
        assert not await reading.is_public(clients.reference(fake), described(name), ask=True)
