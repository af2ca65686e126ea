"""Folders of hosts as users have them, and which hosts each registry gets by them.

In `hosts.txt` of each case a registry is followed by its hosts in order; `#` begins a warning.
"""

import pathlib

import pytest

from agent.clients.registry.mirrors import mirror_folder, registry_host

GOLDEN = pathlib.Path(__file__).parents[4] / "golden/mirrors"
CASES = sorted(path.name for path in GOLDEN.iterdir())


def shown(host: registry_host.Host) -> str:
    names = [each.name.lower() for each in registry_host.Capability if each in host.capabilities]
    parts = [host.scheme, host.authority, host.path]
    parts.append("all" if host.capabilities == registry_host.EVERY else ",".join(names))
    parts += [f"ca={path}" for path in host.authorities]
    parts += [f"client={certificate}+{key}" for certificate, key in host.client]
    if host.skip_verify is not None:
        parts.append(f"skip_verify={host.skip_verify}")
    if host.dial_timeout is not None:
        parts.append(f"dial_timeout={host.dial_timeout:g}")
    parts += [f"{name}={value}" for name, value in host.headers]
    parts += [f"rewrite={each.pattern}→{each.template}" for each in host.rewrites]
    parts += [f"user={host.credential.username}"] if host.credential else []
    parts += ["then-http"] if host.tries_tls else []
    parts += [] if host.is_named else ["itself"]
    return " ".join(parts)


@pytest.mark.parametrize("case", CASES)
def test_registries_get_the_hosts_that_containerd_gives_them(case) -> None:
    folder = GOLDEN / case
    roots = (folder / "certs.d",) if (folder / "certs.d").is_dir() else (folder,)
    expected = (folder / "hosts.txt").read_text().splitlines()

    actual = []
    for registry in [line for line in expected if not line.startswith(" ")]:
        chosen = mirror_folder.choose(roots, registry, plain_http=False)
        actual += [registry, *(f"  {shown(host)}" for host in chosen.hosts)]
        actual += [f"  # {warning}" for warning in chosen.warnings]

    assert "\n".join(actual).replace(f"{folder}/", "") == "\n".join(expected)


def test_the_registries_of_a_folder_are_listed() -> None:
    assert mirror_folder.registries(GOLDEN / "configmap") == [
        "_default", "docker.io", "registry.example.com:5000", "shared",
    ]  # fmt: skip
    assert "registry.example.com:5000" in mirror_folder.registries(GOLDEN / "documented/certs.d")
    assert "_default" in mirror_folder.registries(GOLDEN / "k3s/registries.yaml")
