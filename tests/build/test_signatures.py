"""Policies of signatures, with the real cosign and a real registry that wants a password."""

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

from agent.build import cache_build
from agent.build.signatures import cosign
from agent.clients.registry import connections, credentials, host_rounds
from agent.model import images
from agent.roles import builder
from agent.store.publish import writer
from lab import services
from lab.samples import pushing, tars
from tests.build import test_aliases as aliases

pytestmark = pytest.mark.skipif(
    shutil.which("cosign") is None or shutil.which("docker-registry") is None,
    reason="needs the lab's cosign: run the lab's setup",
)
INDEX = aliases.INDEX
CONFIG = "application/vnd.oci.image.config.v1+json"
# What a key needs in neither of cosign's formats: a log, or services that a configuration names.
ALONE = ("--tlog-upload=false", "--use-signing-config=false", "--yes")
FORMATS = {"a tag": "--new-bundle-format=false", "a bundle": "--new-bundle-format=true"}


class Signing:
    """A registry with Alice's images, and keys with which they may be signed."""

    def __init__(self, folder: pathlib.Path, server: services.Registry) -> None:
        self.folder = folder
        self.server = server
        self.docker = folder / "docker" / "config.json"
        self.docker.parent.mkdir()
        self.docker.write_bytes(
            credentials.docker_config([server.address], username="alice", password="secret")
        )
        for name in ("release", "other"):
            self.cosign("generate-key-pair", f"--output-key-prefix={folder}/{name}")

    def cosign(self, *arguments: str) -> str:
        own = {"COSIGN_PASSWORD": "", "HOME": str(self.folder)}
        environment = {**os.environ, **own, "DOCKER_CONFIG": str(self.docker.parent)}
        done = subprocess.run(
            ["cosign", *arguments], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def push(self, name: str, tag: str = "1", *, content: str = "") -> str:
        """An image with a layer that no other has; returns its digest."""
        layer = pushing.layer([tars.file("file", (content or name).encode())])
        with contextlib.closing(aliases.Pusher(self.server.address)) as to:
            return to.image(name, tag, [layer]).digest

    def sign(self, name: str, digest: str, *, key: str = "release", how: str = "a tag") -> None:
        target = f"{self.server.address}/{name}@{digest}"
        self.cosign("sign", f"--key={self.folder}/{key}.key", FORMATS[how], *ALONE, target)

    def build(
        self, folder: pathlib.Path, name: str, rules: str = "", *, mirrored: str = ""
    ) -> None:
        """Build an image with a policy; the key `release` counts where there are no other rules.

        `mirrored` is another registry of which the server is a mirror.
        """
        registry = mirrored or self.server.address
        policy = folder / "policy"
        policy.mkdir(exist_ok=True)
        shutil.copy(self.folder / "release.pub", policy)
        rules = rules or f"rules: [{{images: ['{registry}'], keys: [release.pub]}}]"
        (policy / "policy.yaml").write_text(rules)
        if not (folder / "store").exists():
            writer.create(folder / "store")
        hosts = frozenset({self.server.address})
        wanted = builder.Settings(
            store=folder / "store",
            registries=connections.Options(
                plain_http=hosts, allowed=hosts, deadline=20.0, mirrors=(folder / "certs.d",)
            ),
            docker_configs=(self.docker,),
            signature_policy=policy / "policy.yaml",
        )
        request = cache_build.Request(
            cache_id="imc-signed",
            name="signed",
            references=(images.parse_reference(f"{registry}/{name}"),),
            platforms=(builder.own_platform(),),
            capacity=20 << 30,
        )
        asyncio.run(builder.build(wanted, request))

    def be_mirror(self, folder: pathlib.Path, registry: str) -> None:
        """Have the server be the mirror of another registry, as k3s writes it for containerd."""
        place = folder / "certs.d" / registry
        place.mkdir(parents=True)
        host = f'[host."{self.server.url}"]\ncapabilities = ["pull", "resolve"]\n'
        (place / "hosts.toml").write_text(host)


CERTIFICATES = """
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = codeSigning
subjectAltName = URI:https://ci.example.com/team/app
1.3.6.1.4.1.57264.1.1 = DER:ISSUER
""".replace("ISSUER", b"https://issuer.example.com".hex(":"))
AUTHORITY = """
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -new -x509 -key ca.key -subj /O=test/CN=ca -days 2 -out ca.pem \\
  -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign
openssl ecparam -name prime256v1 -genkey -noout -out leaf.key
openssl req -new -key leaf.key -subj / -out leaf.csr
openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 \\
  -extfile leaf.cnf -extensions leaf -out leaf.pem
openssl pkcs8 -topk8 -nocrypt -in leaf.key -out leaf.p8
cat leaf.pem ca.pem >chain.pem
"""


class Authority:
    """A certificate authority in the place of Fulcio, and one identity that it has certified."""

    def __init__(self, signing: Signing, folder: pathlib.Path) -> None:
        (folder / "leaf.cnf").write_text(CERTIFICATES)
        subprocess.run(
            ["sh", "-e", "-c", AUTHORITY], cwd=folder, check=True, capture_output=True, timeout=60
        )
        prefix = f"--output-key-prefix={folder}/certified"
        signing.cosign("import-key-pair", f"--key={folder}/leaf.p8", prefix, "--yes")
        chain = f"url=https://ca.example.com,certificate-chain={folder}/ca.pem"
        signing.cosign("trusted-root", "create", f"--fulcio={chain}", f"--out={folder}/root.json")
        self.folder = folder

    def sign(self, signing: Signing, name: str, digest: str) -> None:
        signing.cosign(
            "sign",
            f"--key={self.folder}/certified.key",
            f"--certificate={self.folder}/leaf.pem",
            f"--certificate-chain={self.folder}/ca.pem",
            FORMATS["a tag"],
            *ALONE,
            f"{signing.server.address}/{name}@{digest}",
        )


@pytest.fixture(scope="module")
def signing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signing")
    users = {"alice": "secret"}
    with services.Registry(folder / "r", storage=folder / "s", users=users) as server:
        yield Signing(folder, server)


def records(folder: pathlib.Path) -> list[pathlib.Path]:
    """What a build has left in the store that an image is found by."""
    return [*(folder / "store/meta/images").rglob("*.json"), *(folder / "store").rglob("*.erofs")]


@pytest.mark.parametrize("how", FORMATS)
def test_a_signed_image_is_built(signing, tmp_path, how: str) -> None:
    name = f"team/{how.replace(' ', '-')}"
    signing.sign(name, signing.push(name), how=how)

    signing.build(tmp_path, f"{name}:1")

    assert records(tmp_path)


def test_an_image_without_a_signature_is_not(signing, tmp_path) -> None:
    signing.push("team/unsigned")

    with pytest.raises(cosign.NotSigned) as caught:
        signing.build(tmp_path, "team/unsigned:1")

    assert "team/unsigned:1" in str(caught.value)
    assert "the key release.pub" in str(caught.value)
    assert records(tmp_path) == []


def test_the_command_for_one_machine_asks_the_policy_that_it_is_given(signing, tmp_path) -> None:
    signing.push("team/unsigned")
    (tmp_path / "policy.yaml").write_text("rules: []")
    command = [
        *(sys.executable, "-c", "from agent.cli.entry import main; main()", "create", "tools"),
        *(f"--store={tmp_path}/store", f"--image={signing.server.address}/team/unsigned:1"),
        *(f"--secret={signing.docker}", f"--plain-http={signing.server.address}"),
        f"--signature-policy={tmp_path}/policy.yaml",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "no rule of it is for this image" in done.stderr


@pytest.mark.parametrize("how", FORMATS)
def test_another_key_s_signature_does_not_count(signing, tmp_path, how: str) -> None:
    name = f"team/other-{how.replace(' ', '-')}"
    signing.sign(name, signing.push(name), key="other", how=how)

    with pytest.raises(cosign.NotSigned):
        signing.build(tmp_path, f"{name}:1")

    assert records(tmp_path) == []


def test_a_tag_that_was_moved_away_from_what_is_signed_is_refused(signing, tmp_path) -> None:
    signing.sign("team/moved", signing.push("team/moved"))
    signing.push("team/moved", content="something else")

    with pytest.raises(cosign.NotSigned):
        signing.build(tmp_path, "team/moved:1")


def test_a_signature_that_was_copied_from_another_image_is_refused(signing, tmp_path) -> None:
    good = signing.push("team/copied", "good", content="good")
    signing.sign("team/copied", good)
    evil = signing.push("team/copied", "evil", content="evil")
    server = signing.server
    tag = f"sha256-{good.partition(':')[2]}.sig"
    signature = json.loads(server.get(f"team/copied/manifests/{tag}", accept=aliases.MANIFEST))
    with contextlib.closing(aliases.Pusher(server.address)) as to:
        to.manifest("team/copied", f"sha256-{evil.partition(':')[2]}.sig", signature)

    with pytest.raises(cosign.NotSigned):
        signing.build(tmp_path, "team/copied:evil")


def test_of_an_index_the_index_is_signed(signing, tmp_path) -> None:
    layer = pushing.layer([tars.file("file", b"index")])
    machine = builder.own_platform()
    with contextlib.closing(aliases.Pusher(signing.server.address)) as to:
        made = to.image("team/index", "part", [layer], architecture=machine.architecture)
        platform = {"os": "linux", "architecture": machine.architecture}
        each = pushing.descriptor(made.media_type, made.digest, made.size)
        body = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{**each, "platform": platform}],
        }
        to.manifest("team/index", "1", body)
    index = signing.server.get("team/index/manifests/1", accept=INDEX)
    signing.sign("team/index", made.digest)

    with pytest.raises(cosign.NotSigned):
        signing.build(tmp_path, "team/index:1")

    signing.sign("team/index", pushing.sha256(index))
    signing.build(tmp_path, "team/index:1")


