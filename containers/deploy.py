"""What an operator can have done to a site: plan, build, deploy, roll back, destroy."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from containers import bus, images, names, rollout
from containers.commands import (
    Command,
    CreateNetwork,
    CreateVolume,
    FillVolume,
    RemoveContainer,
    RemoveVolume,
    StopContainer,
)
from containers.desired import Desired, desired, network, work_for
from containers.engine import Engine
from containers.fetch import cache_dir
from containers.images import Base
from containers.profiles import INTERNAL
from containers.rollout import Actual, Change, Record, Swap
from containers.site import GATEWAY, SiteFile
from containers.walk import Report, Rollout
from pipelines.clock import Clock, SystemClock
from pipelines.errors import ConfigError, Unavailable
from pipelines.plan import Plan


@dataclass(frozen=True)
class Deployment:
    """What a deploy would do: `wanted` against `actual`."""

    wanted: tuple[Desired, ...]
    actual: Actual

    @property
    def changes(self) -> list[Change]:
        """For each service of either side, what and why."""
        return rollout.changes(self.wanted, self.actual.current)

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return not self.actual.records or any(c.mark != "=" for c in self.changes) or bool(rollout.repair(self.actual))


@dataclass
class Operator:
    """Acts on one site through its engine."""

    site: SiteFile
    engine: Engine
    report: Report
    clock: Clock = field(default_factory=SystemClock)

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.site.site

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this user changes the site from this machine, no other process of theirs does; `Unavailable` if one does.

        The lock goes with the process, however that ends. Two machines that deploy to one site at the same time are not kept
        apart.
        """
        folder = cache_dir() / "deploying"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{self.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise Unavailable(
                    f"site {self.name} is being changed by another process of this machine: wait for it"
                ) from e
            yield

    def plan(self, plan: Plan) -> Deployment:
        """What a deploy of a pipeline's plan would do. Changes nothing."""
        wanted = desired(self.site, plan, self._base(pull=False), self._identities(plan, renew=False))
        return Deployment(tuple(wanted), self.engine.actual(self.name))

    def build(self, plan: Plan) -> tuple[Desired, ...]:
        """Build every image of a plan that the engine lacks."""
        wanted = tuple(desired(self.site, plan, self._base(pull=True), self._identities(plan, renew=False)))
        self._build(wanted)
        return wanted

    def deploy(self, plan: Plan, *, timeout_s: float, roll_back: bool = True, soak_s: float = 0.0) -> Rollout | None:
        """The rollout that brings a plan to the site, to be `run`; None if there is nothing to do.

        New containers must stay well for `soak_s` before it counts.
        First mends what an earlier deploy that was broken off has left.
        """
        wanted = tuple(desired(self.site, plan, self._base(pull=True), self._identities(plan, renew=True)))
        self._mend()
        self._grant(plan)
        todo = Deployment(wanted, self.engine.actual(self.name))
        if not todo.needed:
            return None
        self.report(f"{rollout.summary(todo.changes)}  {plan.pipeline} to {self.name}")
        revision, current = todo.actual.revision + 1, todo.actual.current
        changed = {c.service for c in todo.changes if c.mark in "+~"}
        fresh = [d for d in wanted if d.service in changed]
        swaps = [Swap(d.service, _name_in(current, d.service), d.container_name(revision), made=True) for d in fresh]
        swaps += [Swap(c.service, current[c.service].name, None) for c in todo.changes if c.mark == "-"]
        unchanged = {s: c.name for s, c in current.items() if s not in changed}
        after = {d.service: unchanged.get(d.service) or d.container_name(revision) for d in wanted}
        record = Record(revision, after, self._now(), note=plan.pipeline)
        return replace(self._rollout(record, swaps, timeout_s, fresh), roll_back=roll_back, soak_s=soak_s)

    def revoke(self, plan: Plan) -> None:
        """Take from services the rights in Kafka that a plan, which runs now, does not need any more."""
        self._grant(plan, revoke=True)

    def roll_back(self, revision: int | None, *, timeout_s: float) -> Rollout:
        """The rollout that brings an earlier revision back (by default the one before the present), as a new revision."""
        self._mend()
        actual = self.engine.actual(self.name)
        target = rollout.target_of(actual, revision)
        record = Record(actual.revision + 1, target.services, self._now(), note=f"back to revision {target.revision}")
        return self._rollout(record, rollout.swaps_back(actual, target), timeout_s, ())

    def prune(self) -> None:
        """Remove what only revisions need that are no longer kept."""
        for command in [*rollout.outdated(self.engine.actual(self.name), self.name), *self.engine.unused_images()]:
            self.engine.run(command)

    def destroy(self, *, keep_data: bool) -> None:
        """Remove all of the site from the engine, but for its data if they are to be kept."""
        for container in self.engine.actual(self.name).containers:
            self.report(f"removing {container.name}")
            self.engine.run(StopContainer(container.name))
            self.engine.run(RemoveContainer(container.name))
        for command in [*self.engine.labelled(self.name), *self.engine.unused_images()]:
            if not (keep_data and isinstance(command, RemoveVolume) and command.name.endswith(names.DATA_SUFFIX)):
                self.engine.run(command)

    def _identities(self, plan: Plan, *, renew: bool) -> bus.Files:
        return bus.identity_files(self.site, [p.service for p in work_for(plan)], self.clock, renew=renew)

    def _grant(self, plan: Plan, *, revoke: bool = False) -> None:
        added, removed = bus.grant(self.site, plan, [p.service for p in work_for(plan)], self.clock, revoke=revoke)
        if added:
            self.report(f"Kafka: {added} rights granted")
        if removed and revoke:
            self.report(f"Kafka: {removed} rights taken away")

    def _mend(self) -> None:
        todo = rollout.repair(self.engine.actual(self.name))
        if todo:
            self.report("an earlier deploy was broken off: first going back to what ran before it")
        for command in todo:
            self.engine.run(command)

    def _rollout(self, record: Record, swaps: Sequence[Swap], timeout_s: float, fresh: Sequence[Desired]) -> Rollout:
        def ship() -> None:
            self._build(fresh)
            for command in self._things_of(fresh):
                self.engine.run(command)
            for d in fresh:
                self.engine.run(d.container(record.revision, self._gateway(d)))

        errors_max = self.site.site.rollout.errors_max
        return Rollout(
            self.engine, self.name, record, swaps, ship, self.report, timeout_s, clock=self.clock, errors_max=errors_max
        )

    def _things_of(self, fresh: Sequence[Desired]) -> list[Command]:
        """What must be there before containers can be created. Making what exists changes nothing."""
        labels, roles = {names.SITE: self.name}, INTERNAL.items()
        own = {
            network(self.site, role): internal for role, internal in roles if not getattr(self.site.site.networks, role)
        }
        needed = {n for d in fresh for n in d.networks}
        todo: list[Command] = [CreateNetwork(n, internal, labels) for n, internal in own.items() if n in needed]
        todo += [CreateVolume(m.source, labels) for d in fresh for m in d.mounts if not m.source.startswith("/")]
        todo += [CreateVolume(d.config_volume, labels | {names.CONFIG: d.service}) for d in fresh]
        todo += [FillVolume(d.config_volume, d.image.tag, d.config_files) for d in fresh]
        return todo

    def _gateway(self, d: Desired) -> str:
        if GATEWAY not in d.hosts.values():
            return ""
        address = self.engine.gateway(d.networks[0])
        if not address:
            raise ConfigError(
                f"{self.site.path}: [hosts] has {GATEWAY!r}, and network {d.networks[0]} has none: write an IP address there"
            )
        return address

    def _base(self, *, pull: bool) -> Base:
        """The base image. One that is not there, if it is not to be pulled, is taken to have this machine's Python."""
        name = self.site.site.base_image
        found = self.engine.pull(name) if pull else self.engine.image_id(name)
        if found is None:
            return images.unseen(name)
        python = self.engine.python_of(found)
        python.check(name)
        return Base(found, python)

    def _build(self, wanted: Sequence[Desired]) -> None:
        for d in wanted:
            if self.engine.image_id(d.image.tag):
                continue
            if self.engine.image_id(d.contents.parent_tag) is None:
                self.report(f"{d.service}: building {d.contents.parent_tag}")
                for parent in images.packages_images(d.contents):
                    self.engine.build(parent)
            self.report(f"{d.service}: building {d.image.tag}")
            self.engine.build(d.image)

    def _now(self) -> str:
        return datetime.fromtimestamp(self.clock.now_ns() / 1e9, UTC).isoformat(timespec="seconds")


def _name_in(current: dict[str, rollout.Container], service: str) -> str | None:
    return current[service].name if service in current else None
