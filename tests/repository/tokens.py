"""A server of bearer tokens, as the registry's token authentication wants them."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from containers.repository.auth import Credentials
from pipelines.clock import SystemClock
from tests.repository.faults import reply, server

SERVICE, ISSUER = "bed", "bed-tokens"


@dataclass
class Tokens:
    """Gives those who know the password what they ask for; `scopes` is what was asked."""

    credentials: Credentials
    folder: Path
    scopes: list[str] = field(default_factory=list)
    life_s: int = 300
    realm: str = ""

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
        now = datetime.fromtimestamp(SystemClock().now_ns() / 1e9, UTC)
        draft = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self._key.public_key())
        draft = (
            draft.serial_number(1).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        )
        self._certificate = draft.sign(self._key, hashes.SHA256())
        (self.folder / "tokens.pem").write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def settings(self) -> dict[str, str]:
        """What the registry must know."""
        bundle = str(self.folder / "tokens.pem")
        return {"realm": self.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        if request.headers.get("Authorization") != self.credentials.header:
            return reply(request, 401)
        asked = parse_qs(urlsplit(request.path).query)
        self.scopes += asked.get("scope", [])
        return reply(request, 200, json.dumps({"token": self._token(asked.get("scope", []))}).encode())

    def _token(self, scopes: list[str]) -> str:
        now = SystemClock().now_ns() // 10**9
        asked = [scope.split(":") for scope in scopes]
        access = [{"type": kind, "name": name, "actions": actions.split(",")} for kind, name, actions in asked]
        claims = {"iss": ISSUER, "sub": "bed", "aud": SERVICE, "nbf": now - 60, "iat": now, "exp": now + self.life_s,
                  "jti": secrets.token_hex(8), "access": access}  # fmt: skip
        der = base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        parts = [_b64(json.dumps(p).encode()) for p in ({"typ": "JWT", "alg": "ES256", "x5c": [der]}, claims)]
        r, s = decode_dss_signature(self._key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
        return ".".join([*parts, _b64(r.to_bytes(32) + s.to_bytes(32))])


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@contextmanager
def token_server(folder: Path, credentials: Credentials) -> Iterator[Tokens]:
    """A running one."""
    tokens = Tokens(credentials, folder)
    with server(tokens.answer) as host:
        tokens.realm = f"http://{host}/token"
        yield tokens
