"""Which images pass, with a program in the place of cosign that does what a test wants.

With the real cosign: tests/build/test_signatures.py.
"""

import pathlib
import sys

import pytest

from agent import errors
from agent.build.signatures import cosign, signature_policy
from agent.clients.registry import connections, credentials, distribution
from agent.model import images
from tests.fakes import registry as fakes

POLICY = """
rules:
  - images: ["127.0.0.1:{port}/open"]
    unsigned: true
  - images: ["127.0.0.1:{port}/team"]
    keys: [a.pub, b.pub]
"""
# Accepts what key b has signed, once it has read the tag beside the image.
ACCEPTING_B = """#!PYTHON
import os, sys, urllib.request
with open("LOG", "a") as log:
    print(sys.argv, dict(os.environ), file=log)
host, _, name = sys.argv[-1].partition("@")[0].partition("/")
try:
    urllib.request.urlopen(f"http://{host}/v2/{name}/manifests/signed")
except OSError as error:
    sys.exit(f"Error: {error}")
if "b.pub" not in sys.argv[2]:
    sys.exit(f"Error: no matching signatures at {sys.argv[-1]}")
"""


class Alice:
    async def credentials(self, reference: images.Reference):
        return [credentials.Credential("a file", "alice", "secret")]


class Bench:
    def __init__(self, folder: pathlib.Path, fake: fakes.FakeRegistry) -> None:
        self.folder = folder
        self.fake = fake
        for name in ("a.pub", "b.pub"):
            (folder / name).touch()
        (folder / "policy.yaml").write_text(POLICY.replace("{port}", str(fake.port)))
        self.log = folder / "log"
        self.program = folder / "cosign"

    def cosign(self, script: str) -> None:
        text = script.replace("LOG", str(self.log)).replace("PYTHON", sys.executable)
        self.program.write_text(text)
        self.program.chmod(0o755)

    async def check(self, rest: str, **changes) -> None:
        reference = images.parse_reference(f"{self.fake.host}/{rest}")
        options = connections.Options(
            plain_http=frozenset({self.fake.host}), delays=(0.01,), deadline=0.2
        )
        policy = signature_policy.read(self.folder / "policy.yaml")
        async with distribution.Client(Alice(), options) as client:
            digest = (await client.manifest(reference)).digest
            verifier = cosign.Verifier(policy, client, program=str(self.program), **changes)
            await verifier.check(reference, digest)


@pytest.fixture
async def bench(tmp_path):
    async with fakes.FakeRegistry() as fake:
        fake.user = "alice:secret"
        fake.add_image([fakes.tar(a=b"1")], "1", "signed")
        yield Bench(tmp_path, fake)


async def test_a_signature_of_one_of_the_keys_is_enough(bench) -> None:
    bench.cosign(ACCEPTING_B)

    await bench.check("team/app:1")

    said = bench.log.read_text()
    assert "a.pub" in said
    assert "b.pub" in said


async def test_the_program_gets_no_credentials_and_the_digest(bench, monkeypatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "hidden")
    bench.cosign(ACCEPTING_B)

    await bench.check("team/app:1")

    said = bench.log.read_text()
    assert f"@{fakes.digest(bench.fake.manifests['1'].data)}" in said
    assert "secret" not in said
    assert "hidden" not in said
    assert "'DOCKER_CONFIG': '/" in said


async def test_an_image_that_only_others_have_signed_is_refused(bench) -> None:
    bench.cosign("#!/bin/sh\necho Error: no matching signatures at $4 >&2\nexit 12\n")

    with pytest.raises(cosign.NotSigned) as caught:
        await bench.check("team/app:1")

    said = str(caught.value)
    assert f"the rule for {bench.fake.host}/team: the key a.pub: Error: no matching" in said
    # What a status says is of the image, not of a port that is gone.
    assert f"{bench.fake.host}/team/app@sha256:" in said


async def test_an_image_that_needs_none_is_not_asked_about(bench) -> None:
    bench.cosign("#!/bin/sh\nexit 1\n")

    await bench.check("open/app:1")


async def test_an_image_without_a_rule_is_refused(bench) -> None:
    bench.cosign("#!/bin/sh\nexit 0\n")

    with pytest.raises(cosign.NotSigned, match="no rule of it is for this image"):
        await bench.check("other/app:1")


async def test_a_registry_that_fails_is_not_an_image_that_is_unsigned(bench) -> None:
    bench.cosign(ACCEPTING_B)
    bench.fake.faults["signed"] += [fakes.status(503)] * 100

    with pytest.raises(errors.TemporaryError, match="status 503"):
        await bench.check("team/app:1")


async def test_a_program_that_hangs_is_an_answer_as_well(bench) -> None:
    bench.cosign("#!/bin/sh\nsleep 60\n")

    with pytest.raises(cosign.NotSigned, match=r"no answer within 0\.2 s"):
        await bench.check("team/app:1", deadline=0.2)


async def test_nothing_is_accepted_where_the_program_is_missing(bench) -> None:
    with pytest.raises(cosign.VerifierMissing, match="No such file"):
        await bench.check("team/app:1")
