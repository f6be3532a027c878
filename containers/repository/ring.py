"""Private keys in a folder: NAME.key for each, plain and readable by its owner alone, or locked with a passphrase."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key

from containers.files import write_whole
from containers.repository import seal
from pipelines.errors import ConfigError

KEY_NAME = "x-sitestream-name"  # of a key in a root
KEYS_MAX = 32  # of one role


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of NAME.key. `plain` is the private key as PEM, or `locked` the same by `seal.lock`."""

    name: str
    plain: bytes = b""
    locked: bytes = b""


@dataclass(frozen=True)
class Listed:
    """A key that counts."""

    name: str
    role: str
    keyid: str
    kept: Literal["plain", "locked", "elsewhere"]


@dataclass(frozen=True)
class Ring:
    """The keys in a folder. `passphrase` unlocks those that are locked, and locks new ones; `extra`: key files elsewhere."""

    folder: Path
    passphrase: bytes = b""
    extra: Sequence[Path] = ()

    def signers(self, names: Iterable[str]) -> list[CryptoSigner]:
        """Those of these names that are here."""
        files = self.files()
        return [self._signer(files[name]) for name in sorted(names) if name in files]

    def files(self) -> dict[str, KeyFile]:
        """All that are here, by name."""
        found = {}
        for path in (*sorted(self.folder.glob("*.key")), *self.extra):
            try:
                file = msgspec.json.decode(path.read_bytes(), type=KeyFile)
            except OSError as e:
                raise ConfigError(f"{path} cannot be read ({e.strerror}): name a key file that is there") from e
            except msgspec.MsgspecError as e:
                raise ConfigError(f"{path} is damaged, or no key file: bring back a copy of it") from e
            found[file.name] = file
        return found

    def _signer(self, file: KeyFile) -> CryptoSigner:
        private = file.plain
        if file.locked:
            if not self.passphrase:
                raise ConfigError(
                    f"{file.name} is locked: give its passphrase with  --passphrase file:PATH  or  env:NAME"
                )
            private = seal.unlock(self.passphrase, file.locked)
        try:
            signer = CryptoSigner(load_pem_private_key(private, None))
        except ValueError as e:
            raise ConfigError(f"{file.name}.key is damaged ({e}): bring back a copy of it") from e
        signer.public_key.unrecognized_fields[KEY_NAME] = file.name
        return signer

    def listed(self, keys: Iterable[tuple[str, Key]]) -> list[Listed]:
        """Keys, each with its role before it, and where their private halves are."""
        files = self.files()
        return [Listed(name := name_of(key), role, key.keyid, _kept(files.get(name))) for role, key in keys]

    def free_name(self, kind: str, published: str) -> str:
        """A name, such as 'root-4', that no key of this kind had here or in any of what was `published`."""
        form = re.escape(kind) + r"-\d+"
        names = [*(p.stem for p in self.folder.glob("*.key")), *re.findall(form, published)]
        taken = {int(n.rpartition("-")[2]) for n in names if re.fullmatch(form, n)}
        return f"{kind}-{max(taken, default=0) + 1}"

    def write(self, name: str, signer: CryptoSigner) -> None:
        """Keep a new key."""
        private = signer.private_bytes
        lock = self.passphrase
        file = KeyFile(name, locked=seal.lock(lock, private)) if lock else KeyFile(name, plain=private)
        write_whole(self.folder / f"{name}.key", msgspec.json.encode(file))


def name_of(key: Key) -> str:
    """What people call a key."""
    return str(key.unrecognized_fields.get(KEY_NAME, key.keyid[:8]))


def find(listed: Sequence[Listed], name: str) -> Listed:
    """The key of this name; `ConfigError` if none that counts has it."""
    found = next((key for key in listed if key.name == name), None)
    if found is None:
        raise ConfigError(f"no key {name} counts: there are {', '.join(key.name for key in listed)}")
    return found


def require_others(key: Listed, keys: int, threshold: int, command: str) -> None:
    """`ConfigError` if fewer than must sign would be left without this one of the `keys` of its role."""
    if keys <= threshold:
        raise ConfigError(
            f"{key.name} cannot be revoked: {threshold} {key.role} keys must sign, and there would be fewer: put another in its "
            f"place with  {command} rotate {key.name}"
        )


def require_room(keys: int) -> None:
    """`ConfigError` if a role can have no more keys."""
    if keys >= KEYS_MAX:
        raise ConfigError(f"there are {KEYS_MAX} keys of this kind already: revoke some")


def _kept(file: KeyFile | None) -> Literal["plain", "locked", "elsewhere"]:
    return "elsewhere" if file is None else "locked" if file.locked else "plain"
