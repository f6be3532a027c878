"""The firmware repository: a folder with TUF metadata and targets, to be brought to any static web server (TUF 1.0.34).

    root, targets        3 keys each, of which 2 must sign; offline
    MODEL                signs the images of one model, and no others; offline
    campaigns            signs which campaigns run; on the operator's machine
    snapshot, timestamp  one key, so that what is signed stays fresh; on the machine that publishes

Names of files hold versions and digests (consistent snapshots), and the timestamp is written last: whoever reads meanwhile, or
after a power cut, sees all of the old state or all of the new one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from connectors.firmware.campaign import PLAN_PATH, PLAN_ROLE, Campaign, Plan, decode
from connectors.firmware.manifest import NAME, Manifest, image_of
from containers.files import locked_folder, write_whole
from containers.repository.ring import KEY_NAME, Ring, name_of
from pipelines.clock import Clock
from pipelines.errors import BadData, ConfigError

OFFLINE_KEYS, THRESHOLD = 3, 2
DAYS = {"root": 730, "targets": 365, "snapshot": 30, "timestamp": 30}
DELEGATED_DAYS = 365
TOP = ("root", "targets", "snapshot", "timestamp")
Signed = Metadata[Any]


@dataclass(frozen=True)
class Shelf:
    """The repository in `folder`, changed with the keys of `ring`."""

    folder: Path
    ring: Ring
    clock: Clock

    def init(self) -> list[str]:
        """Make the keys and an empty repository; the names of the keys."""
        if (self._metadata / "timestamp.json").exists():
            raise ConfigError(
                f"{self.folder} is a firmware repository already: sites trust it; move it away to begin anew"
            )
        made = {
            f"{role}-{n}": _generated(f"{role}-{n}") for role in ("root", "targets") for n in range(1, OFFLINE_KEYS + 1)
        }
        made |= {name: _generated(name) for name in ("online-1", f"{PLAN_ROLE}-1")}
        root = Root(consistent_snapshot=True)
        for name, signer in made.items():
            for role in {"online": ("snapshot", "timestamp"), PLAN_ROLE: ()}.get(name.rpartition("-")[0], (name[:-2],)):
                root.add_key(signer.public_key, role)
        root.roles["root"].threshold = root.roles["targets"].threshold = THRESHOLD
        targets = Targets(delegations=Delegations({}, {}))
        _delegate(targets, PLAN_ROLE, [PLAN_PATH], made[f"{PLAN_ROLE}-1"])
        for folder in (self.ring.folder, self._metadata):
            folder.mkdir(parents=True, exist_ok=True)
        for name, signer in made.items():
            self.ring.write(name, signer)
        new = {
            role: [s for n, s in made.items() if n.startswith(f"{role}-")] for role in ("root", "targets", PLAN_ROLE)
        }
        new |= {role: [made["online-1"]] for role in ("snapshot", "timestamp")}
        self._write(self._signed("root", Metadata(root), Metadata(root), 1, new["root"]), "root")
        self._release({"targets": Metadata(targets), PLAN_ROLE: Metadata(Targets())}, new)
        return list(made)

    def add_model(self, model: str) -> str:
        """Make a key for the images of a model; its name. Needs the targets keys."""
        targets = self._current("targets")
        if not NAME.fullmatch(model) or model in (*TOP, PLAN_ROLE):
            raise ConfigError(f"model {model!r} cannot be used: write lower-case letters, digits, '-' and '_'")
        if model in self.models():
            raise ConfigError(f"model {model} has a key already")
        signer = _generated(f"model-{model}-1")
        _delegate(targets.signed, model, [f"{model}/*/*"], signer)
        self._release({"targets": targets, model: Metadata(Targets())}, {model: [signer]})
        self.ring.write(f"model-{model}-1", signer)
        return f"model-{model}-1"

    def models(self) -> list[str]:
        """Models that have a key."""
        return sorted(set(self._delegations().roles or ()) - {PLAN_ROLE})

    def images(self, model: str) -> dict[str, TargetFile]:
        """What is signed for a model, by path."""
        if model not in self.models():
            known = ", ".join(self.models()) or "none yet"
            raise ConfigError(
                f"model {model!r} is not known ({known}): add it with  pipeline firmware keys add-model {model}"
            )
        found: dict[str, TargetFile] = self._current(model).signed.targets
        return found

    def find(self, model: str, version: str) -> str:
        """The path of a version's image."""
        found = [path for path in self.images(model) if path.startswith(f"{model}/{version}/")]
        if not found:
            raise ConfigError(f"{model} {version} is not published: do that with  pipeline firmware publish")
        return found[0]

    def publish(self, file: Path, manifest: Manifest) -> str:
        """Sign an image; its path. Needs the model's key. `ConfigError` if it could not be a newer version."""
        images = self.images(manifest.model)
        try:
            content = file.read_bytes()
        except OSError as e:
            raise ConfigError(f"{file} cannot be read: {e.strerror}") from e
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", file.name):
            raise ConfigError(f"{file.name!r}: name the file with letters, digits and . _ - only")
        path = f"{manifest.model}/{manifest.version}/{file.name}"
        target = TargetFile(len(content), {"sha256": hashlib.sha256(content).hexdigest()}, path)
        target.unrecognized_fields["custom"] = msgspec.to_builtins(manifest)
        _check(path, target, images)
        with locked_folder(self.folder):
            changed = self._current(manifest.model)
            changed.signed.targets[path] = target
            self._put(path, content)
            self._release({manifest.model: changed})
        return path

    def plan(self) -> Plan:
        """The plan that is signed."""
        target = self._current(PLAN_ROLE).signed.targets.get(PLAN_PATH)
        if target is None:
            return Plan(counter=0)
        return decode((self._targets / f"{target.hashes['sha256']}.{PLAN_PATH}").read_bytes())

    def change_plan(self, edit: Callable[[tuple[Campaign, ...]], Iterable[Campaign]]) -> Plan:
        """Sign what `edit` makes of the campaigns as the next plan. Needs the campaigns key."""
        with locked_folder(self.folder):
            old = self.plan()
            new = Plan(counter=old.counter + 1, campaigns=tuple(edit(old.campaigns)))
            self._put_plan(new)
            return new

    def _put_plan(self, plan: Plan) -> None:
        content = plan.encode()
        try:
            decode(content)
        except BadData as e:
            raise ConfigError(str(e)) from e
        changed = self._current(PLAN_ROLE)
        digest = hashlib.sha256(content).hexdigest()
        changed.signed.targets = {PLAN_PATH: TargetFile(len(content), {"sha256": digest}, PLAN_PATH)}
        self._put(PLAN_PATH, content)
        self._release({PLAN_ROLE: changed})

    def refresh(self) -> datetime:
        """Sign anew that all this is the newest there is; until when. Needs the online key alone."""
        with locked_folder(self.folder):
            return self._release({})

    @property
    def _metadata(self) -> Path:
        return self.folder / "metadata"

    @property
    def _targets(self) -> Path:
        return self.folder / "targets"

    def _delegations(self) -> Delegations:
        found = self._current("targets").signed.delegations
        assert found is not None
        return found  # type: ignore[no-any-return]  # Signed is of any kind

    def _current(self, role: str) -> Signed:
        """The newest metadata of a role, as the timestamp says."""
        try:
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

    def _root(self) -> Signed:
        newest = max(self._metadata.glob("*.root.json"), key=lambda p: int(p.name.partition(".")[0]))
        return Metadata.from_file(str(newest))

    def _release(self, changed: Mapping[str, Signed], new: Mapping[str, list[CryptoSigner]] | None = None) -> datetime:
        """Sign and write what has changed, and then that it counts; until when. `new`: roles that begin, with their keys."""
        new, root = new or {}, self._root()
        delegator = changed.get("targets") or self._current("targets")
        done = []

        def sign(role: str, by: Signed, metadata: Signed) -> None:
            version = 1 if role in new else self._current(role).signed.version + 1
            done.append((role, self._signed(role, by, metadata, version, new.get(role))))

        for role, metadata in changed.items():
            sign(role, root if role == "targets" else delegator, metadata)
        snapshot = Metadata(Snapshot()) if "snapshot" in new else self._current("snapshot")
        snapshot.signed.meta |= {f"{role}.json": MetaFile(metadata.signed.version) for role, metadata in done}
        sign("snapshot", root, snapshot)
        sign("timestamp", root, Metadata(Timestamp(snapshot_meta=MetaFile(snapshot.signed.version))))
        for role, metadata in done:
            self._write(metadata, role)
        expires: datetime = min(metadata.signed.expires for _, metadata in done)
        return expires

    def _signed(
        self, role: str, by: Signed, metadata: Signed, version: int, signers: Iterable[CryptoSigner] | None = None
    ) -> Signed:
        """With all signatures that can be made here; `ConfigError` if these are too few."""
        delegated = by.signed.get_delegated_role(role)
        names = [name_of(by.signed.get_key(keyid)) for keyid in delegated.keyids]
        now = datetime.fromtimestamp(self.clock.now_ns() // 10**9, UTC)
        metadata.signed.version = version
        metadata.signed.expires = now + timedelta(days=DAYS.get(role, DELEGATED_DAYS))
        metadata.signatures.clear()
        for signer in signers or self.ring.signers(names):
            metadata.sign(signer, append=True)
        try:
            by.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError as e:
            raise ConfigError(
                f"{len(metadata.signatures)} keys for {role} are here and {delegated.threshold} of {', '.join(names)} must sign: "
                "name key files on other media with  --key /media/stick/NAME.key  (nothing has been changed)"
            ) from e
        return metadata

    def _write(self, metadata: Signed, role: str) -> None:
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        write_whole(self._metadata / name, metadata.to_bytes(), mode=0o644)

    def _put(self, path: str, content: bytes) -> None:
        folder, _, name = path.rpartition("/")
        place = self._targets / folder
        place.mkdir(parents=True, exist_ok=True)
        write_whole(place / f"{hashlib.sha256(content).hexdigest()}.{name}", content, mode=0o644)


def _generated(name: str) -> CryptoSigner:
    signer = CryptoSigner.generate_ed25519()
    signer.public_key.unrecognized_fields[KEY_NAME] = name
    return signer


def _delegate(targets: Targets, role: str, paths: list[str], signer: CryptoSigner) -> None:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles[role] = DelegatedRole(role, [], 1, True, paths)
    targets.add_key(signer.public_key, role)


def _check(path: str, target: TargetFile, images: Mapping[str, TargetFile]) -> None:
    """`ConfigError` if what is to be signed makes no sense beside what is signed already."""
    try:
        new = image_of(path, target.length, target.hashes, target.custom).manifest
    except BadData as e:
        raise ConfigError(str(e)) from e
    for other in images.values():
        old = msgspec.convert(other.custom, Manifest)
        if old.version == new.version:
            raise ConfigError(f"{new.model} {new.version} is published already: give the image another version")
        if set(old.hardware) & set(new.hardware) and new.security_version < old.security_version:
            raise ConfigError(
                f"security version {new.security_version} is below {old.security_version} of {old.version}: devices with that "
                "would refuse it; give the same or a higher one"
            )
