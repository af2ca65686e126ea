"""Which credentials a docker config has for an image."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clients.registry import credentials
from agent.model import images


def config(**auths) -> credentials.DockerConfig:
    entries = {key: {"username": f"user of {key}", "password": "p"} for key in auths["keys"]}
    return credentials.DockerConfig(json.dumps({"auths": entries}).encode(), source="test")


async def users(keys: list[str], image: str) -> list[str]:
    found = await config(keys=keys).credentials(images.parse_reference(image))
    return [credential.username.removeprefix("user of ") for credential in found]


@pytest.mark.parametrize(
    ("key", "image", "fits"),
    [
        ("registry.io", "registry.io/a/b", True),
        ("https://registry.io", "registry.io/a/b", True),
        ("https://registry.io/v2/", "registry.io/a/b", True),
        ("registry.io:5000", "registry.io:5000/a", True),
        ("registry.io:5000", "registry.io/a", False),
        ("registry.io", "registry.io:5000/a", False),
        ("registry.io/team", "registry.io/team/app", True),
        ("registry.io/team", "registry.io/team", True),
        ("registry.io/team", "registry.io/teams/app", False),
        ("*.registry.io", "eu.registry.io/a", True),
        ("*.registry.io", "registry.io/a", False),
        ("*.registry.io", "a.b.registry.io/a", False),
        ("eu-*.registry.io", "eu-west.registry.io/a", True),
        ("https://index.docker.io/v1/", "nginx", True),
        ("docker.io", "docker.io/library/nginx", True),
        ("https://index.docker.io/v1/", "registry.io/nginx", False),
        # What an attacker can have the name of.
        ("registry.io", "registry.io.evil.com/a", False),
        ("registry.io", "evil-registry.io/a", False),
        ("registry.io", "evil.com/registry.io/a", False),
        ("registry.io/team", "registry.io/team-evil/app", False),
        ("registry.io/team", "registry.io/x/team/app", False),
        ("registry.io:443", "registry.io:4430/a", False),
        ("*.registry.io", "registry.io.evil.com/a", False),
        ("*.registry.io", "a.registry.io.evil.com/a", False),
        ("*.registry.io", "a.registry.io:8443/a", False),
        ("*", "registry.io/a", False),
        ("docker.io", "docker.io.evil.com/library/nginx", False),
        ("docker.io", "evil.com/docker.io/library/nginx", False),
        ("https://registry.io@evil.com", "registry.io/a", False),
        ("https://evil.com@registry.io", "evil.com/a", False),
        ("", "registry.io/a", False),
    ],
)
async def test_a_key_matches_as_in_the_kubelet(key: str, image: str, fits: bool) -> None:
    assert await users([key], image) == ([key] if fits else [])


async def test_the_most_specific_key_comes_first() -> None:
    keys = ["registry.io", "registry.io/team/app", "registry.io/team"]

    found = await users(keys, "registry.io/team/app:1")

    assert found == ["registry.io/team/app", "registry.io/team", "registry.io"]


async def test_auth_is_user_and_password_in_base64() -> None:
    auth = base64.b64encode(b"alice:se:cret").decode()
    data = json.dumps({"auths": {"registry.io": {"auth": auth}}}).encode()

    (found,) = await credentials.DockerConfig(data, source="x").credentials(
        images.parse_reference("registry.io/a")
    )

    assert (found.username, found.password) == ("alice", "se:cret")


async def test_an_old_dockercfg_has_no_auths_around_it() -> None:
    data = json.dumps({"registry.io": {"username": "alice", "password": "p"}}).encode()

    found = await credentials.DockerConfig(data, source="x").credentials(
        images.parse_reference("registry.io/a")
    )

    assert [one.username for one in found] == ["alice"]


async def test_a_chain_keeps_the_order_of_its_providers() -> None:
    chain = credentials.Chain([config(keys=["r.io/a"]), config(keys=["r.io", "r.io/a"])])

    found = await chain.credentials(images.parse_reference("r.io/a"))

    assert [one.username for one in found] == ["user of r.io/a", "user of r.io"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"auths": {"r.io": {"auth": "***"}}}',
        b'{"auths": 1}',
        b"\xff",
        '{"auths": {"r.io": {"auth": "\u00e9"}}}'.encode(),
        b'{"auths": {"r.io": {"auth": "/w=="}}}',
    ],
)
def test_what_is_no_docker_config_says_so(data: bytes) -> None:
    with pytest.raises(credentials.CredentialsFileError, match="from-here"):
        credentials.DockerConfig(data, source="from-here")


def test_no_secret_is_in_a_message() -> None:
    data = b'{"auths": {"r.io": {"username": "a", "password": ["hunter2"]}}}'

    with pytest.raises(credentials.CredentialsFileError) as caught:
        credentials.DockerConfig(data, source="x")

    assert "hunter2" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(credentials.CredentialsFileError):
        credentials.DockerConfig(data, source="x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)
HOSTS = st.sampled_from(["r.io", "*.io", "[::1", "https://r.io/v1/", "r.io:x", "/", "[", "r.io/a"])


@given(
    st.dictionaries(
        HOSTS | st.text(max_size=12),
        st.dictionaries(st.sampled_from(["auth", "username", "password", "identitytoken"]), JSON),
        max_size=3,
    )
)
async def test_any_pull_secret_is_read_or_refused(auths) -> None:
    data = json.dumps({"auths": auths}).encode()

    with contextlib.suppress(credentials.CredentialsFileError):
        found = credentials.DockerConfig(data, source="x")
        for image in ("r.io/a/b:1", "nginx", "a.io:5000/b"):
            await found.credentials(images.parse_reference(image))


@given(HOSTS | st.text(max_size=12), st.text(min_size=1), st.text(min_size=1))
async def test_a_docker_config_that_we_write_is_read_again(host, username, password) -> None:
    username = username.replace(":", "")
    data = credentials.docker_config(["r.io", host], username=username, password=password)

    found = await credentials.DockerConfig(data, source="x").credentials(
        images.parse_reference("r.io/a")
    )

    assert {(one.username, one.password) for one in found} == {(username, password.rstrip("\0"))}
