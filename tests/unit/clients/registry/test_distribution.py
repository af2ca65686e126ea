"""The registry client against a real HTTP server that lies."""

import math

import pytest

from agent.clients.registry import connections, credentials, distribution, failures
from agent.model import images
from tests.fakes import registry as fakes


class Known:
    """A provider that knows these credentials for everything."""

    def __init__(self, *found: credentials.Credential) -> None:
        self.found = found

    async def credentials(self, reference: images.Reference):
        return self.found


@pytest.fixture
async def fake():
    async with fakes.FakeRegistry() as server:
        yield server


def options(fake: fakes.FakeRegistry, **changes) -> connections.Options:
    values = {
        "plain_http": frozenset({fake.host}),
        "delays": (0.01,),
        "deadline": 1.0,
        "read_timeout": 10.0,
    }
    return connections.Options(**{**values, **changes})


def reference(fake: fakes.FakeRegistry, rest: str = "team/app:1") -> images.Reference:
    return images.parse_reference(f"{fake.host}/{rest}")


async def read_blob(fake, digest: str, size: int, *known: credentials.Credential, **changes):
    async with distribution.Client(Known(*known), options(fake, **changes)) as client:
        return b"".join([chunk async for chunk in client.blob(reference(fake), digest, size)])


async def read_manifest(fake, *known: credentials.Credential, rest="team/app:1", **changes):
    async with distribution.Client(Known(*known), options(fake, **changes)) as client:
        return await client.manifest(reference(fake, rest))


ALICE = credentials.Credential("a file", "alice", "secret")
MALLORY = credentials.Credential("another file", "mallory", "guess")


async def test_a_manifest_comes_with_its_digest_and_media_type(fake) -> None:
    name = fake.add_image([fakes.tar(a=b"1")], "1")

    found = await read_manifest(fake)

    assert (found.digest, found.media_type) == (name, "application/vnd.oci.image.manifest.v1+json")


async def test_a_manifest_by_digest_with_other_bytes_is_refused(fake) -> None:
    name = fake.add_image([fakes.tar(a=b"1")], "1")
    fake.faults[name].append(fakes.other_bytes(b"{}"))

    with pytest.raises(failures.WrongContent, match="wrong bytes"):
        await read_manifest(fake, rest=f"team/app@{name}")


async def test_a_manifest_by_tag_must_match_the_digest_that_the_registry_names(fake) -> None:
    fake.add_image([fakes.tar(a=b"1")], "1")

    async def lie(request, data):
        response = fakes.answer(request, data)
        response.headers["Docker-Content-Digest"] = "sha256:" + "0" * 64
        return response

    fake.faults["1"].append(lie)

    with pytest.raises(failures.WrongContent):
        await read_manifest(fake)


async def test_an_unknown_tag_says_so(fake) -> None:
    with pytest.raises(failures.ImageUnknown, match="check the spelling"):
        await read_manifest(fake)


async def test_a_small_blob_is_verified(fake) -> None:
    name = fake.add_blob(b"config")
    fake.faults[name].append(fakes.other_bytes(b"konfig"))

    async with distribution.Client(Known(), options(fake)) as client:
        with pytest.raises(failures.WrongContent):
            await client.small_blob(reference(fake), name)


async def test_a_truncated_blob_goes_on_where_it_stopped(fake) -> None:
    data = bytes(range(256)) * 1000
    name = fake.add_blob(data)
    fake.faults[name] += [fakes.cut_after(100_000), fakes.cut_after(0)]

    assert await read_blob(fake, name, len(data)) == data
    ranges = [headers.get("Range") for _, _, headers in fake.requests]
    assert ranges[0] is None
    assert ranges[-1] is not None


async def test_a_registry_that_ignores_ranges_is_read_again_without_repetition(fake) -> None:
    data = bytes(range(256)) * 1000
    name = fake.add_blob(data)

    async def all_of_it(request, data):
        return fakes.ignoring_ranges(request, data)

    fake.faults[name] += [fakes.cut_after(100_000), all_of_it]

    assert await read_blob(fake, name, len(data)) == data


async def test_a_stall_is_noticed_and_the_blob_goes_on(fake) -> None:
    data = bytes(range(256)) * 1000
    name = fake.add_blob(data)
    fake.faults[name].append(fakes.stall_after(50_000))

    assert await read_blob(fake, name, len(data), read_timeout=0.2) == data


async def test_retry_after_is_obeyed(fake) -> None:
    name = fake.add_blob(b"data")
    fake.faults[name] += [fakes.status(429, Retry_After="1"), fakes.status(503)]

    assert await read_blob(fake, name, 4, deadline=5.0) == b"data"
    assert len(fake.requests) == 3


async def test_retry_after_beyond_the_deadline_gives_up_at_once(fake) -> None:
    name = fake.add_blob(b"data")
    fake.faults[name].append(fakes.status(429, Retry_After="3600"))

    with pytest.raises(failures.RegistryUnreachable) as caught:
        await read_blob(fake, name, 4)

    assert caught.value.delay == 3600


async def test_the_reason_of_each_retry_is_reported(fake) -> None:
    name = fake.add_blob(b"data")
    fake.faults[name] += [fakes.status(503), fakes.status(500)]
    reasons: list[str] = []

    await read_blob(fake, name, 4, on_retry=reasons.append)

    url = f"http://{fake.host}/v2/team/app/blobs/{name}"
    assert reasons == [f"{url}: status 503", f"{url}: status 500"]


