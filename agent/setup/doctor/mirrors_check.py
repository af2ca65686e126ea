"""The node's files that say which hosts have the images of a registry: what of them has an effect.

containerd ignores what it cannot read of them, with a line in its log: pulls then go to the
registry itself, and nothing else says why. Builds read the same files only where the component
`mirrors` or `mirrors-node` gives them (docs/install/mirrors.md).
"""

import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from agent.clients.registry.mirrors import mirror_folder, registry_host
from agent.setup.config import places, settings_view
from agent.setup.doctor import checks

_CHECK = "mirrors"
_PAGE = "see docs/install/mirrors.md"


def roots(main: settings_view.Path) -> list[pathlib.Path]:
    """Where the files are, by containerd's main file, unless its `config_path` says otherwise."""
    name = places.rancher(main)
    if name is not None:
        return [pathlib.Path("/etc/rancher", name, "registries.yaml")]
    return [pathlib.Path("/etc/containerd/certs.d")]


def examine(folders: Sequence[pathlib.Path]) -> list[checks.Finding]:
    """Findings about these folders; one where all is well."""
    findings: list[checks.Finding] = []
    named: set[str] = set()
    for root in folders:
        try:
            for registry in mirror_folder.registries(root):
                named.add(registry)
                findings += _of_registry(root, registry)
        except mirror_folder.MirrorsUnusable as error:
            findings.append(checks.warn(_CHECK, str(error), _PAGE))
    if findings:
        return findings
    if not named:
        places_shown = ", ".join(map(str, folders))
        return [
            checks.ok(_CHECK, f"{places_shown} names no hosts: registries are asked themselves")
        ]
    what = f"hosts for {', '.join(sorted(named))}"
    return [checks.ok(_CHECK, f"{what}; builds ask them with a component mirrors")]


def _of_registry(root: pathlib.Path, registry: str) -> Iterator[checks.Finding]:
    chosen = mirror_folder.choose([root], registry, plain_http=False)
    for warning in chosen.warnings:
        fix = "put the file right: pulls and builds do without what it says there"
        yield checks.warn(_CHECK, f"{registry}: {warning}", fix)
    for path in _unreadable(chosen.hosts):
        fix = "give the file, or take its name out: containerd fails the pulls of this registry"
        yield checks.warn(_CHECK, f"{registry}: {path} cannot be read", fix)


def _unreadable(hosts: Iterable[registry_host.Host]) -> list[str]:
    paths = [
        path
        for host in hosts
        for path in (*host.authorities, *(each for pair in host.client for each in pair if each))
    ]
    return [path for path in dict.fromkeys(paths) if not os.access(path, os.R_OK)]
