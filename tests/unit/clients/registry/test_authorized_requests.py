"""Attacks on the credentials of a registry, with servers of two origins on loopback.

`home` is the registry that the credentials are for, `other` belongs to somebody else.
"""

import contextlib
import socket
import ssl

import pytest
import yarl
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agent.clients.registry import (
    authorized_requests,
    challenges,
    connections,
    credentials,
    distribution,
    failures,
)
from agent.kits import networks
from agent.model import images
from tests.fakes import registry as fakes

ALICE = credentials.Credential("a file", "alice", "secret")
LOOPBACK = networks.parse(networks.OWN_HOST)


class Alice:
    """A provider that gives Alice's password for every image."""

    async def credentials(self, reference: images.Reference):
        return [ALICE]


@pytest.fixture
async def home():
    async with fakes.FakeRegistry() as server:
        server.user = "alice:secret"
        yield server


@pytest.fixture
async def other():
    async with fakes.FakeRegistry() as server:
        yield server


@pytest.fixture
async def secure(certificate):
    """A registry with TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with fakes.FakeRegistry(context) as server:
        server.user = "alice:secret"
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


async def read(
    server: fakes.FakeRegistry, name: str, size: int, *, rest: str = "team/app:1", **changes
) -> bytes:
    """A blob of `server`, which alone is listed as plain HTTP, and where nothing is denied."""
    values = {
        "plain_http": frozenset() if server.tls else frozenset({server.host}),
        "delays": (0.01,),
        "deadline": 1.0,
        "read_timeout": 10.0,
    }
    options = connections.Options(**{**values, **changes})
    async with distribution.Client(Alice(), options) as client:
        reference = images.parse_reference(f"{server.host}/{rest}")
        return b"".join([chunk async for chunk in client.blob(reference, name, size)])


def redirected(home: fakes.FakeRegistry, target: str) -> str:
    """A blob of four bytes that `home` redirects."""
    name = home.add_blob(b"data")
    home.faults[name] += [fakes.redirect(target)] * 20
    return name


def at(server: fakes.FakeRegistry, name: str) -> str:
    return f"{server.scheme}://{server.host}/v2/team/app/blobs/{name}"


async def test_a_password_is_not_sent_to_another_origin_that_asks_for_it(home, other) -> None:
    other.user = "alice:secret"
    name = redirected(home, at(other, other.add_blob(b"data")))

    with pytest.raises(failures.RequestRefused, match="not sent to another host"):
        await read(home, name, 4)

    assert other.requests
    assert other.passwords() == []


async def test_nor_to_the_token_endpoint_of_another_origin(home, other) -> None:
    other.user, other.bearer = "alice:secret", True
    name = redirected(home, at(other, other.add_blob(b"data")))

    with pytest.raises(failures.RequestRefused, match="not sent to another host"):
        await read(home, name, 4)

    assert other.token_requests
    assert other.passwords() == []


async def test_another_origin_that_gives_tokens_to_everybody_is_read(home, other) -> None:
    other.user, other.bearer, other.anonymous = "alice:secret", True, True
    name = redirected(home, at(other, other.add_blob(b"data")))

    assert await read(home, name, 4) == b"data"
    assert [form["authorization"] for form in other.token_requests] == [""]


async def test_a_token_of_the_registry_is_not_sent_to_another_origin(home, other) -> None:
    home.bearer = True
    name = redirected(home, at(other, other.add_blob(b"data")))

    assert await read(home, name, 4) == b"data"
    assert home.passwords()
    assert other.passwords() == []


async def test_a_way_that_has_left_the_registry_comes_back_without_credentials(home, other) -> None:
    name = redirected(home, f"http://{other.host}/v2/team/app/blobs/back")
    other.blobs["back"] = fakes.Content(b"")
    other.faults["back"].append(fakes.redirect(f"http://{home.host}/elsewhere/{name}"))

    assert await read(home, name, 4) == b"data"
    kind, _, headers = home.requests[-1]
    assert kind == "elsewhere"
    assert "Authorization" not in headers


async def test_a_redirect_from_tls_to_plain_http_is_refused(secure, other, certificate) -> None:
    name = redirected(secure, at(other, other.add_blob(b"data")))

    with pytest.raises(failures.RequestRefused, match="without TLS"):
        await read(secure, name, 4, ca_file=str(certificate / "cert.pem"))

    assert other.requests == []


async def test_unless_that_host_is_listed_and_then_without_credentials(
    secure, other, certificate
) -> None:
    name = redirected(secure, at(other, other.add_blob(b"data")))
    listed = frozenset({other.host})

    ca = str(certificate / "cert.pem")
    assert await read(secure, name, 4, ca_file=ca, plain_http=listed) == b"data"

    assert secure.passwords()
    assert other.passwords() == []


@pytest.mark.parametrize("listed", [False, True])
async def test_a_registry_with_tls_gets_no_password_sent_to_a_realm_without(
    secure, other, certificate, listed: bool
) -> None:
    secure.bearer, secure.realm = True, f"http://{other.host}/token"
    name = secure.add_blob(b"data")
    plain = frozenset({other.host} if listed else ())

    with pytest.raises(challenges.RealmRefused, match="not an https:// URL"):
        await read(secure, name, 4, ca_file=str(certificate / "cert.pem"), plain_http=plain)

    assert other.token_requests == []


async def test_a_realm_on_another_host_gets_the_password(home, other) -> None:
    """As with auth.docker.io: the registry names it, and could ask for the password itself."""
    home.bearer, home.realm = True, f"http://{other.host}/token"
    other.user, other.tokens = home.user, home.tokens

    assert await read(home, home.add_blob(b"data"), 4) == b"data"
    assert other.passwords()


async def test_a_token_request_is_not_redirected(home, other) -> None:
    async def elsewhere(request):
        raise web.HTTPTemporaryRedirect(f"http://{other.host}/token?{request.query_string}")

    async with fakes.serving({"/token": elsewhere}) as endpoint:
        home.bearer, home.realm = True, f"http://{endpoint}/token"

        with pytest.raises(failures.RequestRefused, match="redirects: credentials do not follow"):
            await read(home, home.add_blob(b"data"), 4)

    assert other.token_requests == []


@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher", "javascript"])
async def test_a_redirect_to_another_protocol_is_refused(home, scheme: str) -> None:
    with pytest.raises(failures.RequestRefused, match="cannot be asked"):
        await read(home, redirected(home, f"{scheme}://example.com/etc/passwd"), 4)


@pytest.mark.parametrize(
    "target", ["http://[", "http://user:password@{other}/x", "http://a:99999/"]
)
async def test_a_location_that_is_none_is_refused(home, other, target: str) -> None:
    with pytest.raises(failures.RequestRefused, match="cannot be asked"):
        await read(home, redirected(home, target.format(other=other.host)), 4)

    assert other.requests == []


@pytest.mark.parametrize(
    "realm", ["token", "http://[", "http://user:password@{home}/token", "file:///etc/passwd"]
)
async def test_a_realm_that_is_none_is_refused(home, realm: str) -> None:
    home.bearer, home.realm = True, realm.format(home=home.host)

    with pytest.raises((failures.RequestRefused, challenges.RealmRefused)):
        await read(home, home.add_blob(b"data"), 4)

    assert home.token_requests == []


async def test_a_token_that_no_header_can_carry_is_none(home) -> None:
    async def answer(request):
        return web.json_response({"token": "a\r\nX-Injected: b"})

    async with fakes.serving({"/token": answer}) as endpoint:
        home.bearer, home.realm = True, f"http://{endpoint}/token"

        with pytest.raises(failures.AccessDenied):
            await read(home, home.add_blob(b"data"), 4)


async def test_netrc_is_not_read(home, monkeypatch, tmp_path) -> None:
    """It names no ports: what is in it for a host would go to every service there."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login bob password hidden\n")
    monkeypatch.setenv("NETRC", str(netrc))
    home.user = ""

    assert await read(home, home.add_blob(b"data"), 4) == b"data"
    assert home.passwords() == []


