"""A certificate authority for tests: it issues certificates for servers on loopback and clients."""

import pathlib
import subprocess


class Authority:
    """Files in a folder: `ca.crt`, and for each name that was issued `NAME.crt` and `NAME.key`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _openssl(
            folder, "req", "-x509", *_key("ca"), "-out", "ca.crt", "-days", "2", "-subj", "/CN=lab",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    @property
    def certificate(self) -> pathlib.Path:
        """The authority's own certificate."""
        return self.folder / "ca.crt"

    def issue(self, name: str) -> tuple[pathlib.Path, pathlib.Path]:
        """Issue a certificate for a server on loopback or a client; return it and its key."""
        _openssl(self.folder, "req", *_key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        _openssl(
            self.folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", extensions.name, "-out", f"{name}.crt",
        )  # fmt: skip
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"


def _key(name: str) -> tuple[str, ...]:
    curve = "ec_paramgen_curve:P-256"
    return ("-newkey", "ec", "-pkeyopt", curve, "-nodes", "-keyout", f"{name}.key")


def _openssl(folder: pathlib.Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)
