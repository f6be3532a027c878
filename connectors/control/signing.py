"""Signatures of commands: Ed25519 over the command's canonical JSON and the site's name, so none is valid at two sites."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from connectors.control.commands import Command
from pipelines.errors import ConfigError

_DOMAIN = b"sitestream command 1\0"


def message(command: Command, site: str) -> bytes:
    """The bytes that are signed: all fields but the signature."""
    plain = msgspec.structs.replace(command, sig="")
    return _DOMAIN + site.encode() + b"\0" + msgspec.json.encode(plain, order="deterministic")


def signed(command: Command, site: str, key: SigningKey) -> Command:
    """The command with its signature."""
    return msgspec.structs.replace(command, sig=key.sign(message(command, site)).signature.hex())


def is_signed(command: Command, site: str, key: VerifyKey) -> bool:
    """Whether the command bears the signature of the key's owner."""
    try:
        key.verify(message(command, site), bytes.fromhex(command.sig))
    except (BadSignatureError, ValueError):
        return False
    return True


def public(key: SigningKey) -> str:
    """The public half, 64 hex digits, as `devices.toml` has it."""
    return bytes(key.verify_key).hex()


def verifier(text: str) -> VerifyKey:
    """From 64 hex digits."""
    return VerifyKey(bytes.fromhex(text))


def create(path: Path) -> SigningKey:
    """Make a key and keep it in a new file that only its owner can read; `ConfigError` if there is one."""
    key = SigningKey.generate()
    try:
        with contextlib.suppress(FileExistsError):  # what is there and no folder is told of below
            path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
            file.write(bytes(key).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as e:
        raise ConfigError(f"{path}: there is a key already: it is not overwritten") from e
    except OSError as e:
        raise ConfigError(f"{path}: the key cannot be written: {e.strerror}") from e
    return key


def load(path: Path) -> SigningKey:
    """Read a key; `ConfigError` if the file holds none."""
    try:
        return SigningKey(bytes.fromhex(path.read_text().strip()))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror}): make a key with `pipeline device keys new`") from e
    except ValueError as e:
        raise ConfigError(f"{path}: holds no key of 64 hex digits") from e


def own(folder: Path) -> SigningKey:
    """Control's own key, by which it knows its pipeline's commands; made at the first start."""
    path = folder / "control.key"
    return load(path) if path.exists() else create(path)
