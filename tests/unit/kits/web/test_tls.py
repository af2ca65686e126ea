"""Authorities as clusters really have them, and a server's certificate that is replaced."""

import asyncio
import contextlib
import os
import pathlib
import ssl
import subprocess
from collections.abc import AsyncIterator

import pytest

from agent.kits.web import tls


def test_an_authority_that_only_python_3_13_refuses_is_taken(monkeypatch) -> None:
    made = ssl.create_default_context

    def as_3_13(**given) -> ssl.SSLContext:
        context = made(**given)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_3_13)
    context = tls.client_context()

    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two certificates with their keys."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("one", "two"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2",
             "-subj", f"/CN={name}"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
    return folder


def put(folder: pathlib.Path, certificate: pathlib.Path, key: pathlib.Path) -> None:
    """Replace both, as whoever renews them does: by files of the same names."""
    for name, source in (("tls.crt", certificate), ("tls.key", key)):
        (folder / "new").write_bytes(source.read_bytes())
        os.replace(folder / "new", folder / name)


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def shown(port: int) -> bytes:
    """The certificate that a new connection is given."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return bytes(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def der(path: pathlib.Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


async def test_a_server_goes_on_with_the_certificate_that_is_there_now(made, tmp_path) -> None:
    put(tmp_path, made / "one.crt", made / "one.key")
    certificate = tls.Certificate(tmp_path)
    async with serving(certificate.context) as port:
        assert await shown(port) == der(made / "one.crt")
        assert not certificate.refresh()

        # Half of a renewal: the key is still the old one.
        put(tmp_path, made / "two.crt", made / "one.key")
        with pytest.raises(OSError, match="mismatch"):
            certificate.refresh()
        assert await shown(port) == der(made / "one.crt")
        assert not certificate.refresh()

        put(tmp_path, made / "two.crt", made / "two.key")
        assert certificate.refresh()
        assert await shown(port) == der(made / "two.crt")

        (tmp_path / "tls.key").unlink()
        with pytest.raises(OSError, match=r"tls\.key"):
            certificate.refresh()
        assert await shown(port) == der(made / "two.crt")


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(made, tmp_path) -> None:
    subprocess.run(
        ["openssl", "ec", "-in", made / "one.key", "-aes256", "-passout", "pass:hunter2",
         "-out", tmp_path / "locked.key"],
        check=True, capture_output=True,
    )  # fmt: skip
    put(tmp_path, made / "one.crt", tmp_path / "locked.key")

    with pytest.raises(ssl.SSLError, match="PEM"):
        tls.Certificate(tmp_path)
