"""Deploy as decisions: what differs, what to swap, what follows upon what, what a broken-off deploy left to mend. No I/O.

A site's state is kept on its engine. Every deploy that succeeds writes one `Record`: revision -> container of each service; that
is its only commit point. Containers of the last revisions stay, stopped, so going back is starting them again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from containers import names
from containers.commands import Command, RemoveContainer, RemoveVolume, StartContainer, StopContainer
from containers.drift import Drift
from pipelines.errors import ConfigError
from pipelines.versions import Fate, Version, compare

if TYPE_CHECKING:  # else whoever reads a site would need what decides about it
    from containers.wanted import Desired

REVISIONS_KEPT = 3  # besides the running one
Mark = Literal["+", "~", "-", "="]


@dataclass(frozen=True)
class Container:
    """A container of a site as it is on the engine."""

    name: str
    id: str
    service: str
    revision: int
    fingerprint: str
    pipeline: str
    images: tuple[str, ...]  # tags of its own and of those under it
    config: str  # the volume with its settings and secrets
    state: str  # created | running | restarting | exited | dead | paused
    health: str  # healthy | unhealthy | starting
    exit_code: int
    restarts: int
    started_at: str  # ISO 8601
    address: str  # of its metrics on the bus: host:port, empty while it does not run
    parts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)  # of each stateful step
    drift: tuple[Drift, ...] = ()  # what somebody changed by hand

    @property
    def image(self) -> str:
        """Tag of its image."""
        return self.images[0]

    @property
    def trouble(self) -> str:
        """Why it cannot be left as it is; empty if it can."""
        if self.state == "exited":
            return f"exited with code {self.exit_code}"
        if self.state != "running":
            return f"is {self.state}"
        return "is unhealthy" if self.health == "unhealthy" else ""


@dataclass(frozen=True)
class Record:
    """A revision of a site: which container runs each service."""

    revision: int
    services: Mapping[str, str]  # service -> container
    at: str  # ISO 8601, UTC
    note: str = ""
    by: str = ""  # user@host
    what: str = ""  # name and fingerprint of the pipeline
    action: str = "deploy"  # or rollback


@dataclass(frozen=True)
class Actual:
    """A site as it is."""

    containers: tuple[Container, ...] = ()
    records: tuple[Record, ...] = ()  # oldest first
    configs: tuple[str, ...] = ()  # volumes with settings and secrets

    @property
    def revision(self) -> int:
        """The newest revision; 0 before the first."""
        return self.records[-1].revision if self.records else 0

    @property
    def current(self) -> dict[str, Container]:
        """The container of each service: that of the newest record, or, if there is no record at all, the one that runs."""
        by_name = {c.name: c for c in self.containers}
        if self.records:
            return {s: by_name[name] for s, name in self.records[-1].services.items() if name in by_name}
        return {c.service: c for c in sorted(self.containers, key=lambda c: c.revision) if c.state == "running"}


_GONE = {"broker": "the site file names other brokers"}


def repair(actual: Actual) -> list[Command]:
    """What brings a site back to its newest record after a deploy that was broken off; nothing if all is well."""
    keep = {c.name for c in actual.current.values()}
    known = {name for r in actual.records for name in r.services.values()} | keep
    todo: list[Command] = [RemoveContainer(c.name) for c in actual.containers if c.name not in known]
    todo += [
        StopContainer(c.name)
        for c in actual.containers
        if c.name in known - keep and c.state in ("running", "restarting")
    ]
    todo += [StartContainer(c.name) for c in actual.current.values() if c.state in ("created", "exited")]
    return todo


@dataclass(frozen=True)
class Change:
    """What is to happen to one service, and why."""

    service: str
    mark: Mark
    why: tuple[str, ...] = ()
    state_of: str = ""  # version of the pipeline of whose state the new container will find some that it cannot keep
    state: tuple[Fate, ...] = ()  # what becomes of the state of each step
    drift: tuple[Drift, ...] = ()


def changes(
    wanted: Sequence[Desired], current: Mapping[str, Container], recorded: Collection[str] = (), *, ill: bool = True
) -> list[Change]:
    """Every service of either side, in the order of `wanted`, then those that go. `recorded`: those that should be there.

    `ill`: whether one that is as it must be, but not well, is replaced.
    """
    found = [_change(d, current.get(d.service), d.service in recorded, ill) for d in wanted]
    gone = [s for s in current if s not in {d.service for d in wanted}]
    return found + [Change(s, "-", (_GONE.get(s, "the pipeline has no work for it"),)) for s in gone]


def _change(wanted: Desired, have: Container | None, recorded: bool, ill: bool) -> Change:
    if have is None:
        return Change(wanted.service, "+", ("drift: its container was removed" if recorded else "new",))
    if have.fingerprint != wanted.fingerprint:
        differ = tuple(p for p in wanted.parts if wanted.parts[p] != have.parts.get(p))
        state = tuple(compare(have.versions, wanted.state)) if have.versions else ()
        return Change(wanted.service, "~", differ or ("made by another version",), _foreign_state(wanted, have), state)
    if have.drift:
        return Change(wanted.service, "~", ("drift: " + ", ".join(map(str, have.drift)),), drift=have.drift)
    return Change(wanted.service, "~", (f"it {have.trouble}",)) if have.trouble and ill else Change(wanted.service, "=")


def _foreign_state(wanted: Desired, have: Container) -> str:
    """Windows in progress belong to a version of their step; '' if all can be kept or are to be discarded."""
    version = have.pipeline.rpartition(" ")[2]
    keeps = wanted.service != "process" or have.pipeline == wanted.pipeline
    if have.versions and not any(v.what == "reset" for v in compare(have.versions, wanted.state)):
        keeps = True
    return "" if keeps or wanted.settings.options.get("discard_state") == version else version


def summary(found: Sequence[Change]) -> str:
    """'+2 ~1 -0', and how many cannot take over the state that they find."""
    counts = " ".join(f"{mark}{sum(c.mark == mark for c in found)}" for mark in "+~-")
    breaking = sum(bool(c.state_of) for c in found)
    return f"{counts}; {breaking} state-breaking" if breaking else counts


@dataclass(frozen=True)
class Swap:
    """One container takes another's place. `made`: it was created for this and is removed if the deploy fails."""

    service: str
    old: str | None
    new: str | None
    made: bool = False


