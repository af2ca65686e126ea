"""The webhook's certificate and the authority that signs it: made and replaced in time; pure.

The API server trusts the authorities of a bundle in the MutatingWebhookConfiguration. A new one is
in the bundle for a while before it signs, and the one before it stays there until its end: so at
each moment every API server trusts the certificate that every controller shows.

Validity begins a day before a certificate is made, because the API server's clock decides.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from cryptography import exceptions, x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from agent import errors

AUTHORITY_DAYS, SERVER_DAYS = 730, 90
"""What is valid for so long is replaced when a third of the time is left."""

BACKDATED = datetime.timedelta(days=1)
ANNOUNCED = datetime.timedelta(minutes=10)
"""From the publication of an authority to its use."""

BUNDLE, AUTHORITY_KEY, SERVER, SERVER_KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"
"""The names of the parts in the Secret, each in PEM."""


class CertificatesDamaged(errors.PermanentError):
    """What was stored cannot be used. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the webhook's certificates cannot be used: {reason}")
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Certificates:
    """The authorities, newest first, with the key of the newest; the server's certificate and key.

    A server's certificate may be signed by an older authority than the newest.
    """

    authorities: tuple[x509.Certificate, ...]
    authority_key: ec.EllipticCurvePrivateKey
    server: x509.Certificate
    server_key: ec.EllipticCurvePrivateKey

    @property
    def bundle(self) -> bytes:
        """The authorities in PEM: what the API server verifies by."""
        return b"".join(map(_pem, self.authorities))

    @property
    def server_pem(self) -> bytes:
        """The server's certificate in PEM."""
        return _pem(self.server)

    @property
    def server_key_pem(self) -> bytes:
        """Its key in PEM."""
        return _key_pem(self.server_key)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the server's certificate is for."""
        extension = self.server.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return tuple(extension.value.get_values_for_type(x509.DNSName))


def names_of(service: str, namespace: str) -> tuple[str, ...]:
    """The names of a Service; the API server verifies the first one."""
    return (f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local")


def created(names: Sequence[str], now: datetime.datetime) -> Certificates:
    """An authority and a certificate by it: it signs at once, because there is none before it."""
    authority, authority_key = _authority(now)
    server, server_key = _server(names, now, authority, authority_key)
    return Certificates((authority,), authority_key, server, server_key)


def renewed(current: Certificates, names: Sequence[str], now: datetime.datetime) -> Certificates:
    """The certificates as they must be now; `current` itself where nothing is due."""
    if current.authorities[0].not_valid_after_utc <= now:
        return created(names, now)
    authorities = tuple(each for each in current.authorities if now < each.not_valid_after_utc)
    key = current.authority_key
    if _is_due(authorities[0], now):
        newest, key = _authority(now)
        authorities = (newest, *authorities)
    server, server_key = current.server, current.server_key
    if _must_be_signed(server, names, authorities[0], now):
        server, server_key = _server(names, now, authorities[0], key)
    if authorities == current.authorities and server == current.server:
        return current
    return Certificates(authorities, key, server, server_key)


def encode(certificates: Certificates) -> Mapping[str, bytes]:
    """The parts by their names."""
    return {
        BUNDLE: certificates.bundle,
        AUTHORITY_KEY: _key_pem(certificates.authority_key),
        SERVER: certificates.server_pem,
        SERVER_KEY: certificates.server_key_pem,
    }


def decode(parts: Mapping[str, bytes]) -> Certificates:
    """The certificates of stored parts; raise CertificatesDamaged."""
    try:
        certificates = Certificates(
            tuple(x509.load_pem_x509_certificates(parts[BUNDLE])),
            _key(parts[AUTHORITY_KEY]),
            x509.load_pem_x509_certificate(parts[SERVER]),
            _key(parts[SERVER_KEY]),
        )
        _ = certificates.names
    except (KeyError, ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise CertificatesDamaged(str(error)) from error
    pairs = (
        (certificates.authorities[0], certificates.authority_key),
        (certificates.server, certificates.server_key),
    )
    if any(certificate.public_key() != key.public_key() for certificate, key in pairs):
        raise CertificatesDamaged("a key is not that of its certificate")
    if not any(_has_signed(each, certificates.server) for each in certificates.authorities):
        raise CertificatesDamaged("no authority of it has signed the server's certificate")
    return certificates


def _is_due(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return end - now < (end - start) / 3


def _must_be_signed(
    server: x509.Certificate,
    names: Sequence[str],
    newest: x509.Certificate,
    now: datetime.datetime,
) -> bool:
    """Whether the newest authority signs a new certificate now."""
    wanted = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usable = now < server.not_valid_after_utc and list(names) == wanted.get_values_for_type(
        x509.DNSName
    )
    announced = newest.not_valid_before_utc + BACKDATED + ANNOUNCED <= now
    due = _is_due(server, now) or not _has_signed(newest, server)
    return not usable or (due and announced)


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, exceptions.InvalidSignature):
        return False
    return True


def _authority(now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    # Its own name for each: a verifier finds an issuer by the name first.
    name = _name(f"uimgacc webhook {now:%Y-%m-%d %H:%M:%S}")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _begun(name, name, key.public_key(), now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def _server(
    names: Sequence[str],
    now: datetime.datetime,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    usage = x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH])
    builder = (
        _begun(_name("uimgacc webhook"), authority.subject, key.public_key(), now, days=SERVER_DAYS)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(issued_by, critical=False)
    )
    return builder.sign(authority_key, hashes.SHA256()), key


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    *,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _key(text: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(text, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("a key is not of an elliptic curve")
    return key
