"""Real registries as a registry and as mirrors of it, and the files that name them."""

import asyncio
import dataclasses
import pathlib
from collections.abc import Sequence

from agent.build import cache_build
from agent.clients.registry import connections
from agent.model import images, records
from agent.roles import builder
from lab import places
from lab.web import certificates, registries

REGISTRY = "registry.invalid"
"""No such host is ever found (RFC 2606): whoever asks it itself fails."""
IMAGE = "lab/layers2:1"


def below(prefix: str, storage: pathlib.Path) -> pathlib.Path:
    """A storage with the lab's repositories below a prefix, as a project of Harbor has them."""
    root = storage / "docker/registry/v2"
    (root / "repositories").mkdir(parents=True)
    lab = places.STORAGE / "docker/registry/v2"
    (root / "repositories" / prefix).symlink_to(lab / "repositories")
    (root / "blobs").symlink_to(lab / "blobs")
    return storage


@dataclasses.dataclass
class Hosts:
    """A folder as containerd's certs.d, with an authority and a client's certificate beside it."""

    folder: pathlib.Path
    authority: certificates.Authority

    def write(self, text: str, registry: str = REGISTRY) -> None:
        """Write the hosts.toml of a registry; `ca.crt`, `client.crt` and `client.key` beside it."""
        place = self.folder / registry
        place.mkdir(parents=True, exist_ok=True)
        (place / "hosts.toml").write_text(text)
        for path in (self.authority.certificate, *self.authority.issue("client")):
            (place / path.name).write_bytes(path.read_bytes())


def secure(
    folder: pathlib.Path, authority: certificates.Authority, **options: object
) -> registries.Registry:
    """A registry that speaks TLS by the authority, and wants a certificate of it."""
    return registries.Registry(
        folder,
        tls=authority.issue("server"),
        clients=authority.certificate,
        **options,  # type: ignore[arg-type]
    )


TLS = 'ca = "ca.crt"\nclient = [["client.crt", "client.key"]]\n'
"""The fields of a host that `secure` takes."""


def build(
    store: pathlib.Path,
    mirrors: Sequence[pathlib.Path],
    *names: str,
    docker_configs: Sequence[pathlib.Path] = (),
    **options: object,
) -> records.CacheRecord:
    """Build images of REGISTRY."""
    values = {"deadline": 20.0, "host_timeout": 5.0, **options}
    registry = connections.Options(mirrors=tuple(mirrors), **values)  # type: ignore[arg-type]
    request = cache_build.Request(
        cache_id="imc-mirrored",
        name="mirrored",
        references=tuple(
            images.parse_reference(f"{REGISTRY}/{name}") for name in names or (IMAGE,)
        ),
        platforms=(builder.own_platform(),),
        capacity=20 << 30,
    )
    settings = builder.Settings(
        store=store, registries=registry, docker_configs=tuple(docker_configs)
    )
    return asyncio.run(builder.build(settings, request))
