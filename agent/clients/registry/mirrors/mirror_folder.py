"""The folders that say which hosts have the images of a registry: containerd's `certs.d`.

A folder for each registry, found as containerd finds it (core/remotes/docker/config/hosts.go): for
`registry.example.com:5000` it is `registry.example.com_5000_`, `registry.example.com:5000`, or
`_default`. Two more forms are for what is mounted into a pod: the keys of ConfigMaps and Secrets
have no folders, so the file `docker.io__hosts.toml` stands for `docker.io/hosts.toml`; and where
there is a `registries.yaml` (k3s, RKE2), what it says of a registry goes before the registry's
folder, as k3s replaces that.

Files on the node that a hosts.toml names by an absolute path are not in a pod: one that is not
there is looked for by its name in the folder.
"""

import dataclasses
import logging
import os
import pathlib
import posixpath
from collections.abc import Iterator, Sequence

from agent import errors
from agent.clients.registry.mirrors import hosts_toml, registries_yaml, registry_host

logger = logging.getLogger(__name__)

_DEFAULT = "_default"
_BETWEEN = "__"
_LIMIT = 1 << 20
"""Bytes of a file; a ConfigMap has no more."""


class MirrorsUnusable(errors.PermanentError):
    """What says which hosts to ask cannot be read. `path` is the file, `reason` says why."""

    def __init__(self, path: pathlib.Path, reason: str) -> None:
        super().__init__(f"the hosts of registries cannot be read from {path}: {reason}")
        self.path = path
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The hosts of a registry in the order in which they are asked.

    `source` is the file or folder that says so, "" for none; `warnings` what of it is ignored.
    """

    hosts: tuple[registry_host.Host, ...]
    source: str = ""
    warnings: tuple[str, ...] = ()


def choose(roots: Sequence[pathlib.Path], registry: str, *, plain_http: bool) -> Chosen:
    """The hosts of a registry by the first of the folders that says something of it.

    A root may also be a registries.yaml. Reads local files. Raises MirrorsUnusable.
    """
    for root in roots:
        chosen = _in_root(root, registry)
        if chosen is not None:
            hosts = registry_host.completed(chosen.hosts, registry, plain_http=plain_http)
            return dataclasses.replace(chosen, hosts=hosts)
    return Chosen((registry_host.default(registry, plain_http=plain_http),))


def registries(root: pathlib.Path) -> list[str]:
    """The registries that a folder names, `_default` among them. Raises MirrorsUnusable."""
    names = set(_translated(root))
    if root.is_dir():
        for name in _listed(root):
            folder, between, _ = name.rpartition(_BETWEEN)
            if between or (root / name).is_dir():
                names.add(_registry_of(folder if between else name))
    return sorted(_DEFAULT if name == registries_yaml.EVERY else name for name in names)


def _in_root(root: pathlib.Path, registry: str) -> Chosen | None:
    translated = _translated(root)
    for folder in _folders(registry):
        key = registries_yaml.EVERY if folder == _DEFAULT else registry
        if key in translated:
            said = translated[key]
            return Chosen(said.hosts, str(_yaml_of(root)), said.warnings)
        place = _Place(root, folder)
        if place.is_there():
            return place.read()
    return None


def _folders(registry: str) -> Iterator[str]:
    """The folders of a registry, the first that is there counts."""
    host, colon, port = registry.rpartition(":")
    if colon and host:
        yield f"{host}_{port}_"
    yield registry
    yield _DEFAULT


def _registry_of(folder: str) -> str:
    host, between, port = folder.removesuffix("_").rpartition("_")
    is_port = folder.endswith("_") and between and port.isdecimal()
    return f"{host}:{port}" if is_port else folder


def _yaml_of(root: pathlib.Path) -> pathlib.Path:
    return root if root.is_file() else root / registries_yaml.NAME


def _translated(root: pathlib.Path) -> dict[str, hosts_toml.Parsed]:
    path = _yaml_of(root)
    text = _read(path)
    if text is None:
        return {}
    try:
        return registries_yaml.parse(text, _Place(path.parent, "").locate)
    except hosts_toml.HostsFileError as error:
        # k3s does not start with such a file, so there is nothing to fall back to.
        raise MirrorsUnusable(path, str(error)) from error


def _read(path: pathlib.Path) -> str | None:
    """A file's text, None where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise MirrorsUnusable(path, _advice(error)) from error
    if len(data) > _LIMIT:
        raise MirrorsUnusable(path, f"it has more than {_LIMIT} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MirrorsUnusable(path, "it is not UTF-8") from error


def _listed(folder: pathlib.Path) -> list[str]:
    """The names in a folder, without those that the kubelet keeps beside mounted keys."""
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise MirrorsUnusable(folder, _advice(error)) from error


def _advice(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return (
            f"user {os.geteuid()} may not read it; give the files in a ConfigMap and a Secret"
            " instead (docs/install/mirrors.md)"
        )
    return error.strerror or str(error)


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """The folder of one registry: a real one, or the keys that stand for one."""

    root: pathlib.Path
    folder: str

    @property
    def path(self) -> pathlib.Path:
        return self.root / self.folder

    def is_there(self) -> bool:
        try:
            # Also for a link to nothing, and what is not a folder: as containerd's stat.
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return any(name.startswith(self.folder + _BETWEEN) for name in _listed(self.root))
        except OSError as error:
            raise MirrorsUnusable(self.path, _advice(error)) from error
        return True

    def read(self) -> Chosen:
        path = pathlib.Path(self.locate(hosts_toml.NAME))
        text = _read(path)
        if not text:
            return Chosen((self._with_certificates(),), str(self.path))
        try:
            parsed = hosts_toml.parse(text, self.locate)
        except hosts_toml.HostsFileError as error:
            warning = f"{path} is ignored, as by containerd: {error}"
            return Chosen((self._with_certificates(),), str(path), (warning,))
        return Chosen(parsed.hosts, str(path), parsed.warnings)

    def _with_certificates(self) -> registry_host.Host:
        names = [
            name.removeprefix(self.folder + _BETWEEN)
            for name in _listed(self.root)
            if name.startswith(self.folder + _BETWEEN)
        ]
        return hosts_toml.of_certificates([*_listed(self.path), *names], self.locate)

    def locate(self, name: str) -> str:
        """The path of a file that is named in this folder."""
        path = pathlib.Path(os.path.normpath(self.path / name))
        candidates = [path, self._flat(name)]
        if name.startswith("/"):
            base = path.name
            candidates = [path, self.path / base, self._flat(base), self.root / base]
        return str(next((each for each in candidates if each.exists()), path))

    def _flat(self, name: str) -> pathlib.Path:
        """The key that stands for a file: `../shared/ca.crt` is `shared__ca.crt`."""
        relative = posixpath.normpath(f"{self.folder}/{name}")
        return self.root / relative.replace("/", _BETWEEN)
