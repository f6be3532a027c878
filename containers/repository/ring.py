"""Private keys in a folder: NAME.key for each, plain and readable by its owner alone, or locked with a passphrase."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key

from containers.files import write_whole
from containers.repository import seal
from pipelines.errors import ConfigError

KEY_NAME = "x-sitestream-name"  # of a key in a root


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of NAME.key. `plain` is the private key as PEM, or `locked` the same by `seal.lock`."""

    name: str
    plain: bytes = b""
    locked: bytes = b""


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

    def write(self, name: str, signer: CryptoSigner) -> None:
        """Keep a new key."""
        private = signer.private_bytes
        lock = self.passphrase
        file = KeyFile(name, locked=seal.lock(lock, private)) if lock else KeyFile(name, plain=private)
        write_whole(self.folder / f"{name}.key", msgspec.json.encode(file))


def name_of(key: Key) -> str:
    """What people call a key."""
    return str(key.unrecognized_fields.get(KEY_NAME, key.keyid[:8]))
