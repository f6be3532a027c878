"""Who a site is: one pair of keys to which secrets are sealed, one with which it signs its reports. Pure.

Both are made at the site; the private halves never leave it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import nacl.exceptions
from nacl.signing import SigningKey, VerifyKey

from containers.repository import seal
from pipelines.errors import ConfigError


@dataclass(frozen=True)
class Identity:
    """A site's keys, base64."""

    sealing: seal.Pair
    signing: str = field(repr=False)

    @property
    def public(self) -> str:
        """What the fleet's files say of it: 'sealing:signing', the public halves."""
        verify = SigningKey(base64.b64decode(self.signing)).verify_key
        return f"{self.sealing.public}:{base64.b64encode(bytes(verify)).decode()}"

    def sign(self, content: bytes) -> bytes:
        """A signature (Ed25519)."""
        return SigningKey(base64.b64decode(self.signing)).sign(content).signature


def generate() -> Identity:
    """A new one."""
    return Identity(seal.generate(), base64.b64encode(bytes(SigningKey.generate())).decode())


def sealing_key(public: str) -> str:
    """The half of a site's public keys to which secrets are sealed."""
    return public.partition(":")[0]


def signed_by(public: str, content: bytes, signature: bytes) -> bool:
    """Whether the site with these public keys signed `content`; `ConfigError` if they are none."""
    try:
        key = VerifyKey(base64.b64decode(public.partition(":")[2], validate=True))
    except (ValueError, nacl.exceptions.ValueError, nacl.exceptions.TypeError) as e:
        raise ConfigError("this is no public key of a site: take it from  pipeline agent enrol") from e
    try:
        key.verify(content, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
        return False
    return True
