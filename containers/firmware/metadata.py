"""The signed metadata of the firmware repository: read, signed with the keys that are here, written (TUF 1.0.34).

    root, targets        3 keys each, of which 2 must sign; offline
    MODEL                signs the images of one model, and no others; offline
    campaigns            signs which campaigns run; on the operator's machine
    snapshot, timestamp  one key, `online`, so that what is signed stays fresh; on the machine that publishes

Names of files hold versions and digests (consistent snapshots), and the timestamp is written last: whoever reads meanwhile, or
after a power cut, sees all of the old state or all of the new one. Where a new root takes the online key away, what is between
the two files is refused by sites until the second is there; `pipeline firmware refresh` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, Metadata, MetaFile, Snapshot, Timestamp

from connectors.firmware.campaign import PLAN_ROLE
from containers.files import locked_folder, write_whole
from containers.repository.ring import Ring, name_of
from pipelines.clock import Clock
from pipelines.errors import ConfigError

DAYS = {"root": 730, "targets": 365, "snapshot": 30, "timestamp": 30}
DELEGATED_DAYS = 365
TOP = ("root", "targets", "snapshot", "timestamp")
Signed = Metadata[Any]
Made = Mapping[str, CryptoSigner]
"""New keys, by name."""


@dataclass(frozen=True)
class Repository:
    """The repository in `folder`, changed with the keys of `ring`."""

    folder: Path
    ring: Ring
    clock: Clock

    def models(self) -> list[str]:
        """Models that have a key."""
        return sorted(set(self.delegations().roles or ()) - {PLAN_ROLE})

    def delegations(self) -> Delegations:
        """Which keys sign the campaigns and the images of each model."""
        found = self.current("targets").signed.delegations
        assert found is not None
        return found  # type: ignore[no-any-return]  # Signed is of any kind

    def current(self, role: str) -> Signed:
        """The newest metadata of a role, as the timestamp says."""
        try:
            if role == "root":
                return self.root()
            timestamp = Metadata[Timestamp].from_file(str(self._metadata / "timestamp.json"))
            if role == "timestamp":
                return timestamp
            version = timestamp.signed.snapshot_meta.version
            snapshot = Metadata[Snapshot].from_file(str(self._metadata / f"{version}.snapshot.json"))
            if role == "snapshot":
                return snapshot
            version = snapshot.signed.meta[f"{role}.json"].version
            return Metadata.from_file(str(self._metadata / f"{version}.{role}.json"))
        except Exception as e:  # tuf: StorageError, DeserializationError; a role that was never there: KeyError
            raise ConfigError(
                f"{self.folder} is no firmware repository ({type(e).__name__}: {e}): make one with  pipeline firmware keys init"
            ) from e

    def locked(self) -> AbstractContextManager[None]:
        """Alone among those who change it; `ConfigError` if it is none."""
        self.current("timestamp")  # a folder that is not there cannot be locked
        return locked_folder(self.folder)

    def root(self) -> Signed:
        """The newest root."""
        newest = max(self._metadata.glob("*.root.json"), key=lambda p: int(p.name.partition(".")[0]))
        return Metadata.from_file(str(newest))

    def delegator(self, role: str) -> Signed:
        """What says which keys sign a role."""
        return self.root() if role in TOP else self.current("targets")

    def release(self, changed: Mapping[str, Signed], *, root: Signed | None = None, made: Made | None = None) -> None:
        """Sign and write what has changed, and then that it counts. `root`: one that takes the place of the newest."""
        made, done = made or {}, list[tuple[str, Signed]]()
        first = not (self._metadata / "timestamp.json").exists()
        snapshot = Metadata(Snapshot(meta={})) if first else self.current("snapshot")
        last = 0 if first else self.current("timestamp").signed.version
        top = root or self.root()
        if root:
            done.append(("root", self.follow(root, made)))
        for role, metadata in changed.items():
            by = top if role == "targets" else changed.get("targets") or self.current("targets")
            known = snapshot.signed.meta.get(f"{role}.json")
            version = known.version + 1 if known else 1
            done.append((role, self.signed(role, metadata, version, made, by)))
            snapshot.signed.meta[f"{role}.json"] = MetaFile(version)
        version = snapshot.signed.version + 1 if not first else 1
        done.append(("snapshot", self.signed("snapshot", snapshot, version, made, top)))
        timestamp = Metadata(Timestamp(snapshot_meta=MetaFile(version)))
        done.append(("timestamp", self.signed("timestamp", timestamp, last + 1, made, top)))
        self.write(done, made)

    def follow(self, root: Signed, made: Made) -> Signed:
        """A root, signed by as many keys as the one before it and itself ask for (5.3.4)."""
        version = root.signed.version
        return self.signed("root", root, version, made, *([self.root()] if version > 1 else []), root)

    def signed(self, role: str, metadata: Signed, version: int, made: Made, *by: Signed) -> Signed:
        """With all signatures that can be made; `ConfigError` if these are too few for one of those that say who must (`by`)."""
        names = {name for delegator in by for name in names_of(delegator, role)}
        metadata.signed.version, metadata.signed.expires = version, self.now() + lifetime(role)
        metadata.signatures.clear()
        signers = [*(made[n] for n in sorted(names & made.keys())), *self.ring.signers(names - made.keys())]
        for signer in signers:
            metadata.sign(signer, append=True)
        for delegator in by:
            result = delegator.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            if not result:
                raise ConfigError(
                    f"{len(result.signed)} keys for {role} are here and {result.threshold} of "
                    f"{', '.join(names_of(delegator, role))} must sign: name key files on other media with  "
                    "--key /media/stick/NAME.key  (nothing has been changed)"
                )
        return metadata

    def write(self, done: list[tuple[str, Signed]], made: Made) -> None:
        """Keys before what needs them; files that nobody reads yet, then a root, then the timestamp."""
        for folder in (self.ring.folder, self._metadata):
            folder.mkdir(parents=True, exist_ok=True)
        for name, signer in made.items():
            self.ring.write(name, signer)
        late = {"root": 1, "timestamp": 2}
        for role, metadata in sorted(done, key=lambda d: late.get(d[0], 0)):
            name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
            write_whole(self._metadata / name, metadata.to_bytes(), mode=0o644)

    def now(self) -> datetime:
        """To the second, as metadata has it."""
        return datetime.fromtimestamp(self.clock.now_ns() // 10**9, UTC)

    @property
    def _metadata(self) -> Path:
        return self.folder / "metadata"


def lifetime(role: str) -> timedelta:
    """How long metadata of a role counts."""
    return timedelta(days=DAYS.get(role, DELEGATED_DAYS))


def names_of(delegator: Signed, role: str) -> list[str]:
    """Names of the keys that sign a role."""
    found = delegator.signed.get_delegated_role(role).keyids
    return [name_of(delegator.signed.get_key(keyid)) for keyid in found]


def counts(delegator: Signed, role: str, metadata: Signed) -> bool:
    """Whether enough of the keys have signed it."""
    return bool(delegator.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures))
