"""Private keys: made, kept as PEM (PKCS #8, as openssl has them), and signed with.

For the controller and for people's commands. Nodes and builders never have one.
"""

import base64

from cryptography import exceptions
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from agent import errors
from agent.model import records
from agent.store import signatures


class KeyUnusable(errors.PermanentError):
    """A file is not a private key. `name` is the file, `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} is not an Ed25519 private key in PEM form: {reason}")
        self.name = name
        self.reason = reason


class SigningKey:
    """One private key."""

    def __init__(self, private: ed25519.Ed25519PrivateKey) -> None:
        self._private = private
        self.value = private.public_key().public_bytes_raw()
        self.id = signatures.key_id(self.value)

    def sign(self, statement: signatures.Statement, store: str) -> records.Signature:
        """Vouch for a statement in the store of this ID."""
        value = self._private.sign(statement.text(store))
        return records.Signature(key=self.id, value=base64.b64encode(value).decode())

    def pem(self) -> bytes:
        """The key as a file."""
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def generate() -> SigningKey:
    """A new key."""
    return SigningKey(ed25519.Ed25519PrivateKey.generate())


def from_pem(data: bytes, name: str) -> SigningKey:
    """Read a key; raise KeyUnusable."""
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as error:
        raise KeyUnusable(name, str(error)) from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise KeyUnusable(name, "it is a key of another kind")
    return SigningKey(private)