def swaps_back(actual: Actual, target: Record) -> list[Swap]:
    """What brings a site from its current containers to those of an older record; `ConfigError` if one is gone."""
    there = {c.name for c in actual.containers}
    if missing := [name for name in target.services.values() if name not in there]:
        raise ConfigError(
            f"revision {target.revision} cannot be brought back: {', '.join(missing)} was removed from the engine; deploy its "
            "pipeline file instead"
        )
    now = {s: c.name for s, c in actual.current.items()}
    both = {**now, **target.services}
    return [Swap(s, now.get(s), target.services.get(s)) for s in both if now.get(s) != target.services.get(s)]


def target_of(actual: Actual, revision: int | None) -> Record:
    """The record to go back to: the given one, else the one before the newest. `ConfigError` if there is none."""
    older = {r.revision: r for r in actual.records[:-1]}
    if revision is None and older:
        return older[max(older)]
    if revision in older:
        return older[revision]
    kept = ", ".join(map(str, older)) or "none"
    wanted = "earlier revision" if revision is None else f"revision {revision}"
    raise ConfigError(f"there is no {wanted} to go back to; the engine keeps: {kept}")


State = Literal["ship", "swap", "gate", "soak", "commit", "undo", "done", "refused", "rolled back", "broken"]
Event = Literal["ok", "more", "failed", "failed for good"]

TRANSITIONS: dict[tuple[State, Event], State] = {
    ("ship", "ok"): "swap",  # images, networks, volumes and new containers are there; the old ones still run
    ("ship", "failed"): "refused",
    ("swap", "ok"): "gate",
    ("swap", "failed"): "undo",
    ("gate", "more"): "swap",  # this service is healthy, the next one's turn
    ("gate", "ok"): "soak",
    ("gate", "failed"): "undo",
    ("soak", "ok"): "commit",  # all of them have stayed well for as long as was asked
    ("soak", "failed"): "undo",
    ("commit", "ok"): "done",
    ("commit", "failed"): "undo",
    ("undo", "ok"): "rolled back",
    ("undo", "failed"): "broken",
    ("swap", "failed for good"): "broken",  # --no-rollback
    ("gate", "failed for good"): "broken",
    ("soak", "failed for good"): "broken",
    ("commit", "failed for good"): "broken",
}
EXIT_CODES: dict[State, int] = {"done": 0, "refused": 1, "rolled back": 3, "broken": 4}


def outdated(actual: Actual, site: str) -> Iterator[Command]:
    """What no kept revision needs: containers, then their configuration, then records."""
    old = actual.records[: -(REVISIONS_KEPT + 1)]
    kept = {name for r in actual.records[len(old) :] for name in r.services.values()}
    gone = [c for c in actual.containers if c.name not in kept]
    used = {c.config for c in actual.containers if c.name in kept}
    yield from (RemoveContainer(c.name) for c in gone)
    yield from (RemoveVolume(config) for config in actual.configs if config not in used)
    yield from (RemoveVolume(names.record(site, r.revision)) for r in old)