def test_an_image_that_needs_no_signature_is_built(signing, tmp_path) -> None:
    signing.push("open/app")

    signing.build(
        tmp_path, "open/app:1", f"rules: [{{images: ['{signing.server.address}'], unsigned: true}}]"
    )


IDENTITY = """
trustedRoot: root.json
rules:
  - images: ["HOST"]
    transparencyLog: false
    identities: [{issuer: ISSUER, subjectRegExp: "^https://ci[.]example[.]com/team/"}]
"""


@pytest.mark.parametrize("issuer", ["https://issuer.example.com", "https://other.example.com"])
def test_an_identity_is_of_the_authority_and_the_issuer(signing, tmp_path, issuer: str) -> None:
    authority = Authority(signing, tmp_path)
    authority.sign(signing, "team/identity", signing.push("team/identity", content=issuer))
    (tmp_path / "policy").mkdir()
    shutil.copy(authority.folder / "root.json", tmp_path / "policy")
    rules = IDENTITY.replace("HOST", signing.server.address).replace("ISSUER", issuer)

    if "other" not in issuer:
        signing.build(tmp_path, "team/identity:1", rules)
        return
    with pytest.raises(cosign.NotSigned, match="the identity"):
        signing.build(tmp_path, "team/identity:1", rules)


def test_a_signature_does_not_send_cosign_to_an_address_that_builds_may_not_connect_to(
    signing, tmp_path
) -> None:
    """By the URLs of a layer that is not in the registry: Docker's foreign layers have them."""
    digest = signing.push("team/leading")
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        host, port = elsewhere.getsockname()
        missing = pushing.sha256(b"missing")
        kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        layer = {
            **pushing.descriptor(kind, missing, 7, {"dev.cosignproject.cosign/signature": "AAAA"}),
            "urls": [f"http://{host}:{port}/latest/meta-data"],
        }
        config = b"{}"
        with contextlib.closing(aliases.Pusher(signing.server.address)) as to:
            to.blob("team/leading", pushing.sha256(config), config)
            manifest = {
                "schemaVersion": 2,
                "mediaType": aliases.MANIFEST,
                "config": pushing.descriptor(CONFIG, pushing.sha256(config), len(config)),
                "layers": [layer],
            }
            to.manifest("team/leading", f"{digest.replace(':', '-')}.sig", manifest)

        with pytest.raises(cosign.NotSigned):
            signing.build(tmp_path, "team/leading:1")

        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize("how", list(FORMATS))
def test_signatures_come_from_a_mirror_as_well(signing, tmp_path, how, monkeypatch) -> None:
    """Where the registry itself cannot be reached, and by its own name in the policy."""
    monkeypatch.setattr(host_rounds, "_DECIDED_SECONDS", 0.5)
    name = f"team/mirrored-{how.split()[-1]}"
    signing.sign(name, signing.push(name), how=how)
    signing.push(f"{name}-unsigned")
    signing.be_mirror(tmp_path, "registry.invalid")

    signing.build(tmp_path, f"{name}:1", mirrored="registry.invalid")
    with pytest.raises(cosign.NotSigned, match=r"registry\.invalid"):
        signing.build(tmp_path, f"{name}-unsigned:1", mirrored="registry.invalid")
