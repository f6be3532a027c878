"""The fleet's keys: a folder with NAME.key for each private key that is here, and N.root.json for each root there ever was.

*root* keys say which keys count, and sign nothing else: they belong on media of their own, in a drawer. *release* keys sign
what is deployed. A change is a new root, signed by as many root keys as the old and the new root ask for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root

from containers.files import write_whole
from containers.repository.errors import BelowThreshold, UnknownKey
from containers.repository.ring import KEY_NAME, KEYS_MAX, Listed, Ring, find, name_of, require_others, require_room
from containers.repository.statement import (
    CREATED,
    RELEASE_ROLE,
    ROOT_BYTES_MAX,
    ROOT_ROLE,
    TIME_FORMAT,
    first_root,
    load,
    next_root,
    signed,
)
from pipelines.clock import Clock
from pipelines.errors import ConfigError

ROOT_DAYS = 730
Role = Literal["root", "release"]
ROLES: dict[str, str] = {"root": ROOT_ROLE, "release": RELEASE_ROLE}


@dataclass(frozen=True)
class Keys:
    """The keys in a folder. `passphrase` unlocks those that are locked, and locks new ones; `extra`: key files elsewhere."""

    folder: Path
    clock: Clock
    passphrase: bytes = b""
    extra: Sequence[Path] = ()

    def init(self, roots: int, threshold: int) -> list[str]:
        """Make `roots` root keys, of which `threshold` must sign, and one release key; the names of all."""
        if list(self.folder.glob("*.root.json")):
            raise ConfigError(f"{self.folder} has keys already: sites trust those; to begin anew, move the folder away")
        if not 1 <= threshold <= roots <= KEYS_MAX:
            raise ConfigError(f"{threshold} of {roots} root keys cannot be: write 1 of 1, 2 of 3, at most {KEYS_MAX}")
        made = {f"root-{i}": CryptoSigner.generate_ed25519() for i in range(1, roots + 1)}
        made["release-1"] = CryptoSigner.generate_ed25519()
        root = Root(1, expires=self._now())
        for name, signer in made.items():
            _add(root, name, signer.public_key)
        root.roles[ROOT_ROLE].threshold = threshold
        self._publish(root, made, made)
        return list(made)

    def add(self, role: Role) -> str:
        """Make one more key of a role; its name."""
        made = CryptoSigner.generate_ed25519()
        name = self._free_name(role)
        self._change(lambda root: _add(root, name, made.public_key), {name: made})
        return name

    def rotate(self, name: str) -> str:
        """Put a new key in place of one; the name of the new one. The old one's file is no longer needed."""
        old, made = find(self.listed(), name), CryptoSigner.generate_ed25519()
        new = self._free_name(old.role)

        def edit(root: Root) -> None:
            root.revoke_key(old.keyid, ROLES[old.role])
            _add(root, new, made.public_key)

        self._change(edit, {new: made})
        return new

    def revoke(self, name: str) -> None:
        """Let a key count no more."""
        old = find(self.listed(), name)

        def edit(root: Root) -> None:
            role = root.roles[ROLES[old.role]]
            require_others(old, len(role.keyids), role.threshold, "pipeline keys")
            root.revoke_key(old.keyid, ROLES[old.role])

        self._change(edit, {})

    def roots(self) -> list[bytes]:
        """All roots from version 1 on, as `artifact.put_roots` takes them."""
        found: list[bytes] = []
        while (path := self._root_path(len(found) + 1)).exists():
            found.append(path.read_bytes())
        if not found:
            raise ConfigError(
                f"{self.folder} has no keys: make them with  pipeline keys init , or copy the folder from the machine that has it"
            )
        return found

    def root(self) -> Root:
        """The newest root."""
        content = self.roots()[-1]
        return load(Root, content, ROOT_BYTES_MAX, f"the newest root in {self.folder}").signed

    def release_signers(self) -> list[CryptoSigner]:
        """The release keys that are here; `ConfigError` if they are fewer than must sign."""
        role = self.root().roles[RELEASE_ROLE]
        found = self.ring.signers([k.name for k in self.listed() if k.role == "release"])
        if len(found) < role.threshold:
            raise ConfigError(
                f"{len(found)} release keys are in {self.folder} and {role.threshold} must sign: bring release-N.key there"
            )
        return found

    def listed(self) -> list[Listed]:
        """All keys that count."""
        root = self.root()
        return self.ring.listed(
            (role, root.keys[keyid]) for role, tuf_role in ROLES.items() for keyid in root.roles[tuf_role].keyids
        )

    @property
    def ring(self) -> Ring:
        """The private keys that are here."""
        return Ring(self.folder, self.passphrase, self.extra)

    def _change(self, edit: Callable[[Root], None], made: dict[str, CryptoSigner]) -> None:
        old = self.root()
        new = copy.deepcopy(old)
        new.version += 1
        edit(new)
        names = {name_of(r.keys[keyid]) for r in (old, new) for keyid in r.roles[ROOT_ROLE].keyids}
        here = {name_of(signer.public_key): signer for signer in self.ring.signers(names)}
        self._publish(new, made, {**here, **{n: s for n, s in made.items() if n in names}})

    def _publish(self, root: Root, made: dict[str, CryptoSigner], signers: dict[str, CryptoSigner]) -> None:
        """Sign a root, check it as sites will, and write it and the new private keys."""
        root.unrecognized_fields[CREATED] = f"{self._now():{TIME_FORMAT}}"
        root.expires = self._now() + timedelta(days=ROOT_DAYS)
        content = signed(Metadata(root), [s for n, s in sorted(signers.items()) if n.startswith("root-")])
        try:
            next_root(first_root(self.roots()[-1]), content) if root.version > 1 else first_root(content)
        except (BelowThreshold, UnknownKey) as e:
            raise ConfigError(
                f"{e}: name root keys on other media with  --key /media/stick/root-2.key  (nothing has been changed)"
            ) from e
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, signer in made.items():
            self.ring.write(name, signer)
        write_whole(self._root_path(root.version), content, mode=0o644)

    def _free_name(self, role: str) -> str:
        return self.ring.free_name(role, b"".join(self.roots()).decode())

    def _root_path(self, version: int) -> Path:
        return self.folder / f"{version}.root.json"

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_ns() // 10**9, UTC)


def _add(root: Root, name: str, key: Key) -> None:
    role = ROLES["root" if name.startswith("root-") else "release"]
    require_room(len(root.roles[role].keyids))
    key.unrecognized_fields[KEY_NAME] = name
    root.add_key(key, role)
