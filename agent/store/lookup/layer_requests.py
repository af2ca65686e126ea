"""Who asks for a layer: what the agent, node set-up and the snapshotter of a node agree on.

A request that reaches the snapshotter has labels, and nothing else says who makes it. The
author of an image writes labels, too: containerd passes the annotations of a manifest's layers
on as labels of their snapshots. So a label proves something in two cases only:

- `keys.IMAGE_REF` names the image that is pulled where containerd sets it itself, over whatever
  the manifest has. Whether it does is a matter of its configuration, which node set-up
  verifies: then the file IMAGE_REFS is there.
- `keys.AGENT_PROOF` is what only a holder of the node's key can compute. The snapshotter makes
  the key, in a file that only root can read.
"""

import contextlib
import hashlib
import hmac
import os
import pathlib
import secrets
from collections.abc import Mapping

from agent.model import images, keys
from agent.store.lookup import layer_permissions

IMAGE_REFS = "image-refs"
"""File in the snapshotter's root folder. It is there while containerd says itself for which image
a layer is asked for (`disable_snapshot_annotations = false`)."""

AGENT_KEY = "agent-key"
"""File in the snapshotter's root folder: the key of AGENT_PROOF."""

KEY_BYTES = 32


def agent_proof(key: bytes, chain_id: str) -> str:
    """The value of `keys.AGENT_PROOF` in a request for a chain ID.

    It is good for this chain ID alone: containerd keeps labels in its database.
    """
    return hmac.digest(key, chain_id.encode(), hashlib.sha256).hex()


def is_agent_proof(text: str, key: bytes, chain_id: str) -> bool:
    """Whether a request for a chain ID comes from a holder of the key."""
    return hmac.compare_digest(text.encode(), agent_proof(key, chain_id).encode())


class Requesters:
    """Recognises those who ask the snapshotter with the folder `root`."""

    def __init__(self, root: pathlib.Path) -> None:
        self._key = _key_of(root / AGENT_KEY)
        self._image_refs = str(root / IMAGE_REFS)

    def of(self, chain_id: str, labels: Mapping[str, str]) -> layer_permissions.Requester:
        """Who asks for a chain ID."""
        proof = labels.get(keys.AGENT_PROOF, "")
        if proof and is_agent_proof(proof, self._key, chain_id):
            return layer_permissions.Requester(is_agent=True)
        name = labels.get(keys.IMAGE_REF, "")
        # Asked anew each time: node set-up may be run, or be undone, at any moment.
        if name and os.path.exists(self._image_refs):  # noqa: PTH110 - hot
            with contextlib.suppress(images.ImageReferenceError):
                return layer_permissions.Requester(image=images.parse_reference(name))
        return layer_permissions.Requester()


def _key_of(path: pathlib.Path) -> bytes:
    """The key of the agent's proofs, made where there is none."""
    with contextlib.suppress(FileNotFoundError):
        key = path.read_bytes()
        if len(key) == KEY_BYTES:
            return key
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    key = secrets.token_bytes(KEY_BYTES)
    # From its first byte on, only root can read it.
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
    draft.rename(path)
    return key
