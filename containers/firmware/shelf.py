"""The firmware repository: a folder with TUF metadata and targets, to be brought to any static web server.

Here are its targets: images, and the plan of campaigns. `containers.firmware.keys` says who signs them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tuf.api.metadata import TargetFile

from connectors.firmware.campaign import PLAN_PATH, PLAN_ROLE, Campaign, Plan, decode
from connectors.firmware.manifest import Manifest, image_of
from containers.files import write_whole
from containers.firmware.keys import Keys
from containers.firmware.metadata import Repository
from pipelines.errors import BadData, ConfigError


@dataclass(frozen=True)
class Shelf(Repository):
    """What is signed in a repository."""

    @property
    def keys(self) -> Keys:
        """Its keys."""
        return Keys(self.folder, self.ring, self.clock)

    def images(self, model: str) -> dict[str, TargetFile]:
        """What is signed for a model, by path."""
        if model not in self.models():
            known = ", ".join(self.models()) or "none yet"
            raise ConfigError(
                f"model {model!r} is not known ({known}): add it with  pipeline firmware keys add-model {model}"
            )
        found: dict[str, TargetFile] = self.current(model).signed.targets
        return found

    def manifest(self, model: str, path: str) -> Manifest | None:
        """What is signed of an image; None if it is signed no more."""
        target = self.images(model).get(path) if model in self.models() else None
        return msgspec.convert(target.custom, Manifest) if target else None

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
        with self.locked():
            changed = self.current(manifest.model)
            changed.signed.targets[path] = target
            self._put(path, content)
            self.release({manifest.model: changed})
        return path

    def plan(self) -> Plan:
        """The plan that is signed."""
        target = self.current(PLAN_ROLE).signed.targets.get(PLAN_PATH)
        if target is None:
            return Plan(counter=0)
        return decode((self._targets / f"{target.hashes['sha256']}.{PLAN_PATH}").read_bytes())

    def change_plan(self, edit: Callable[[tuple[Campaign, ...]], Iterable[Campaign]]) -> Plan:
        """Sign what `edit` makes of the campaigns as the next plan. Needs the campaigns key."""
        with self.locked():
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
        changed = self.current(PLAN_ROLE)
        digest = hashlib.sha256(content).hexdigest()
        changed.signed.targets = {PLAN_PATH: TargetFile(len(content), {"sha256": digest}, PLAN_PATH)}
        self._put(PLAN_PATH, content)
        self.release({PLAN_ROLE: changed})

    @property
    def _targets(self) -> Path:
        return self.folder / "targets"

    def _put(self, path: str, content: bytes) -> None:
        folder, _, name = path.rpartition("/")
        place = self._targets / folder
        place.mkdir(parents=True, exist_ok=True)
        write_whole(place / f"{hashlib.sha256(content).hexdigest()}.{name}", content, mode=0o644)


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
