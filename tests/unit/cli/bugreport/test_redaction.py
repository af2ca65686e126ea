"""What is taken out of a bug report, and what stays in it."""

import base64
import json

import pytest

from agent.cli.bugreport import redaction

SECRET = "S3cr3t-Value.9"
LOGIN = base64.b64encode(f"robot:{SECRET}".encode()).decode()
CONFIG = json.dumps({"auths": {"registry.example.com": {"auth": LOGIN}}})
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


def seen(text: str) -> bool:
    """Whether the secret can be found in a text, also by who decodes base64."""
    found = [text]
    for token in redaction._BASE64.findall(text):
        if decoded := redaction._decoded(token):
            found += [decoded, *map(redaction._decoded, redaction._BASE64.findall(decoded))]
    return any(SECRET in each or JWT in each for each in found)


@pytest.mark.parametrize(
    "text",
    [
        f"UIMGACC_PASSWORD={SECRET}",
        f"PGPASSWORD={SECRET}",
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET}",
        f"ENCRYPTION_KEY={SECRET}",
        f"docker login -u robot -p {SECRET} registry.example.com",
        f"registrytoken: {SECRET}",
        f"{'a:' * 5000}password={SECRET}",
        f"export API_KEY='{SECRET}'",
        f'level=error msg="login failed" password={SECRET} user=x',
        json.dumps({"registryToken": SECRET}),
        json.dumps({"msg": json.dumps({"password": SECRET})}),
        json.dumps(json.dumps(json.dumps({"password": SECRET}))),
        f"  password: {SECRET}\n  next: 1",
        f"secret: |\n  {SECRET}\n  {SECRET}\nnext: 1",
        f"Authorization: Bearer {SECRET}",
        f"> authorization: Basic {LOGIN}",
        f"GET https://robot:{SECRET}@registry.example.com/v2/",
        f"proxy http://{SECRET}@proxy:3128",
        f"https://blobs.example.com/x?X-Amz-Signature={SECRET}&y=1",
        f"https://blobs.example.com/x?sv=1&sig={SECRET}",
        f"uimgacc create --registry-password {SECRET} --wait",
        f'[host."https://mirror".header]\n  x-anything = ["{SECRET}"]\n[next]',
        f"mount: type cifs (rw,username=u,password={SECRET},vers=3)",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\ncut off",
        f"token {JWT} was refused",
        CONFIG,
        f".dockerconfigjson: {base64.b64encode(CONFIG.encode()).decode()}",
        f"a log line with {LOGIN} in it",
    ],
)
def test_a_credential_in_a_text_is_taken_out(text: str) -> None:
    assert seen(text) or "PRIVATE" in text

    redacted = redaction.Redactor().text(text)

    assert not seen(redacted)
    assert redaction.MASK in redacted


@pytest.mark.parametrize(
    "text",
    [
        "sha256:" + "ab" * 32,
        "registry.example.com/team/app:1@sha256:" + "cd" * 32,
        "imagePullSecrets: [{name: registry}]",
        "secretName: uimgacc-webhook",
        "the Secret team/registry does not exist",
        "UIMGACC_SIGNATURE_POLICY=/etc/uimgacc/policy.yaml",
        "basic authentication failed",
        "automountServiceAccountToken: false",
        "https://registry.example.com/v2/team/app/manifests/1",
        '{"reason": "StoreUnavailable", "message": "read did not answer within 2 s"}',
        "/var/lib/containerd/io.containerd.snapshotter.v1.uimgacc/layers/0123456789abcdef",
        "author: somebody, authority: example.com",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redaction.Redactor().text(text) == text


def test_a_container_s_environment_and_arguments() -> None:
    container = {
        "name": "builder",
        "image": "registry.example.com/uimgacc:1",
        "args": ["build", "--password", SECRET, "--wait", f"--token={SECRET}"],
        "env": [
            {"name": "REGISTRY_PASSWORD", "value": SECRET},
            {"name": "HTTPS_PROXY", "value": f"http://u:{SECRET}@proxy:1"},
            {"name": "PLAIN", "value": "yes"},
            {
                "name": "FROM_SECRET",
                "valueFrom": {"secretKeyRef": {"name": "registry", "key": "password"}},
            },
        ],
    }

    redacted = redaction.Redactor().value(container)

    assert SECRET not in json.dumps(redacted)
    assert redacted["env"][2] == {"name": "PLAIN", "value": "yes"}
    assert redacted["env"][3] == container["env"][3]
    assert redacted["args"] == [
        "build",
        "--password",
        "REDACTED",
        "--wait",
        "--token=REDACTED",
    ]


def test_what_an_object_says_again_is_left_out() -> None:
    metadata = {
        "name": "x",
        "managedFields": [{"manager": "kubectl"}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": SECRET, "a": "b"},
    }

    assert redaction.Redactor().value({"metadata": metadata}) == {
        "metadata": {"name": "x", "annotations": {"a": "b"}}
    }


def test_a_credential_that_was_met_once_is_taken_out_of_all_files() -> None:
    redactor = redaction.Redactor()
    redactor.value({"name": "DB_PASSWORD", "value": SECRET})
    encoded = base64.b64encode(SECRET.encode()).decode()
    within = base64.b64encode(f"x={SECRET} y".encode()).decode()

    log = redactor.known(f"connect with {SECRET}: {encoded}; {within}; done".encode()).decode()

    assert log == "connect with REDACTED: REDACTED; REDACTED; done"


def test_sentences_and_common_words_are_not_hunted_for() -> None:
    redactor = redaction.Redactor()
    redactor.text("token: unexpected end of file")
    redactor.text("password=default auth: true")

    assert redactor.known(b"unexpected end of file, default, true") == (
        b"unexpected end of file, default, true"
    )
