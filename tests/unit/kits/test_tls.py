"""Authorities as clusters really have them."""

import ssl

from agent.kits import tls


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