PARTS = st.sampled_from(
    [
        "http:",
        "https:",
        "//",
        "/",
        "@",
        ":",
        "[",
        "]",
        "?",
        "#",
        "%",
        "%2f",
        "\\",
        "a.io",
        "::1",
        "9",
    ]
)
TEXTS = st.text(max_size=20) | st.lists(PARTS, max_size=8).map("".join)


@given(TEXTS)
def test_any_location_is_a_url_or_refused(text: str) -> None:
    base = yarl.URL("https://registry.io/v2/app/blobs/x")

    with contextlib.suppress(failures.RequestRefused):
        url = authorized_requests.url_of(text, base=base)
        assert url.scheme in ("http", "https")
        assert url.host
        assert url.raw_user is None
        assert connections.authority(url)


@given(TEXTS, st.booleans())
def test_any_challenge_is_read_or_refused(text: str, secure: bool) -> None:
    for header in (text, f'Bearer realm="{text}",service="s"', f"Basic {text}"):
        challenge = challenges.parse(header, secure=secure)
        with contextlib.suppress(challenges.RealmRefused):
            assert not challenge.realm or challenge.realm.lower().startswith(
                "https://" if secure else "http"
            )


# --- addresses ---


async def test_an_image_at_an_address_of_the_machine_is_refused(home) -> None:
    with pytest.raises(failures.AddressDenied, match=r"127\.0\.0\.0/8") as caught:
        await read(home, home.add_blob(b"data"), 4, denied=LOOPBACK)

    assert "UIMGACC_REGISTRY_ALLOW" in str(caught.value)
    assert home.requests == []


