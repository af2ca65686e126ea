"""Files of any content are read or refused, with one kind of error; refusals show no password."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clients.registry.mirrors import hosts_toml, registries_yaml, registry_host, rewrite_rules

WORDS = st.sampled_from(
    ["server", "host", "capabilities", "ca", "client", "header", "rewrite", "skip_verify", "=",
     "[", "]", "{", "}", '"', "'", ".", ",", "\n", '[host."https://m.example.com"]\n', "true", "1",
     '["pull"]', "https://", "mirrors:", "configs:", "docker.io:", "  ", "- ", "endpoint:", ": ",
     "2026-13-45", "!!timestamp ", "&a ", "*a ", "\u0000", "é"]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=30).map("".join) | st.text(max_size=100)


def locate(name: str) -> str:
    return f"/folder/{name}"


@given(TEXTS)
def test_any_hosts_toml(text) -> None:
    try:
        parsed = hosts_toml.parse(text, locate)
    except hosts_toml.HostsFileError:
        return
    for registry in ("docker.io", "localhost:5000", "registry.example.com"):
        hosts = registry_host.completed(parsed.hosts, registry, plain_http=False)
        assert all(host.authority for host in hosts)


@given(TEXTS)
def test_any_registries_yaml(text) -> None:
    try:
        parsed = registries_yaml.parse(text, locate)
    except hosts_toml.HostsFileError:
        return
    assert all(each.hosts for each in parsed.values())


def test_what_is_no_string_in_yaml_is_one_for_k3s() -> None:
    text = """
    configs:
      a.example.com:
        auth: {username: 007, password: 12345}
        tls: {insecure_skip_verify: yes}
      b.example.com: ~
    mirrors:
      "*":
    """
    parsed = registries_yaml.parse(text, locate)

    (host,) = parsed["a.example.com"].hosts
    assert host.credential is not None
    assert (host.credential.username, host.credential.password) == ("007", "12345")
    assert host.skip_verify is True
    assert parsed.keys() == {"a.example.com"}


@pytest.mark.parametrize(
    "text",
    [
        "configs: {a: {auth: {password: [hunter2]}}}",
        "configs: {a: {auth: hunter2}}",
        "configs: {a: {auth: {auth: hunter2}}}",
    ],
)
def test_a_password_is_in_no_message(text) -> None:
    with pytest.raises(hosts_toml.HostsFileError) as caught:
        registries_yaml.parse(text, locate)

    assert "hunter2" not in str(caught.value)


def test_nor_is_a_headers_value() -> None:
    with pytest.raises(hosts_toml.HostsFileError) as caught:
        hosts_toml.parse('[header]\nauthorization = "hunter2\\n"\n', locate)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "template", "repository", "expected"),
    [
        ("^library/(.*)$", "proxy/$1", "library/nginx", "proxy/nginx"),
        ("^(?P<all>.*)$", "a/${all}", "x/y", "a/x/y"),
        ("(.*)", "a/$1", "x/y", "a/x/y"),
        (".*", "m", "abc", "m"),
        ("b*", "-", "abc", "-a-c-"),
        ("^team/", "$0$$$9x$", "team/app", "team/$$app"),
        ("^other/", "x", "team/app", "team/app"),
        (r"\pL+$", "m", "team/app", "team/m"),
    ],
)
def test_repositories_are_rewritten_as_go_does(pattern, template, repository, expected) -> None:
    """By the documentation of regexp.Expand: $9x is the name of a group that is not there."""
    rules = [rewrite_rules.Rewrite(pattern, template)]

    assert rewrite_rules.rewritten(rules, repository) == expected


def test_the_first_pattern_that_changes_it_counts() -> None:
    rules = [
        rewrite_rules.Rewrite("^none/", "a/"),
        rewrite_rules.Rewrite("^team/", "b/"),
        rewrite_rules.Rewrite("^team/", "c/"),
    ]

    assert rewrite_rules.rewritten(rules, "team/app") == "b/app"


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1"])
def test_what_go_does_not_take_for_a_pattern_is_refused(pattern) -> None:
    with pytest.raises(rewrite_rules.PatternError, match="not usable"):
        rewrite_rules.Rewrite(pattern, "")
