"""Who signs what of the firmware repository, and how that changes: by a new root, or by new targets metadata.

A key is exchanged or taken away where it is named: root, targets and online keys in the root, those of campaigns and models in
the targets metadata. Then it counts no more, and with it all that enough other keys have not signed (TUF 6.1). What lies in the
repository is signed anew with the keys that are left, for whoever changes keys vouches for it; a model that loses its only key
loses its images, until somebody publishes them anew.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from connectors.firmware.campaign import PLAN_PATH, PLAN_ROLE
from connectors.firmware.manifest import NAME
from containers.firmware.metadata import TOP, Made, Repository, Signed, counts, lifetime, names_of
from containers.repository.ring import KEY_NAME, Listed, find, name_of, require_others, require_room
from pipelines.errors import ConfigError

OFFLINE_KEYS, THRESHOLD = 3, 2
RENEWED_IN_LAST = 3  # third of the time for which metadata counts
KINDS = {"root": ("root",), "targets": ("targets",), "online": ("snapshot", "timestamp")}  # of keys in a root


@dataclass(frozen=True)
class Standing:
    """Metadata that counts."""

    role: str
    version: int
    expires: datetime
    signed_by: tuple[str, ...]
    threshold: int
    keys: tuple[str, ...]  # that may sign it


@dataclass(frozen=True)
class Renewed:
    """What was signed anew besides snapshot and timestamp, until when all counts, and what only keys elsewhere can prolong."""

    until: datetime
    roles: tuple[str, ...]
    waiting: tuple[Standing, ...]


@dataclass(frozen=True)
class Keys(Repository):
    """The keys of a repository."""

    def init(self) -> list[str]:
        """Make the keys and an empty repository; the names of the keys."""
        if (self._metadata / "timestamp.json").exists():
            raise ConfigError(
                f"{self.folder} is a firmware repository already: sites trust it; move it away to begin anew"
            )
        made = {
            f"{kind}-{n}": _generated(f"{kind}-{n}") for kind in ("root", "targets") for n in range(1, OFFLINE_KEYS + 1)
        }
        made |= {name: _generated(name) for name in ("online-1", f"{PLAN_ROLE}-1")}
        root = Root(consistent_snapshot=True)
        for name, signer in made.items():
            for role in KINDS.get(name[:-2], ()):
                root.add_key(signer.public_key, role)
        root.roles["root"].threshold = root.roles["targets"].threshold = THRESHOLD
        targets = Targets(delegations=Delegations({}, {}))
        _delegate(targets, PLAN_ROLE, [PLAN_PATH], made[f"{PLAN_ROLE}-1"])
        self.release({"targets": Metadata(targets), PLAN_ROLE: Metadata(Targets())}, root=Metadata(root), made=made)
        return list(made)

    def add_model(self, model: str) -> str:
        """Make a key for the images of a model; its name. Needs the targets keys."""
        if not NAME.fullmatch(model) or model in (*TOP, *KINDS, PLAN_ROLE):
            raise ConfigError(f"model {model!r} cannot be used: write lower-case letters, digits, '-' and '_'")
        if model in self.models():
            raise ConfigError(f"model {model} has a key already: for one more, run  pipeline firmware keys add {model}")
        with self.locked():
            targets, name = self.current("targets"), self._free_name(f"model-{model}")
            signer = _generated(name)
            _delegate(targets.signed, model, [f"{model}/*/*"], signer)
            self.release({"targets": targets, model: Metadata(Targets())}, made={name: signer})
        return name

    def add(self, role: str) -> str:
        """Make one more key: root, targets, online, campaigns, or of a model; its name."""
        if role not in (*KINDS, PLAN_ROLE, *self.models()):
            known = ", ".join((*KINDS, PLAN_ROLE, *self.models()))
            raise ConfigError(f"no key signs {role!r}: there are keys for {known}; add-model makes one for a new model")
        with self.locked():
            require_room(sum(key.role == role for key in self.listed()))
            return self._exchange(role, None)

    def rotate(self, name: str) -> str:
        """Put a new key in place of one; the name of the new one. What the old one has signed is signed anew."""
        with self.locked():
            old = find(self.listed(), name)
            return self._exchange(old.role, old)

    def revoke(self, name: str) -> bool:
        """Let a key count no more. Whether it was the only one of a model, whose images count no more."""
        with self.locked():
            old = find(self.listed(), name)
            role = self._roles(old.role)[0]
            found = self.delegator(role).signed.get_delegated_role(role)
            if last := old.role in self.models() and len(found.keyids) <= found.threshold:
                targets = self.current("targets")
                targets.signed.revoke_key(old.keyid, role)
                del targets.signed.delegations.roles[role]
                self.release({"targets": targets})  # the snapshot goes on naming it (5.5.5), so that its version grows
            else:
                require_others(old, len(found.keyids), found.threshold, "pipeline firmware keys")
                self._change(old.role, old, {})
            return last

    def listed(self) -> list[Listed]:
        """All keys that count."""
        return self.ring.listed(
            (kind, by.get_key(keyid))
            for kind in (*KINDS, PLAN_ROLE, *self.models())
            for role in self._roles(kind)[:1]
            for by in [self.delegator(role).signed]
            for keyid in by.get_delegated_role(role).keyids
        )

    def standings(self) -> list[Standing]:
        """How all metadata stands."""
        return [self._standing(role) for role in (*TOP, PLAN_ROLE, *self.models())]

    def refresh(self) -> Renewed:
        """Sign anew that all this is the newest there is, and what is in its last third or does not count, as far as the keys
        for it are here. Needs the online key at least.
        """
        with self.locked():
            due = [s for s in self.standings() if self._is_due(s)]
            here = self.ring.files().keys()
            able = [s.role for s in due if len(here & set(s.keys)) >= s.threshold]
            root = self._next_root() if "root" in able else None
            self.release({role: self.current(role) for role in able if role != "root"}, root=root)
        waiting = tuple(s for s in due if s.role not in able)
        return Renewed(min(s.expires for s in self.standings()), tuple(able), waiting)

    def _is_due(self, standing: Standing) -> bool:
        """Whether something is to be signed anew that is not in any case."""
        late = (standing.expires - self.now()) * RENEWED_IN_LAST < lifetime(standing.role)
        void = len(standing.signed_by) < standing.threshold
        return standing.role not in KINDS["online"] and (late or void)

    def _standing(self, role: str) -> Standing:
        metadata, by = self.current(role), self.delegator(role)
        found = by.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        return Standing(
            role, metadata.signed.version, metadata.signed.expires, tuple(sorted(map(name_of, found.signed.values()))),
            found.threshold, tuple(names_of(by, role)),
        )  # fmt: skip

    def _exchange(self, kind: str, old: Listed | None) -> str:
        """A new key beside the others, or in place of one; its name."""
        name = self._free_name(f"model-{kind}" if kind in self.models() else kind)
        self._change(kind, old, {name: _generated(name)})
        return name

    def _change(self, kind: str, old: Listed | None, made: Made) -> None:
        """Name other keys for what keys of a kind sign, and sign anew what then counts no more."""
        roles = self._roles(kind)
        by = self._next_root() if kind in KINDS else self.current("targets")
        for role in roles:
            if old:
                by.signed.revoke_key(old.keyid, role)
            for signer in made.values():
                by.signed.add_key(signer.public_key, role)
        void = {r: m for r in roles if r != "root" and not counts(by, r, m := self.current(r))}
        if kind not in KINDS:
            self.release({"targets": by, **void}, made=made)
        elif void:
            self.release({r: m for r, m in void.items() if r == "targets"}, root=by, made=made)
        else:  # the keys of others need not be at hand
            self.write([("root", self.follow(by, made))], made)

    def _next_root(self) -> Signed:
        root = copy.deepcopy(self.root())
        root.signed.version += 1
        return root

    def _roles(self, kind: str) -> tuple[str, ...]:
        """What keys of a kind sign."""
        return KINDS.get(kind, (kind,))

    def _free_name(self, kind: str) -> str:
        published = [p.read_text() for role in ("root", "targets") for p in self._metadata.glob(f"*.{role}.json")]
        return self.ring.free_name(kind, "".join(published))


def _generated(name: str) -> CryptoSigner:
    signer = CryptoSigner.generate_ed25519()
    signer.public_key.unrecognized_fields[KEY_NAME] = name
    return signer


def _delegate(targets: Targets, role: str, paths: list[str], signer: CryptoSigner) -> None:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles[role] = DelegatedRole(role, [], 1, True, paths)
    targets.add_key(signer.public_key, role)