@pytest.mark.parametrize("pattern", ["127.0.0.1", "127.*.0.1"])
async def test_unless_the_operator_allows_it(home, pattern: str) -> None:
    allowed = frozenset({f"{pattern}:{home.port}"})

    assert await read(home, home.add_blob(b"data"), 4, denied=LOOPBACK, allowed=allowed) == b"data"


@pytest.mark.parametrize("allowed", ["127.0.0.1", "*", "127.0.0.1.example.com:{port}", "*:{port}"])
async def test_another_host_that_is_allowed_does_not_help(home, allowed: str) -> None:
    hosts = frozenset({allowed.format(port=home.port)})

    with pytest.raises(failures.AddressDenied):
        await read(home, home.add_blob(b"data"), 4, denied=LOOPBACK, allowed=hosts)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_a_redirect_to_an_address_of_the_machine_is_refused(home, other, host: str) -> None:
    name = other.add_blob(b"data")
    target = f"http://{host}:{other.port}/v2/team/app/blobs/{name}"

    with pytest.raises(failures.AddressDenied):
        await read(
            home, redirected(home, target), 4, denied=LOOPBACK, allowed=frozenset({home.host})
        )

    assert other.requests == []


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f000001"])
async def test_nor_is_another_spelling_of_it_followed(home, other, host: str) -> None:
    target = f"http://{host}:{other.port}/v2/team/app/blobs/{other.add_blob(b'data')}"

    with pytest.raises((failures.AddressDenied, failures.RequestRefused)):
        await read(
            home, redirected(home, target), 4, denied=LOOPBACK, allowed=frozenset({home.host})
        )

    assert other.requests == []


async def test_a_realm_at_an_address_of_the_machine_is_refused(home, other) -> None:
    home.bearer, home.realm = True, f"http://{other.host}/token"

    with pytest.raises(failures.AddressDenied):
        await read(
            home,
            home.add_blob(b"data"),
            4,
            denied=LOOPBACK,
            allowed=frozenset({home.host}),
        )

    assert other.token_requests == []


