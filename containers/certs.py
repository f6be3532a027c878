"""A fleet's own certificate authority: a folder beside its site files, with `ca.pem`, `ca.key` and one NAME.pem a principal.

NAME.pem holds a principal's private key and certificate together, so there is never one without the other; Kafka takes it so.
Whoever has `ca.key` can be any service of any site: it stays on the machine that deploys, readable by its owner only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from containers.files import write_whole
from pipelines.clock import Clock
from pipelines.errors import ConfigError

CA_CERT, CA_KEY = "ca.pem", "ca.key"
CA_DAYS, DAYS = 3650, 90
EARLY = timedelta(hours=1)  # a site's clock may be behind


@dataclass(frozen=True)
class Issued:
    """A principal's certificate and private key, PEM."""

    name: str
    certificate: bytes
    key: bytes

    @property
    def expires(self) -> datetime:
        """Until when it counts."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def left(self, clock: Clock) -> timedelta:
        """For how long it still counts; negative once it has expired."""
        return self.expires - _now(clock)


@dataclass(frozen=True)
class Authority:
    """The authority of a fleet, as its folder holds it."""

    folder: Path
    clock: Clock

    def init(self) -> None:
        """Make its key and certificate; `ConfigError` if it has one, since a second would shut out all services in the field."""
        if (self.folder / CA_KEY).exists() or (self.folder / CA_CERT).exists():
            raise ConfigError(f"{self.folder} has an authority already: to begin anew, move the folder away")
        self.folder.mkdir(parents=True, exist_ok=True)
        key, name = ec.generate_private_key(ec.SECP256R1()), _common_name("Sitestream fleet")
        usage = x509.KeyUsage(
            key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        made = (
            self._draft(name, name, key.public_key(), timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_whole(self.folder / CA_KEY, _pem(key))
        write_whole(self.folder / CA_CERT, made.public_bytes(serialization.Encoding.PEM), mode=0o644)

    @property
    def certificate(self) -> bytes:
        """Its certificate, PEM; `ConfigError` if there is no authority."""
        return self._read(CA_CERT)

    def find(self, name: str) -> Issued | None:
        """What was issued to a principal and is good for a third of its time at least, by this authority; else None."""
        path = self.folder / f"{name}.pem"
        if not path.is_file():
            return None
        text = path.read_bytes()
        try:
            certificate = x509.load_pem_x509_certificate(text)
            key = serialization.load_pem_private_key(text, None)
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(self.certificate))
        except InvalidSignature:
            return None
        except ValueError as e:
            raise ConfigError(f"{path} is damaged ({e}): delete it, and it is issued anew") from e
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        found = Issued(name, certificate.public_bytes(serialization.Encoding.PEM), _pem(key))
        return found if found.left(self.clock) * 3 > timedelta(days=DAYS) else None

    def issue(self, name: str, hosts: Sequence[str] = ()) -> Issued:
        """A new certificate with a new key. With `hosts`, names or addresses, it is one of a broker."""
        signer = serialization.load_pem_private_key(self._read(CA_KEY), None)
        issuer = x509.load_pem_x509_certificate(self.certificate)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        draft = (
            self._draft(_common_name(name), issuer.subject, key.public_key(), timedelta(days=DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if hosts:
            draft = draft.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
        made = draft.sign(signer, hashes.SHA256())
        issued = Issued(name, made.public_bytes(serialization.Encoding.PEM), _pem(key))
        write_whole(self.folder / f"{name}.pem", issued.key + issued.certificate)
        return issued

    def listed(self) -> list[Issued]:
        """All certificates in the folder, by name, expired ones too, without their keys."""
        return [
            Issued(p.stem, x509.load_pem_x509_certificate(p.read_bytes()).public_bytes(serialization.Encoding.PEM), b"")
            for p in sorted(self.folder.glob("*.pem"))
        ]

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as e:
            raise ConfigError(
                f"{self.folder / name} cannot be read ({e.strerror}): make the fleet's authority with  pipeline certs init , "
                "or copy the folder from the machine that has it"
            ) from e

    def _draft(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
    ) -> x509.CertificateBuilder:
        now = _now(self.clock)
        draft = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        draft = draft.serial_number(x509.random_serial_number())
        return draft.not_valid_before(now - EARLY).not_valid_after(now + life)


def principal(name: str) -> str:
    """What Kafka calls the bearer of a certificate."""
    return f"User:CN={name}"


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _now(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)
