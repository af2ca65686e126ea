"""The Secret with the keys, and the ConfigMap that nodes have of it: read and written.

The Secret has the private keys and the document of the public ones. The ConfigMap is a copy of
that document, so one that was deleted or changed is put right.
"""

import base64
import binascii
from collections.abc import Mapping

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.control.signing import key_ring
from agent.model import keys
from agent.store import signing_keys, trusted_keys

SECRET = "uimgacc-signing-key"  # noqa: S105 - the name of an object
CONFIG_MAP = "uimgacc-keys"
_SUFFIX = ".pem"
_LABELS = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "controller"}


class KeysDamaged(errors.PermanentError):
    """The Secret of the keys cannot be used. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the Secret {SECRET} cannot be used: {reason}. Restore it, or delete it: then new"
            " keys are made, and all caches are built again"
        )
        self.reason = reason


class KeysChanged(errors.TemporaryError):
    """Another controller has made keys at the same moment: read them."""

    def __init__(self) -> None:
        super().__init__(f"another controller has made the Secret {SECRET}")


class KeyObjects:
    """The keys of the installation in `namespace`. All raise AgentError."""

    def __init__(self, api: rest_client.Objects, *, namespace: str = keys.NAMESPACE) -> None:
        self._api = api
        self._namespace = namespace

    async def read(self) -> key_ring.Ring | None:
        """The keys; None where there are none yet. Raises KeysDamaged."""
        secret = await self._get(rest_client.SECRETS, SECRET)
        if secret is None:
            return None
        data = secret.get("data") or {}
        try:
            text = base64.b64decode(data.get(trusted_keys.NAME, ""), validate=True)
            document = trusted_keys.decode(text, trusted_keys.NAME)
        except (binascii.Error, ValueError, trusted_keys.KeysUnusable) as error:
            raise KeysDamaged(str(error)) from error
        return key_ring.Ring(
            private=_private(data),
            document=document,
            version=secret["metadata"]["resourceVersion"],
        )

    async def refuses(self) -> bool:
        """Whether the ConfigMap has nodes refuse what is not signed."""
        there = await self._get(rest_client.CONFIG_MAPS, CONFIG_MAP)
        text = ((there or {}).get("data") or {}).get(trusted_keys.NAME, "")
        try:
            return trusted_keys.decode(text.encode(), trusted_keys.NAME).unsigned == "refuse"
        except trusted_keys.KeysUnusable:
            return False

    async def write(self, ring: key_ring.Ring) -> None:
        """Write the Secret as long as it is what was read; raise Conflict, KeysChanged."""
        data = {f"{name}{_SUFFIX}": key.pem() for name, key in ring.private.items()}
        data[trusted_keys.NAME] = trusted_keys.encode(ring.document)
        encoded: dict[str, str | None] = {
            name: base64.b64encode(value).decode() for name, value in data.items()
        }
        if not ring.version:
            body = _object("Secret", SECRET, self._namespace, encoded)
            try:
                await self._api.create(rest_client.SECRETS, body, namespace=self._namespace)
            except refusals.AlreadyExists as error:
                raise KeysChanged from error
            return
        there = await self._get(rest_client.SECRETS, SECRET)
        former = (there or {}).get("data") or {}
        encoded |= {name: None for name in former if name not in encoded}
        patch = {"metadata": {"resourceVersion": ring.version}, "data": encoded}
        await self._api.patch(rest_client.SECRETS, SECRET, patch, namespace=self._namespace)

    async def publish(self, ring: key_ring.Ring) -> bool:
        """Have the ConfigMap say what the Secret does; whether it was changed for that."""
        text = trusted_keys.encode(ring.document).decode()
        there = await self._get(rest_client.CONFIG_MAPS, CONFIG_MAP)
        data = {trusted_keys.NAME: text}
        if there is None:
            body = _object("ConfigMap", CONFIG_MAP, self._namespace, data)
            await self._api.create(rest_client.CONFIG_MAPS, body, namespace=self._namespace)
            return True
        if (there.get("data") or {}).get(trusted_keys.NAME) == text:
            return False
        await self._api.patch(
            rest_client.CONFIG_MAPS, CONFIG_MAP, {"data": data}, namespace=self._namespace
        )
        return True

    async def _get(self, resource: rest_client.Resource, name: str) -> rest_client.Object | None:
        try:
            return await self._api.get(resource, name, namespace=self._namespace)
        except refusals.NotFound:
            return None


def _object(
    kind: str, name: str, namespace: str, data: Mapping[str, str | None]
) -> rest_client.Object:
    meta = {"name": name, "namespace": namespace, "labels": _LABELS}
    return {"apiVersion": "v1", "kind": kind, "metadata": meta, "data": data}


def _private(data: Mapping[str, str]) -> dict[str, signing_keys.SigningKey]:
    private = {}
    for name, text in data.items():
        if not name.endswith(_SUFFIX):
            continue
        try:
            key = signing_keys.from_pem(base64.b64decode(text), f"{name} of Secret {SECRET}")
        except (binascii.Error, ValueError, signing_keys.KeyUnusable) as error:
            raise KeysDamaged(str(error)) from error
        private[key.id] = key
    return private
