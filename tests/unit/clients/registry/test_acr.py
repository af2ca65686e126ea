"""Passwords of Alibaba Cloud Container Registry: its own SDK against its API over HTTP."""

import sys
import time
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clients.registry import (
    acr,
    acr_domains,
    challenges,
    connections,
    credentials,
    distribution,
    failures,
)
from agent.model import images
from tests.fakes import acr as fakes
from tests.fakes import registry as registries

HANGZHOU = "team-registry.cn-hangzhou.cr.aliyuncs.com"
SECRET = "the-secret-access-key"


@pytest.fixture
async def fake(monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", SECRET)
    async with fakes.FakeAcr() as server:
        server.instances["cri-one"] = fakes.Instance("one")
        server.instances["cri-two"] = fakes.Instance("two", domains=("registry.example.com",))
        yield server


def provider(fake: fakes.FakeAcr, *instances: str, **options) -> acr.Acr:
    return acr.Acr(instances, acr.Options(endpoint=fake.url, **options))


async def passwords(found: acr.Acr, host: str = HANGZHOU) -> list[tuple[str, str]]:
    each = await found.credentials(images.parse_reference(f"{host}/team/app:1"))
    return [(credential.username, credential.password) for credential in each]


async def test_an_instance_gives_user_and_password(fake) -> None:
    assert await passwords(provider(fake, "cri-one")) == [("one", "password-1-of-cri-one")]


async def test_a_password_is_used_until_it_is_about_to_end(fake, monkeypatch) -> None:
    found = provider(fake, "cri-one")
    now = acr.time.time()
    first = await passwords(found)

    monkeypatch.setattr(acr.time, "time", lambda: now + 44 * 60)
    assert await passwords(found) == first
    monkeypatch.setattr(acr.time, "time", lambda: now + 46 * 60)

    assert await passwords(found) == [("one", "password-2-of-cri-one")]


async def test_a_password_of_a_short_life_is_not_asked_for_each_time(fake, monkeypatch) -> None:
    fake.instances["cri-one"].seconds = 600
    found = provider(fake, "cri-one")
    now = acr.time.time()

    for minutes in (0, 7, 8):
        monkeypatch.setattr(acr.time, "time", lambda minutes=minutes: now + minutes * 60)
        await passwords(found)

    assert fake.issued["cri-one"] == 2


@pytest.mark.parametrize(
    ("instances", "region", "users"),
    [
        (["cri-one"], "", ["one"]),
        (["cri-one"], "cn-hangzhou", ["one"]),
        (["cri-one"], "cn-beijing", []),
        (["cn-hangzhou:cri-one"], "cn-beijing", ["one"]),
        (["cn-beijing:cri-one", "cn-hangzhou:cri-two"], "", ["two"]),
        (["cn-hangzhou:cri-one", "cn-hangzhou:cri-two"], "", ["one", "two"]),
        ([], "", []),
    ],
)
async def test_an_instance_without_a_region_is_in_ours(fake, instances, region, users) -> None:
    found = await passwords(provider(fake, *instances, region=region))

    assert [user for user, _ in found] == users


def test_the_environment_says_where_the_api_is() -> None:
    environment = {
        "ALIBABA_CLOUD_REGION_ID": "cn-beijing",
        "UIMGACC_ACR_NETWORK": "vpc",
        "UIMGACC_ACR_ENDPOINT": "https://cr.example.com",
    }

    expected = acr.Options(region="cn-beijing", network="vpc", endpoint="https://cr.example.com")
    assert acr.options_of(environment) == expected


async def test_a_custom_domain_gets_the_password_of_the_instance_that_has_it(fake) -> None:
    found = provider(fake, "cri-one", "cri-two", region="cn-hangzhou")

    assert [user for user, _ in await passwords(found, "registry.example.com")] == ["two"]


async def test_no_other_host_ever_gets_a_password(fake) -> None:
    found = provider(fake, "cri-one", "cri-two", region="cn-hangzhou")

    for host in ("docker.io", "evil.example.com", f"{HANGZHOU}.evil.example.com", "127.0.0.1:5000"):
        assert await passwords(found, host) == []
    assert not fake.issued


async def test_the_domains_of_an_instance_are_asked_for_once(fake) -> None:
    found = provider(fake, "cri-two", region="cn-hangzhou")

    for _ in range(3):
        await passwords(found, "registry.example.com")

    assert [action for action, _ in fake.asked].count("ListInstanceEndpoint") == 1


async def test_whose_a_host_is_is_not_asked_for_each_image(fake, monkeypatch) -> None:
    """Where there is no account, looking for one takes seconds."""
    fake.refusals = [(403, "Forbidden.RAM", {})]
    found = provider(fake, "cri-two", region="cn-hangzhou")

    for host in ("docker.io", "ghcr.io", "registry.example.com"):
        (nothing,) = await found.credentials(images.parse_reference(f"{host}/team/app:1"))
        assert (nothing.empty, "Forbidden.RAM" in nothing.source) == (True, True)
    assert len(fake.asked) == 1

    later = acr.time.monotonic() + 61
    monkeypatch.setattr(acr, "time", types.SimpleNamespace(monotonic=lambda: later, time=time.time))
    assert [user for user, _ in await passwords(found, "registry.example.com")] == ["two"]


@pytest.mark.parametrize(
    ("region", "refusals", "said"),
    [
        # The documented form: a cache's other images may well be Docker Hub's.
        ("", [], "its region is not known; name it: REGION:cri-two"),
        # An account that may ask for passwords, and not for domains.
        ("cn-hangzhou", [(403, "Forbidden.RAM", {})], "Forbidden.RAM"),
        ("cn-hangzhou", [(503, "ServiceUnavailable", {})], "ServiceUnavailable"),
    ],
)
async def test_whose_hosts_are_not_known_says_nothing_until_a_registry_refuses(
    fake, region, refusals, said
) -> None:
    async with registries.FakeRegistry() as server:
        server.add_image([registries.tar(a=b"1")], "1")
        reference = images.parse_reference(f"{server.host}/team/app:1")
        options = connections.Options(plain_http=frozenset({server.host}), delays=(0.01,))
        server.user, server.bearer, server.anonymous = "alice:secret", True, True

        fake.refusals = list(refusals)
        async with distribution.Client(provider(fake, "cri-two", region=region), options) as client:
            await client.manifest(reference)

        server.anonymous = False
        fake.refusals = list(refusals)
        async with distribution.Client(provider(fake, "cri-two", region=region), options) as client:
            with pytest.raises(failures.AccessDenied, match=f"Container Registry cri-two.*{said}"):
                await client.manifest(reference)
    assert not fake.issued


@pytest.mark.parametrize(
    ("refusal", "error", "said"),
    [
        ((403, "Forbidden.RAM", {}), acr.AcrRefused, "Forbidden.RAM"),
        ((404, "InvalidAction.NotFound", {}), acr.AcrRefused, "InvalidAction.NotFound"),
        ((503, "ServiceUnavailable", {}), acr.AcrUnavailable, "ServiceUnavailable"),
        ((400, "Throttling", {"x-acs-retry-after": "2"}), acr.AcrUnavailable, "Throttling"),
    ],
)
async def test_refusals_are_told_apart(fake, refusal, error, said) -> None:
    fake.refusals.append(refusal)
    found = provider(fake, "cri-one")

    with pytest.raises(error, match=f"cri-one.*{said}"):
        await passwords(found)

    assert len(await passwords(found)) == 1


async def test_an_instance_that_is_not_there_is_named(fake) -> None:
    with pytest.raises(acr.AcrRefused, match=r"cri-none.*INSTANCE_NOT_EXIST"):
        await passwords(provider(fake, "cri-none"))


async def test_nobody_there_is_temporary(fake) -> None:
    gone = acr.Acr(["cri-one"], acr.Options(endpoint="http://127.0.0.1:1"))

    with pytest.raises(acr.AcrUnavailable, match="cri-one"):
        await passwords(gone)


async def test_without_the_extra_it_says_what_to_install(fake, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "alibabacloud_cr20181201", None)

    with pytest.raises(acr.AcrRefused, match=r"pip install 'uimgacc\[acr\]'"):
        await passwords(provider(fake, "cri-one"))


async def test_no_secret_is_logged_or_shown(fake, caplog) -> None:
    caplog.set_level(0)
    fake.refusals.append((403, "SignatureDoesNotMatch", {}))
    found = provider(fake, "cri-one")

    with pytest.raises(acr.AcrRefused) as caught:
        await passwords(found)
    (credential,) = await found.credentials(images.parse_reference(f"{HANGZHOU}/a"))

    shown = [str(caught.value), repr(credential), *(str(vars(each)) for each in caplog.records)]
    assert not any(SECRET in text or "password-1" in text for text in shown)


class Renewing:
    """A provider whose password changes, as those of a cloud do."""

    def __init__(self) -> None:
        self.password = "first"

    async def credentials(self, reference: images.Reference):
        return [credentials.Credential("the cloud", "alice", self.password)]


async def test_a_registry_that_refuses_an_old_password_is_given_the_new_one(monkeypatch) -> None:
    """A long build outlives the password that it began with."""
    monkeypatch.setattr(challenges, "LASTED", 0.0)
    known = Renewing()
    async with registries.FakeRegistry() as server:
        server.user = "alice:first"
        server.add_image([registries.tar(a=b"1")], "1")
        options = connections.Options(plain_http=frozenset({server.host}), delays=(0.01,))
        async with distribution.Client(known, options) as client:
            reference = images.parse_reference(f"{server.host}/team/app:1")
            before = await client.manifest(reference)
            server.user, known.password = "alice:second", "second"

            assert await client.manifest(reference) == before


@pytest.mark.parametrize(
    ("host", "region", "name"),
    [
        ("acr-en-hangzhou-registry.cn-hangzhou.cr.aliyuncs.com", "cn-hangzhou", "acr-en-hangzhou"),
        ("team-registry-vpc.cn-beijing.cr.aliyuncs.com", "cn-beijing", "team"),
        ("registry.cn-shanghai.aliyuncs.com", "cn-shanghai", ""),
        ("registry-vpc.cn-shanghai.aliyuncs.com", "cn-shanghai", ""),
        ("registry-intl.eu-central-1.aliyuncs.com", "eu-central-1", ""),
        ("team-registry.distributed.cn-hangzhou.cr.aliyuncs.com", "cn-hangzhou", "team"),
    ],
)
def test_documented_hosts_are_known(host, region, name) -> None:
    assert acr_domains.parse_host(host) == acr_domains.Domain(region, name)


@pytest.mark.parametrize(
    "host",
    [
        "crpi-abc.cn-hangzhou.personal.cr.aliyuncs.com",
        "registry.cn-hangzhou.aliyuncs.com.evil.io",
        "registry.cn-hangzhou.aliyuncs.company",
        "registry.aliyuncs.com",
        "docker.io",
        "",
    ],
)
def test_other_hosts_are_not(host) -> None:
    assert acr_domains.parse_host(host) is None


@pytest.mark.parametrize("text", ["", "cri", "cri-", "cri-A", "a b:cri-1", ":cri-1", "cri-1,cri-2"])
def test_what_names_no_instance_is_refused(text) -> None:
    with pytest.raises(acr_domains.InstanceError, match="expected cri-"):
        acr.Acr([text])


@given(st.text())
def test_any_annotation_is_an_instance_or_refused(text) -> None:
    try:
        found = acr_domains.parse_instance(text)
    except acr_domains.InstanceError:
        return
    assert found.id.startswith("cri-")
