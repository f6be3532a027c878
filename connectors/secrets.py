"""Secrets by reference: a pipeline file names one, the service that needs it reads the file of that name."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Secret:
    """The name of a file in the site's `secrets_dir`; never its content."""

    name: str

    def file(self, secrets_dir: Path) -> Path:
        """Where it is; `ConfigError` if there is no such file."""
        path = secrets_dir / self.name
        if not path.is_file():
            raise ConfigError(f"secret {self.name!r} is missing: put it into the file {path}")
        return path

    def read(self, secrets_dir: Path) -> str:
        """Its content without the line end; `ConfigError` if it is missing or cannot be read."""
        path = self.file(secrets_dir)
        try:
            return path.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"secret {self.name!r} in {path} cannot be read: {e}") from e


def secret(name: str) -> Secret:
    """Refer to a secret by name: `password=secret("edge-mqtt")`."""
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"secret name {name!r} cannot be used: it is the plain name of a file in `secrets_dir`")
    return Secret(name)


def lines_of(text: str) -> list[str]:
    """A secret's lines, without empty ones and those that begin with #."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def digest(given: bytes) -> bytes:
    """What is kept of a token or password to know it again: its SHA-256."""
    return hashlib.sha256(given).digest()


def place_of(given: bytes, known: Sequence[bytes]) -> int | None:
    """The number of the digest that `given` has; None if none. All are compared, so that the time tells nothing."""
    mine, found = digest(given), None
    for number, one in enumerate(known):
        if hmac.compare_digest(mine, one):
            found = number
    return found


def trusted(ca: Secret | None, secrets_dir: Path) -> ssl.SSLContext:
    """TLS with servers that the CAs of a secret, or the system's, vouch for; `ConfigError` if it is missing or holds none."""
    try:
        return ssl.create_default_context(cafile=ca.file(secrets_dir) if ca else None)
    except ssl.SSLError as e:
        raise ConfigError(f"secret {ca.name if ca else ''!r} holds no CA certificates in PEM form: {e}") from e


def authorization(
    token: Secret | None, username: str | None, password: Secret | None, secrets_dir: Path
) -> dict[str, str]:
    """The header of HTTP that says who asks, none without an account; `ConfigError` if a secret is missing."""
    if token is not None:
        return {"Authorization": f"Bearer {token.read(secrets_dir)}"}
    if username is not None and password is not None:
        account = f"{username}:{password.read(secrets_dir)}".encode()
        return {"Authorization": f"Basic {base64.b64encode(account).decode()}"}
    return {}
