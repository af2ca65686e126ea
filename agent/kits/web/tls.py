"""TLS: to servers of other people's clusters, and as a server whose certificate is replaced."""

import os
import pathlib
import ssl

_Stamp = tuple[tuple[int, int, int], ...]


def client_context(*, authority: str | None = None) -> ssl.SSLContext:
    """Verify servers as Go's programs do; `authority` are PEM certificates, None the system's.

    Python 3.13 began to refuse authorities that lack a key usage or a key identifier
    (VERIFY_X509_STRICT). Those of many clusters and private registries do, and kubectl,
    kubelet and containerd take them: uimgacc would be the one part that does not start.
    """
    context = ssl.create_default_context(cadata=authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class Certificate:
    """`tls.crt` and `tls.key` of a folder, as of a Secret of that type, on a local disk.

    `context` is for a server that goes on when they are replaced. Raises OSError (which
    ssl.SSLError is) where they cannot be read, or do not belong together.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._files = (folder / "tls.crt", folder / "tls.key")
        self._stamp = self._read_stamp()
        self.context = self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))

    def refresh(self) -> bool:
        """Use the files from now on if they have changed; whether they have.

        Where they cannot be used, what was used before stays, until they change again.
        """
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        # A key that does not fit would leave the context without any: so it is tried elsewhere.
        self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        self._load(self.context)
        return True

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(*self._files, password="")
        return context

    def _read_stamp(self) -> _Stamp:
        states = [path.stat() for path in self._files]
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in states)


class MemoryCertificate:
    """A server's certificate that is kept in memory; `context` is for a server that goes on.

    Until the first `use` every handshake fails.
    """

    def __init__(self) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def use(self, certificate: bytes, key: bytes) -> None:
        """Use a certificate and its key, in PEM, from now on; raise OSError as ssl does."""
        # OpenSSL's binding reads files only. One in memory keeps the key off every disk.
        descriptor = os.memfd_create("certificate")
        try:
            os.write(descriptor, certificate + key)
            self.context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
        finally:
            os.close(descriptor)
