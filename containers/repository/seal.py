"""Secrets that only one site can read (NaCl sealed boxes), and keys locked with a passphrase (Argon2id, NaCl secret boxes).

Sealing hides a secret; who sealed it is not said. It counts only inside a document whose statement is verified.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import nacl.exceptions
import nacl.pwhash.argon2id as argon2id
import nacl.secret
import nacl.utils
from nacl.public import PrivateKey, PublicKey, SealedBox

from pipelines.errors import ConfigError

PASSES, MEMORY_BYTES = (
    argon2id.OPSLIMIT_MODERATE,
    argon2id.MEMLIMIT_MODERATE,
)  # others would lock out the keys that exist


@dataclass(frozen=True)
class Pair:
    """A site's keys, base64. The public one stands in the fleet's files; the private one never leaves the site."""

    public: str
    private: str = field(repr=False)


def generate() -> Pair:
    """A new pair of keys."""
    key = PrivateKey.generate()
    return Pair(_text(bytes(key.public_key)), _text(bytes(key)))


def seal(public: str, content: bytes) -> bytes:
    """Hide `content` from all but the owner of the private key. Each call gives other bytes. `ConfigError` if it is no key."""
    return SealedBox(PublicKey(_key(public, "public"))).encrypt(content)


def open(private: str, sealed: bytes) -> bytes:
    """What was sealed; `ConfigError` if it was sealed for another key, or is damaged."""
    key = PrivateKey(_key(private, "private"))
    try:
        return SealedBox(key).decrypt(sealed)
    except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError, nacl.exceptions.TypeError) as e:
        raise ConfigError(
            "a secret was sealed for another key than this site's, or is damaged: put this site's public key, "
            f"{_text(bytes(key.public_key))}, into the fleet's files and deploy again"
        ) from e


def lock(passphrase: bytes, content: bytes) -> bytes:
    """Hide `content` behind a passphrase; guessing costs a quarter of a gigabyte and about a second a try."""
    salt = nacl.utils.random(argon2id.SALTBYTES)
    return salt + nacl.secret.SecretBox(_derived(passphrase, salt)).encrypt(content)


def unlock(passphrase: bytes, locked: bytes) -> bytes:
    """What was locked; `ConfigError` if the passphrase is another one."""
    salt, box = locked[: argon2id.SALTBYTES], locked[argon2id.SALTBYTES :]
    try:
        return nacl.secret.SecretBox(_derived(passphrase, salt)).decrypt(box)
    except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError) as e:
        raise ConfigError("the passphrase is not the right one, or the key is damaged") from e


def _derived(passphrase: bytes, salt: bytes) -> bytes:
    return argon2id.kdf(nacl.secret.SecretBox.KEY_SIZE, passphrase, salt, PASSES, MEMORY_BYTES)


def _key(text: str, which: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != PublicKey.SIZE:  # the text is not shown: it may be the private key
        raise ConfigError(f"this is no {which} key of a site: 44 characters of base64 are expected")
    return key


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