async def test_a_registry_that_always_fails_is_given_up_at_the_deadline(fake) -> None:
    name = fake.add_blob(b"data")
    fake.faults[name] += [fakes.status(500)] * 1000

    with pytest.raises(failures.RegistryUnreachable, match="status 500"):
        await read_blob(fake, name, 4, deadline=0.2)


async def test_a_registry_that_is_not_there_says_where(fake) -> None:
    async with distribution.Client(
        Known(), connections.Options(plain_http=frozenset({"127.0.0.1:1"}), deadline=0.1)
    ) as client:
        with pytest.raises(failures.RegistryUnreachable, match=r"127\.0\.0\.1:1"):
            await client.manifest(images.parse_reference("127.0.0.1:1/a:1"))


async def test_a_blob_longer_than_told_is_refused(fake) -> None:
    name = fake.add_blob(b"data and more")

    with pytest.raises(failures.WrongContent, match="more bytes"):
        await read_blob(fake, name, 4)


async def test_basic_authorization_tries_all_credentials(fake) -> None:
    fake.user = "alice:secret"
    fake.add_image([fakes.tar(a=b"1")], "1")

    assert await read_manifest(fake, MALLORY, ALICE)


async def test_refused_credentials_are_named_but_never_shown(fake) -> None:
    fake.user = "alice:secret"
    fake.add_image([fakes.tar(a=b"1")], "1")

    with pytest.raises(failures.AccessDenied, match="another file") as caught:
        await read_manifest(fake, MALLORY)

    assert "guess" not in str(caught.value)
    assert "guess" not in repr(MALLORY)


async def test_without_credentials_the_message_says_so(fake) -> None:
    fake.user = "alice:secret"
    fake.add_image([fakes.tar(a=b"1")], "1")

    with pytest.raises(failures.AccessDenied, match="without credentials"):
        await read_manifest(fake)


async def test_a_bearer_token_is_fetched_and_kept(fake) -> None:
    fake.user, fake.bearer = "alice:secret", True
    name = fake.add_image([fakes.tar(a=b"1")], "1")

    async with distribution.Client(Known(ALICE), options(fake)) as client:
        await client.manifest(reference(fake))
        await client.manifest(reference(fake), name)

    assert fake.issued == 1
    assert fake.token_requests[0]["service"] == "fake"
    assert fake.token_requests[0]["scope"] == "repository:x:pull"


async def test_an_expired_token_is_renewed(fake, monkeypatch) -> None:
    monkeypatch.setattr("agent.clients.registry.challenges.LASTED", 0.0)
    fake.user, fake.bearer, fake.token_uses = "alice:secret", True, 2
    name = fake.add_image([fakes.tar(a=b"1")], "1")

    async with distribution.Client(Known(ALICE), options(fake)) as client:
        for _ in range(5):
            await client.manifest(reference(fake), name)

    assert fake.issued == 3


async def test_an_identity_token_is_exchanged(fake) -> None:
    fake.user, fake.bearer = "refresh", True
    fake.add_image([fakes.tar(a=b"1")], "1")

    known = credentials.Credential("a file", identity_token="refresh")
    assert await read_manifest(fake, known)
    assert fake.token_requests[-1]["grant_type"] == "refresh_token"


async def test_a_redirect_to_another_host_does_not_get_the_password(fake) -> None:
    fake.user = "alice:secret"
    name = fake.add_blob(b"data")
    fake.faults[name].append(
        fakes.redirect(f"http://localhost:{fake.port}/elsewhere/{name}?signed=a%2Fb")
    )

    assert await read_blob(fake, name, 4, ALICE) == b"data"
    kind, _, headers = fake.requests[-1]
    assert kind == "elsewhere"
    assert "Authorization" not in headers


async def test_redirects_in_a_circle_end(fake) -> None:
    name = fake.add_blob(b"data")
    fake.faults[name] += [fakes.redirect(f"/v2/team/app/blobs/{name}")] * 20

    with pytest.raises(failures.RequestRefused, match="redirects"):
        await read_blob(fake, name, 4)


async def test_plain_http_is_never_chosen_by_itself(fake) -> None:
    fake.add_image([fakes.tar(a=b"1")], "1")

    with pytest.raises((failures.RequestRefused, failures.RegistryUnreachable)):
        await read_manifest(fake, plain_http=frozenset(), deadline=0.1)


async def ask(fake, rest: str = "team/app:1", **changes) -> str:
    async with distribution.Client(Known(ALICE), options(fake, **changes)) as client:
        return await client.digest(reference(fake, rest))


async def test_what_a_tag_stands_for_takes_one_request_without_a_body(fake) -> None:
    name = fake.add_image([fakes.tar(a=b"1")], "1")

    assert await ask(fake) == name
    assert len(fake.requests) == 1


async def test_a_registry_that_answers_no_head_is_asked_for_the_manifest(fake) -> None:
    name = fake.add_image([fakes.tar(a=b"1")], "1")
    fake.faults["1"].append(fakes.status(405))

    assert await ask(fake) == name
    assert len(fake.requests) == 2


async def test_the_digest_of_a_tag_that_is_gone_is_a_refusal(fake) -> None:
    fake.add_image([fakes.tar(a=b"1")], "1")

    with pytest.raises(failures.ImageUnknown):
        await ask(fake, "team/app:2")


async def test_one_try_says_how_long_to_wait(fake) -> None:
    fake.add_image([fakes.tar(a=b"1")], "1")
    fake.faults["1"].append(fakes.status(429, **{"Retry-After": "120"}))

    with pytest.raises(failures.RegistryUnreachable) as caught:
        await ask(fake, delays=(math.inf,))
    assert caught.value.delay == 120
    assert len(fake.requests) == 1
