"""The same hosts.toml, read by a real containerd and by a build: both ask the same hosts.

The registry's name is of no host; three servers stand for it, as each case says.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import pytest

from agent.store.publish import writer
from lab import services
from lab.web import certificates, registries
from tests.build import mirroring
from tests.containerd import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

OURS = "uimgacc"


@dataclasses.dataclass
class Servers:
    """A mirror with TLS and client certificates, one with a prefix, and the registry itself."""

    secure: registries.Registry
    project: registries.Registry
    upstream: registries.Registry
    empty: registries.Registry

    def asked(self, marks: dict[str, int], *, ours: bool) -> set[tuple[str, str, str, int]]:
        """Who was asked for what in which repository, since the marks, with which result.

        Of manifests only those by a tag: containerd resolves it, and gets the manifest by its
        digest, from another host as it may be; a build gets it at once.
        """
        return {
            (name, each.repository, each.kind, each.status)
            for name, mark in marks.items()
            for each in getattr(self, name).requests(mark)
            if (each.agent == OURS) is ours
            and (each.kind == "blobs" or not each.reference.startswith("sha256:"))
        }

    def marks(self) -> dict[str, int]:
        return {each.name: getattr(self, each.name).mark() for each in dataclasses.fields(self)}


@pytest.fixture
def authority(folder) -> certificates.Authority:
    return certificates.Authority(folder / "authority")


@pytest.fixture
def servers(folder, authority) -> Iterator[Servers]:
    storage = mirroring.below("hub", folder / "storage")
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        yield Servers(
            secure=start(mirroring.secure(folder / "secure", authority)),
            project=start(services.Registry(folder / "project", storage=storage, readonly=True)),
            upstream=start(services.Registry(folder / "upstream")),
            empty=start(services.Registry(folder / "empty", storage=folder / "nothing")),
        )


@pytest.fixture
def containerd(version, folder) -> Iterator[services.Containerd]:
    with services.Containerd(version, folder=folder / "c") as running:
        yield running


@pytest.fixture
def hosts(containerd, authority) -> mirroring.Hosts:
    """The folder that containerd reads."""
    return mirroring.Hosts(pathlib.Path(containerd.folder) / "hosts", authority)


def _of_secure(servers: Servers) -> str:
    return f'[host."{servers.secure.url}"]\n{mirroring.TLS}'


CASES: dict[str, tuple[Callable[[Servers], str], str]] = {
    "a mirror with client certificates, then the registry": (
        lambda servers: f'server = "{servers.upstream.url}"\n' + _of_secure(servers),
        mirroring.REGISTRY,
    ),
    "the server alone": (
        lambda servers: f'server = "{servers.upstream.url}"\n',
        mirroring.REGISTRY,
    ),
    "a project of a mirror": (
        lambda servers: (
            f'server = "{servers.upstream.url}"\n'
            f'[host."{servers.project.url}/v2/hub"]\noverride_path = true\n'
        ),
        mirroring.REGISTRY,
    ),
    "a mirror that has not got it": (
        lambda servers: f'server = "{servers.upstream.url}"\n[host."{servers.empty.url}"]\n',
        mirroring.REGISTRY,
    ),
    "a mirror that is down": (
        lambda servers: (
            f'server = "{servers.upstream.url}"\n[host."http://127.0.0.1:9"]\ndial_timeout = "1s"\n'
        ),
        mirroring.REGISTRY,
    ),
    "a mirror without the certificate that it wants": (
        lambda servers: (
            f'server = "{servers.upstream.url}"\n[host."{servers.secure.url}"]\nca = "ca.crt"\n'
        ),
        mirroring.REGISTRY,
    ),
    "a mirror that is not believed about tags": (
        lambda servers: (
            f'server = "{servers.upstream.url}"\n[host."{servers.secure.url}"]\n'
            f'capabilities = ["pull"]\n{mirroring.TLS}'
        ),
        mirroring.REGISTRY,
    ),
    "in the order of the file": (
        lambda servers: (
            f'[host."{servers.upstream.url}"]\n[host."{servers.secure.url}"]\n{mirroring.TLS}'
        ),
        mirroring.REGISTRY,
    ),
    "for all registries": (
        lambda servers: f'server = "{servers.upstream.url}"\n',
        "_default",
    ),
    "http with settings for TLS": (
        lambda servers: f'server = "{servers.upstream.url}"\nskip_verify = true\n',
        mirroring.REGISTRY,
    ),
    "hosts that are no tables": (
        lambda servers: (
            f'server = "{servers.upstream.url}"\n'
            f'host = {{ "{servers.empty.url}" = {{ capabilities = ["pull", "resolve"] }} }}\n'
        ),
        mirroring.REGISTRY,
    ),
}


NOT_IN_1_7 = {
    "the server alone",
    "for all registries",
    "http with settings for TLS",
    "hosts that are no tables",
}
"""containerd 1.7 ignores a file that has no [host."..."], and takes hosts that are no tables."""


@pytest.mark.parametrize("case", list(CASES))
def test_both_ask_the_same_hosts(tmp_path, version, containerd, hosts, servers, case) -> None:
    if version == "1.7" and case in NOT_IN_1_7:
        pytest.skip("containerd 1.7 reads such a file otherwise (docs/install/mirrors.md)")
    text, registry = CASES[case]
    hosts.write(text(servers), registry)
    writer.create(tmp_path / "store")
    marks = servers.marks()

    with containerd.cri() as client:
        client.pull_image(f"{mirroring.REGISTRY}/{mirroring.IMAGE}")
    mirroring.build(tmp_path / "store", [hosts.folder])

    theirs = servers.asked(marks, ours=False)
    assert servers.asked(marks, ours=True) == theirs
    assert {kind for _, _, kind, status in theirs if status == 200} == {"manifests", "blobs"}


def test_what_was_built_through_a_mirror_is_served_to_a_pull_through_it(
    version, folder, authority, servers
) -> None:
    """Also though the registry itself cannot be reached, which would say that it is public."""
    root = folder / "store"
    writer.create(root)
    node = conftest.Node(version, folder, servers.upstream, root)
    hosts = mirroring.Hosts(pathlib.Path(node.containerd.folder) / "hosts", authority)
    for each in conftest.opened(node):
        hosts.write(_of_secure(servers))
        mirroring.build(root, [hosts.folder])
        mark = servers.secure.mark()

        with each.containerd.cri() as client:
            client.pull_image(f"{mirroring.REGISTRY}/{mirroring.IMAGE}", handler="uimgacc")

        assert servers.secure.layer_gets(mark) == []
        assert [one.kind for one in servers.secure.requests(mark)].count("manifests") > 0
