"""The webhook's certificates through the years: at each moment every server is trusted."""

import datetime
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.x509 import verification

from agent.control.admission import certificates
from agent.kits.web import tls

NAMES = certificates.names_of("uimgacc-webhook", "uimgacc-system")
START = datetime.datetime(2026, 11, 29, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def verified(bundle: bytes, server: x509.Certificate, now: datetime.datetime) -> None:
    """Verify as an API server does; raise where it would refuse."""
    store = verification.Store(x509.load_pem_x509_certificates(bundle))
    builder = verification.PolicyBuilder().store(store).time(now)
    builder.build_server_verifier(x509.DNSName(NAMES[0])).verify(server, [])


def years(
    step: datetime.timedelta = DAY, days: int = 3 * certificates.AUTHORITY_DAYS
) -> Iterator[tuple[datetime.datetime, certificates.Certificates, certificates.Certificates]]:
    """The time, and the certificates before and after each look at them."""
    current = certificates.created(NAMES, START)
    now = START
    while now < START + days * DAY:
        now += step
        before, current = current, certificates.renewed(current, NAMES, now)
        yield now, before, current


def test_a_first_certificate_is_trusted_by_its_own_authority_only() -> None:
    made = certificates.created(NAMES, START)
    other = certificates.created(NAMES, START)

    verified(made.bundle, made.server, START)
    with pytest.raises(verification.VerificationError):
        verified(other.bundle, made.server, START)
    assert made.names == NAMES


def test_an_api_server_whose_clock_is_hours_behind_trusts_it() -> None:
    made = certificates.created(NAMES, START)

    verified(made.bundle, made.server, START - datetime.timedelta(hours=23))


def test_nothing_is_replaced_before_it_is_due() -> None:
    made = certificates.created(NAMES, START)

    assert certificates.renewed(made, NAMES, START + 50 * DAY) is made


def test_each_round_of_six_years_is_trusted_by_the_bundles_before_and_after_it() -> None:
    """A controller or an API server may be one look behind, in either direction."""
    servers, authorities = set(), set()
    for now, before, after in years():
        verified(after.bundle, after.server, now)
        verified(after.bundle, before.server, now)
        verified(before.bundle, after.server, now)
        servers.add(after.server.serial_number)
        authorities |= {each.serial_number for each in after.authorities}
        assert len(after.authorities) <= 2

    assert len(authorities) > 3
    assert len(servers) > 30


def test_a_new_authority_is_published_before_it_signs() -> None:
    now, after = next(
        (now, after)
        for now, before, after in years()
        if len(after.authorities) > len(before.authorities)
    )

    newest = after.authorities[0].subject
    waiting = certificates.renewed(after, NAMES, now + certificates.ANNOUNCED / 2)
    signing = certificates.renewed(after, NAMES, now + certificates.ANNOUNCED)

    assert after.server.issuer != newest
    assert waiting is after
    assert signing.server.issuer == newest
    verified(after.bundle, signing.server, now + certificates.ANNOUNCED)


def test_a_store_of_years_ago_is_begun_anew() -> None:
    made = certificates.created(NAMES, START)
    now = START + 4000 * DAY

    again = certificates.renewed(made, NAMES, now)

    verified(again.bundle, again.server, now)
    assert len(again.authorities) == 1


def test_another_name_has_a_certificate_made_by_the_same_authority() -> None:
    made = certificates.created(("other.svc",), START)

    again = certificates.renewed(made, NAMES, START)

    assert again.names == NAMES
    verified(made.bundle, again.server, START)


def test_what_is_stored_is_read_as_it_was() -> None:
    made = certificates.created(NAMES, START)

    parts = certificates.encode(made)
    again = certificates.decode(parts)

    assert certificates.encode(again) == parts
    assert certificates.renewed(again, NAMES, START) is again


@pytest.mark.parametrize("name", [certificates.BUNDLE, certificates.SERVER])
@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_what_cannot_be_read_is_damaged(name: str, content: bytes | None) -> None:
    parts = dict(certificates.encode(certificates.created(NAMES, START)))
    del parts[name]
    if content is not None:
        parts[name] = content

    with pytest.raises(certificates.CertificatesDamaged):
        certificates.decode(parts)


@pytest.mark.parametrize("name", list(certificates.encode(certificates.created(NAMES, START))))
def test_parts_of_two_that_do_not_belong_together_are_damaged(name: str) -> None:
    parts = dict(certificates.encode(certificates.created(NAMES, START)))
    parts[name] = certificates.encode(certificates.created(NAMES, START))[name]

    with pytest.raises(certificates.CertificatesDamaged):
        certificates.decode(parts)


def test_openssl_takes_the_key_with_the_certificate() -> None:
    made = certificates.created(NAMES, START)

    certificate = tls.MemoryCertificate()
    certificate.use(made.server_pem, made.server_key_pem)

    with pytest.raises(OSError, match=r"(?i)mismatch"):
        certificate.use(made.server_pem, certificates.created(NAMES, START).server_key_pem)
