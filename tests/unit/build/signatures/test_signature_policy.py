"""The file that says which images need whose signature."""

import pathlib

import pytest

from agent.build.signatures import signature_policy
from agent.model import images

KEY = "rules: [{images: [r.io], keys: [a.pub]}]"


def policy(folder: pathlib.Path, text: str) -> signature_policy.Policy:
    for name in ("a.pub", "b.pub", "root.json"):
        (folder / name).touch()
    path = folder / "policy.yaml"
    path.write_text(text)
    return signature_policy.read(path)


def demand(folder: pathlib.Path, text: str, image: str) -> signature_policy.Demand:
    return policy(folder, text).demand(images.parse_reference(image))


@pytest.mark.parametrize(
    ("pattern", "image", "fits"),
    [
        ("r.io", "r.io/a/b:1", True),
        ("r.io/team", "r.io/team/app", True),
        ("r.io/team", "r.io/teams/app", False),
        ("*.r.io", "eu.r.io/app", True),
        ("r.io", "r.io.evil.com/app", False),
        ("docker.io/library", "nginx", True),
        ("docker.io/library", "registry-1.docker.io/library/nginx", True),
        ("r.io", "R.IO/app", True),
        ("r.io", "r.io:443/app", True),
        ("r.io", "r.io:4430/app", False),
        ("*", "r.io/a", True),
        ("r.io:5000", "r.io/a", False),
    ],
)
def test_patterns_match_as_the_keys_of_a_docker_config(
    tmp_path, pattern: str, image: str, fits: bool
) -> None:
    found = demand(tmp_path, f"rules: [{{images: ['{pattern}'], keys: [a.pub]}}]", image)

    assert found.pattern == (pattern if fits else "")


@pytest.mark.parametrize(
    "pattern",
    [
        "https://r.io/team",
        "r.io/team/*",
        "r.io/team/app:1",
        "r.io/team/app@sha256:" + "0" * 64,
        "r.io/Team",
        "R.io/team",
        "r.io:443/team",
        "team/app",
        "nginx",
        "*/team",
        "r.io//team",
        " r.io",
    ],
)
def test_a_pattern_that_no_image_can_match_is_refused(tmp_path, pattern) -> None:
    """Else the second rule would let them through."""
    text = f"rules: [{{images: ['{pattern}'], keys: [a.pub]}}, {{images: ['*'], unsigned: true}}]"

    with pytest.raises(signature_policy.PolicyError, match="no image can match"):
        policy(tmp_path, text)


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("r.io/team/", "r.io/team/app"),
        ("r.io/v2/team", "r.io/v2/team/app"),
        ("*.r.io:5000/team", "eu.r.io:5000/team/app"),
        ("registry:5000", "registry:5000/app"),
        ("localhost/app", "localhost/app"),
        ("[fd00::1]:5000", "[fd00::1]:5000/app"),
        ("docker.io/example", "example/app"),
        ("index.docker.io/library", "nginx"),
    ],
)
def test_every_other_spelling_of_a_pattern_matches(tmp_path, pattern, image) -> None:
    text = f"rules: [{{images: ['{pattern}'], keys: [a.pub]}}]"

    assert demand(tmp_path, text, image).signers


def test_the_first_rule_decides(tmp_path) -> None:
    text = """
        rules:
          - images: [r.io/open]
            unsigned: true
          - images: [r.io]
            keys: [a.pub, b.pub]
    """

    assert demand(tmp_path, text, "r.io/open/app").unsigned
    assert [one.name for one in demand(tmp_path, text, "r.io/app").signers] == [
        "the key a.pub",
        "the key b.pub",
    ]


def test_an_image_without_a_rule_has_no_signer(tmp_path) -> None:
    found = demand(tmp_path, KEY, "other.io/app")

    assert (found.pattern, found.signers, found.unsigned) == ("", (), False)


def test_a_key_needs_no_log_and_no_network(tmp_path) -> None:
    (signer,) = demand(tmp_path, KEY, "r.io/a").signers

    assert signer.arguments == (f"--key={tmp_path}/a.pub", "--insecure-ignore-tlog=true")


def test_a_key_may_ask_for_the_log(tmp_path) -> None:
    text = """
        trustedRoot: root.json
        rules: [{images: [r.io], keys: [a.pub], transparencyLog: true}]
    """

    (signer,) = demand(tmp_path, text, "r.io/a").signers

    assert signer.arguments == (f"--key={tmp_path}/a.pub", f"--trusted-root={tmp_path}/root.json")


def test_a_log_that_is_asked_for_is_never_ignored(tmp_path) -> None:
    text = "rules: [{images: [r.io], keys: [a.pub], transparencyLog: true}]"

    (signer,) = demand(tmp_path, text, "r.io/a").signers

    assert signer.arguments == (f"--key={tmp_path}/a.pub",)


def test_an_identity_is_of_an_issuer(tmp_path) -> None:
    text = """
        trustedRoot: root.json
        rules:
          - images: [r.io]
            identities:
              - issuer: https://token.example.com
                subjectRegExp: ^https://github.com/example/
    """

    (signer,) = demand(tmp_path, text, "r.io/a").signers

    assert signer.arguments == (
        "--certificate-oidc-issuer=https://token.example.com",
        "--certificate-identity-regexp=^https://github.com/example/",
        f"--trusted-root={tmp_path}/root.json",
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "object"),
        ("[", "policy"),
        ("rules: 1", "rules"),
        ("rules: [{images: [], keys: [a.pub]}]", "without images"),
        ("rules: [{images: [r.io]}]", "expected keys or identities"),
        ("rules: [{images: [r.io], keys: [a.pub], unsigned: true}]", "expected keys or identities"),
        ("rules: [{images: [r.io], keys: [missing.pub]}]", "missing.pub"),
        ("rules: [{images: [r.io], keys: [../a.pub]}]", "not the name of a file"),
        ("rules: [{images: [r.io], keys: ['https://a/b']}]", "not the name of a file"),
        ("rules: [{images: [r.io], keys: ['env://KEY']}]", "not the name of a file"),
        ("rules: [{images: [r.io], key: a.pub}]", "key"),
        ("rules: [{images: [r.io], identities: [{issuer: i}]}]", "subject"),
        ("rules: [{images: [r.io], identities: [{subject: s}]}]", "issuer"),
        (
            "rules: [{images: [r.io], identities: [{issuer: i, issuerRegExp: i, subject: s}]}]",
            "issuer",
        ),
        (
            "rules: [{images: [r.io], identities: [{issuer: i, subjectRegExp: example}]}]",
            "begins with",
        ),
        (
            "rules: [{images: [r.io], transparencyLog: false,"
            " identities: [{issuer: i, subject: s}]}]",
            "trustedRoot",
        ),
    ],
)
def test_what_is_no_policy_says_so(tmp_path, text: str, named: str) -> None:
    with pytest.raises(signature_policy.PolicyError, match=named):
        policy(tmp_path, text)


def test_a_policy_that_is_not_there_says_so(tmp_path) -> None:
    with pytest.raises(signature_policy.PolicyError, match="No such file"):
        signature_policy.read(tmp_path / "policy.yaml")
