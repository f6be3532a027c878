"""A plan on file: what was seen of each site and what was to become of it, so that nothing else is done later. No secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from containers.deployer import Deployment

VERSION = 1
DUE = "due"  # a part that is only known once it is made: a certificate not yet issued


class Expected(msgspec.Struct, frozen=True):
    """One site: its revision and containers as they were, the parts of each service as they shall be."""

    revision: int
    containers: dict[str, str]  # service -> id and drift
    wanted: dict[str, dict[str, str]]  # service -> part -> hash

    def check(self, site: str, now: Deployment) -> None:
        """`ConfigError` if a deploy would find or do anything else."""
        seen = expected(now)
        stale = ""
        if seen.revision != self.revision:
            stale = f"it has revision {seen.revision}, and had {self.revision}"
        elif seen.containers != self.containers:
            others = ", ".join(_differing(self.containers, seen.containers))
            stale = f"other containers run, or were changed by hand: {others}"
        elif changed := [s for s in {*self.wanted, *seen.wanted} if not _alike(self.wanted.get(s), seen.wanted.get(s))]:
            stale = f"files have changed that decide about {', '.join(sorted(changed))}"
        if stale:
            raise ConfigError(f"the saved plan is stale for site {site}: {stale}; plan again and look at it")


class SavedPlan(msgspec.Struct, frozen=True):
    """Of one site or many."""

    sites: dict[str, Expected]
    version: int = VERSION

    def save(self, path: Path) -> None:
        """Write it; `ConfigError` if that cannot be done."""
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")
        except OSError as e:
            raise ConfigError(f"{path}: cannot be written ({e.strerror}): name another file with --out") from e


def load(path: Path) -> SavedPlan:
    """Read one; `ConfigError` if it is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=SavedPlan)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror}): make it with  pipeline plan --out {path}") from e
    except msgspec.DecodeError as e:
        raise ConfigError(f"{path}: is no saved plan ({e}): make it with  pipeline plan --out {path}") from e
    if found.version != VERSION:
        raise ConfigError(f"{path}: was saved by another version of pipeline: plan again")
    return found


def expected(of: Deployment) -> Expected:
    """What a deployment finds and wants."""
    containers = {service: " ".join([c.id, *map(str, c.drift)]) for service, c in of.actual.current.items()}
    return Expected(of.actual.revision, containers, {d.service: dict(d.parts) for d in of.wanted})


def _alike(one: Mapping[str, str] | None, other: Mapping[str, str] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(one[p] == other[p] or DUE in (one[p], other[p]) for p in one)


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(s for s in {*one, *other} if one.get(s) != other.get(s))
