"""Who we are towards an OPC UA server, and who it must be: policies, certificates, passwords. No network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.crypto import security_policies
from asyncua.crypto.security_policies import SecurityPolicy, SecurityPolicyNone
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connectors.opcua import Security
from connectors.secrets import Secret
from pipelines.errors import ConfigError

APPLICATION_URI = "urn:sitestream:collect"


@dataclass(frozen=True)
class Identity:
    """Secrets of one source, read. `uri` is what our certificate says we are."""

    policy: SecurityPolicy
    uri: str
    username: str | None
    password: str | None

    @classmethod
    def of(
        cls,
        security: Security | None,
        username: str | None,
        password: Secret | None,
        secrets_dir: Path,
        uri: str = APPLICATION_URI,
    ) -> Identity:
        """Read the secrets; `ConfigError` if one is missing or is not what it should be. `uri` is who we say we are where no
        certificate does.
        """
        said = password.read(secrets_dir) if password else None
        if security is None:
            return cls(SecurityPolicyNone(), uri, username, said)
        policy, own = _policy(security, secrets_dir)
        return cls(policy, _uri(own) or uri, username, said)

    @property
    def expects(self) -> bytes | None:
        """The server's certificate (DER), if it must be a certain one."""
        return self.policy.peer_certificate if self.policy.Mode != ua.MessageSecurityMode.None_ else None


def _policy(security: Security, secrets_dir: Path) -> tuple[SecurityPolicy, x509.Certificate]:
    own = _certificate(security.certificate, secrets_dir)
    server = _certificate(security.server_certificate, secrets_dir)
    key = _key(security.key, secrets_dir)
    if _public(own.public_key()) != _public(key.public_key()):
        raise ConfigError(
            f"secret {security.key.name!r} is not the key of the certificate in "
            f"{security.certificate.name!r}: they belong together"
        )
    kind = getattr(security_policies, f"SecurityPolicy{security.policy}")
    return kind(server, own, key, ua.MessageSecurityMode[security.mode]), own


def _certificate(secret: Secret, secrets_dir: Path) -> x509.Certificate:
    data = secret.file(secrets_dir).read_bytes()
    try:
        pem = data.lstrip().startswith(b"-----")
        found = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
    except ValueError as e:
        raise ConfigError(f"secret {secret.name!r} holds no certificate in PEM or DER form: {e}") from e
    if not isinstance(found.public_key(), rsa.RSAPublicKey):
        raise ConfigError(
            f"secret {secret.name!r} holds a certificate without an RSA key, which OPC UA's policies need"
        )
    return found


def _key(secret: Secret, secrets_dir: Path) -> rsa.RSAPrivateKey:
    data = secret.file(secrets_dir).read_bytes()
    try:
        pem = data.lstrip().startswith(b"-----")
        load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
        found = load(data, None)
    except (ValueError, TypeError) as e:
        raise ConfigError(
            f"secret {secret.name!r} holds no private key in PEM or DER form without a password: {e}"
        ) from e
    if not isinstance(found, rsa.RSAPrivateKey):
        raise ConfigError(f"secret {secret.name!r} holds a key that is not RSA, which OPC UA's policies need")
    return found


def _public(key: Any) -> bytes:
    data: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def _uri(certificate: x509.Certificate) -> str:
    """The application's URI in a certificate, empty if there is none; servers compare it with the one that is said."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER) as `openssl x509 -fingerprint -sha256` writes it."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(certificate)
    return digest.finalize().hex(":").upper()


def first_certificate(der: bytes) -> bytes:
    """The first of a chain of certificates in DER form."""
    return der[: int.from_bytes(der[2:4], "big") + 4] if der[1:2] == b"\x82" else der
