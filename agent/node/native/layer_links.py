"""Links to layers of the store, in a folder that containerd 2.4 has as a cache of layers.

containerd takes a file of a cache for each pull that names its diff ID, and knows neither
signatures nor permissions. So a link is named after a digest that only this node's agent can
compute: a pull that the agent did not prepare finds nothing. Links stay as long as a snapshot
refers to them.
"""

import contextlib
import hashlib
import hmac
import os
import pathlib
import secrets
import threading
from collections.abc import Collection, Iterable

from agent.kits import files, machine
from agent.model import digests, reports

_KEY = "key"
_KEY_BYTES = 32
_SUFFIX = ".erofs"


class LayerLinks:
    """The links in `folder`. All of it is on the local disk; nothing here follows a link."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        """Images are prepared at the same time, each in a thread; there is one key for all."""

    @property
    def are_allowed(self) -> bool:
        """Whether deletions in the store wait for this node: agent.node.health.announcement."""
        try:
            announced = reports.decode_announced((self._folder / reports.ANNOUNCED).read_bytes())
        except OSError:
            return False
        return announced is not None and announced.boot == machine.boot_id()

    def make_folder(self) -> None:
        """Make the folder, for root alone: names of links are as good as permissions."""
        files.make_folder(self._folder)
        self._folder.chmod(0o700)

    def add(self, layers: Iterable[tuple[str, pathlib.Path]]) -> dict[str, str]:
        """Have links to layers, durable before this returns: diff ID -> the name of its link.

        The name is a digest, by which containerd looks for it. Raises OSError.
        """
        with self._lock:
            return self._add(layers)

    def _add(self, layers: Iterable[tuple[str, pathlib.Path]]) -> dict[str, str]:
        key = self._key()
        names, changed = {}, set[pathlib.Path]()
        for diff_id, target in layers:
            names[diff_id] = name = _name(key, diff_id)
            link = self._place(name)
            with contextlib.suppress(OSError):
                if os.readlink(link) == str(target):  # noqa: PTH115 - must be the very text
                    continue
            files.make_folder(link.parent)
            draft = link.with_name(f".{link.name}")
            draft.unlink(missing_ok=True)
            draft.symlink_to(target)
            draft.rename(link)
            changed.add(link.parent)
        for folder in changed:
            files.sync_folder(folder)
        return names

    def keep(self, diff_ids: Collection[str]) -> int:
        """Remove the links to all other layers; how many. Raises OSError."""
        with self._lock:
            return self._keep(diff_ids)

    def _keep(self, diff_ids: Collection[str]) -> int:
        if not self._folder.is_dir():
            return 0
        key = self._key()
        kept = {self._place(_name(key, diff_id)) for diff_id in diff_ids}
        gone = [link for link in self._folder.glob(f"*/*/*{_SUFFIX}") if link not in kept]
        for link in gone:
            link.unlink(missing_ok=True)
        return len(gone)

    def _place(self, name: str) -> pathlib.Path:
        """Where containerd 2.4 looks for it (internal/erofsutils, CacheBlobPath)."""
        digits = digests.hex_of(name)
        return self._folder / "sha256" / digits[:2] / f"{digits}{_SUFFIX}"

    def _key(self) -> bytes:
        path = self._folder / _KEY
        with contextlib.suppress(FileNotFoundError):
            key = path.read_bytes()
            if len(key) == _KEY_BYTES:
                return key
        self.make_folder()
        files.write(path, key := secrets.token_bytes(_KEY_BYTES))
        return key


def _name(key: bytes, diff_id: str) -> str:
    return f"sha256:{hmac.digest(key, diff_id.encode(), hashlib.sha256).hex()}"