async def test_a_name_that_means_another_address_the_second_time_gains_nothing(
    home, other, monkeypatch
) -> None:
    """DNS rebinding: the address that is checked is the one that is connected to."""
    answers = iter(["203.0.113.1"])
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def rebinding(host, port, *args, **kwargs):
        if host == "rebinding.test":
            asked.append(host)
            return resolve(next(answers, "127.0.0.1"), port, *args, **kwargs)
        return resolve(host, port, *args, **kwargs)

    monkeypatch.setattr("socket.getaddrinfo", rebinding)
    name = other.add_blob(b"data")
    target = f"http://rebinding.test:{other.port}/v2/team/app/blobs/{name}"
    # A check by a look-up of its own would have seen the first answer.
    socket.getaddrinfo("rebinding.test", other.port)

    with pytest.raises(failures.AddressDenied, match=r"rebinding.test is at 127\.0\.0\.1"):
        await read(
            home, redirected(home, target), 4, denied=LOOPBACK, allowed=frozenset({home.host})
        )

    assert len(asked) == 2
    assert other.requests == []


async def test_the_api_server_s_service_is_denied_as_well() -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}

    denied = connections.denied(networks.OWN_HOST, environment)

    assert networks.holding("10.96.0.1", denied)
    assert networks.holding("10.96.0.2", denied) is None
    assert connections.denied("", environment) == ()
    assert connections.denied("10.0.0.0/8", {}) == networks.parse("10.0.0.0/8")


@contextlib.asynccontextmanager
async def proxy(monkeypatch):
    """A proxy that answers everything itself; yields what it was asked for."""
    asked: list[str] = []

    async def answer(request):
        asked.append(str(request.url))
        return fakes.answer(request, b"data")

    async with fakes.serving({"/{path:.*}": answer}) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://{address}")
        yield asked


async def test_names_are_looked_up_by_the_proxy_where_there_is_one(home, monkeypatch) -> None:
    """Nor is the proxy itself denied: the operator has named it."""
    name = fakes.digest(b"data")
    options = connections.Options(
        plain_http=frozenset({"registry.test"}), deadline=1.0, denied=LOOPBACK
    )
    async with proxy(monkeypatch) as asked, distribution.Client(Alice(), options) as client:
        reference = images.parse_reference("registry.test/app:1")
        assert await client.small_blob(reference, name) == b"data"

    assert asked == [f"http://registry.test/v2/app/blobs/{name}"]


async def test_a_proxy_gets_its_own_password_and_a_registry_does_not(monkeypatch) -> None:
    sent: list[tuple[str, str]] = []

    async def answer(request):
        sent.append(
            (
                request.headers.get("Proxy-Authorization", ""),
                request.headers.get("Authorization", ""),
            )
        )
        return fakes.answer(request, b"data")

    options = connections.Options(plain_http=frozenset({"registry.test"}), deadline=1.0)
    async with fakes.serving({"/{path:.*}": answer}) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://proxy:password@{address}")
        async with distribution.Client(Alice(), options) as client:
            reference = images.parse_reference("registry.test/app:1")
            await client.small_blob(reference, fakes.digest(b"data"))

    ((proxied, direct),) = sent
    assert proxied.startswith("Basic ")
    assert direct == ""


@pytest.mark.parametrize("host", ["169.254.169.254", "127.1", "localhost"])
async def test_addresses_are_refused_through_a_proxy_too(monkeypatch, host: str) -> None:
    options = connections.Options(plain_http=frozenset({host}), deadline=1.0, denied=LOOPBACK)
    async with proxy(monkeypatch) as asked, distribution.Client(Alice(), options) as client:
        with pytest.raises(failures.AddressDenied):
            await client.manifest(images.parse_reference(f"{host}/app:1"))

    assert asked == []


async def test_a_registry_that_no_proxy_is_for_is_checked(home, monkeypatch) -> None:
    async with proxy(monkeypatch) as asked:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(failures.AddressDenied):
            await read(home, home.add_blob(b"data"), 4, denied=LOOPBACK)

    assert asked == []
    assert home.requests == []
