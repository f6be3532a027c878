"""What an operator can have done to a site: plan, build, deploy, roll back, destroy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rich.filesize import decimal

from containers import bases, bus, drift, history, images, names, rollout
from containers.commands import (
    Command,
    CreateNetwork,
    CreateVolume,
    File,
    FillVolume,
    RemoveContainer,
    RemoveVolume,
    StopContainer,
)
from containers.desired import Desired, desired, layer_store, network, work_for
from containers.engine import Engine
from containers.hold import held, operator_name
from containers.images import Base
from containers.oci import Image
from containers.packages import Python
from containers.profiles import CONFIG_DIR, INTERNAL
from containers.release import Build
from containers.rollout import Actual, Change, Container, Record, State, Swap
from containers.saved_plan import Expected
from containers.site import GATEWAY, SiteFile
from containers.walk import Report, Rollout
from pipelines.clock import Clock, SystemClock
from pipelines.errors import ConfigError, SitestreamError
from pipelines.plan import Plan

_PYTHONS: dict[str, Python] = {}  # by base image: the sites of a fleet mostly have the same


@dataclass(frozen=True)
class Deployment:
    """What a deploy would do: `wanted` against `actual`."""

    wanted: tuple[Desired, ...]
    actual: Actual
    lacking: Mapping[str, int] = field(default_factory=dict)  # bytes to be shipped of each image, by its tag

    @property
    def changes(self) -> list[Change]:
        """For each service of either side, what and why."""
        records = self.actual.records
        return rollout.changes(self.wanted, self.actual.current, records[-1].services if records else ())

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
    shipped_bytes: int = 0  # to the engine, so far

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.site.site

    @contextmanager
    def alone(self, purpose: str = "changed", *, wait_s: float = 0.0, last: bool = False) -> Iterator[None]:
        """While it lasts nobody else changes the site, whatever machine they work from: the lock is on its engine.

        `Unavailable` says who does, if that is not over within `wait_s`. See `hold.held`.
        """
        with held(self.engine, self.name, purpose, self.report, wait_s=wait_s, last=last, clock=self.clock):
            yield

    def plan(self, plan: Plan) -> Deployment:
        """What a deploy of a pipeline's plan would do. Changes nothing."""
        wanted = desired(self.site, plan, self._base(pull=False), self._identities(plan, renew=False))
        seen = Deployment(tuple(wanted), self._actual(wanted))
        changed = {c.service for c in seen.changes if c.mark in "+~"}
        lacking = self._lacking([d for d in wanted if d.service in changed])
        return replace(seen, lacking={image.tag: size for image, _, size in lacking})

    def build(self, plan: Plan) -> tuple[Desired, ...]:
        """Make every image of a plan, and give the engine what it lacks of them."""
        wanted = tuple(desired(self.site, plan, self._base(pull=True), self._identities(plan, renew=False), fetch=True))
        self._load(wanted)
        return wanted

    def release(self, plan: Plan) -> Build:
        """All that a release of a plan is made of, with nothing left on the engine."""
        store, name = layer_store(), self.site.site.base_image
        base = self._base(pull=True)
        assert base.image is not None  # else it would have been refused
        if not all(layer.digest for layer in base.image.layers):
            known = bases.recall(store.folder / bases.FOLDER, name)
            if known is None or known.id != base.id:
                known = replace(base, image=self.engine.export(name, base.image, store))
                bases.remember(store.folder / bases.FOLDER, name, bases.Known.of(known))
            base = known
        wanted = desired(self.site, plan, base, self._identities(plan, renew=False), secrets=False, fetch=True)
        return Build(plan, name, base, tuple(wanted), store)

    def deploy(
        self,
        plan: Plan,
        *,
        timeout_s: float,
        roll_back: bool = True,
        soak_s: float = 0.0,
        as_planned: Expected | None = None,
    ) -> Rollout | None:
        """The rollout that brings a plan to the site, to be `run`; None if there is nothing to do.

        New containers must stay well for `soak_s` before it counts.
        First mends what an earlier deploy that was broken off has left. `ConfigError` if it would do anything but what was
        planned.
        """
        wanted = tuple(desired(self.site, plan, self._base(pull=True), self._identities(plan, renew=True), fetch=True))
        if as_planned:
            as_planned.check(self.name, Deployment(wanted, self._actual(wanted)))
        self._mend()
        self._grant(plan)
        todo = Deployment(wanted, self._actual(wanted))
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
        record = Record(
            revision, after, self._now(), plan.pipeline, operator_name(), f"{plan.pipeline} {plan.fingerprint}"
        )
        return replace(self._rollout(record, swaps, timeout_s, fresh), roll_back=roll_back, soak_s=soak_s)

    def revoke(self, plan: Plan) -> None:
        """Take from services the rights in Kafka that a plan, which runs now, does not need any more."""
        self._grant(plan, revoke=True)

    def roll_back(self, revision: int | None, *, timeout_s: float, mark: str = "") -> Rollout | None:
        """The rollout that brings an earlier revision back (by default the one before the present), as a new revision.

        None if that has been done before under the same `mark`.
        """
        self._mend()
        actual = self.engine.actual(self.name)
        if mark and actual.records and actual.records[-1].note.endswith(mark):
            return None
        target = rollout.target_of(actual, revision)
        note = f"back to revision {target.revision} {mark}".strip()
        record = Record(
            actual.revision + 1, target.services, self._now(), note, operator_name(), target.what, "rollback"
        )
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
        locks = names.lock(self.name, "")  # ours among them: it goes last
        todo = [
            c for c in self.engine.labelled(self.name) if not (isinstance(c, RemoveVolume) and c.name.startswith(locks))
        ]
        for command in [*todo, *self.engine.unused_images()]:
            if not (keep_data and isinstance(command, RemoveVolume) and command.name.endswith(names.DATA_SUFFIX)):
                self.engine.run(command)

    def _identities(self, plan: Plan, *, renew: bool) -> bus.Files:
        return bus.identity_files(self.site, [p.service for p in work_for(plan, self.site)], self.clock, renew=renew)

    def _grant(self, plan: Plan, *, revoke: bool = False) -> None:
        self.engine.fence()
        added, removed = bus.grant(
            self.site, plan, [p.service for p in work_for(plan, self.site)], self.clock, revoke=revoke
        )
        if added:
            self.report(f"Kafka: {added} rights granted")
        if removed and revoke:
            self.report(f"Kafka: {removed} rights taken away")

    def _actual(self, wanted: Sequence[Desired]) -> Actual:
        """The site as it is, also with regard to the files that services must find."""
        actual, should = self.engine.actual(self.name), {(d.service, d.fingerprint): d.config_files for d in wanted}
        return replace(actual, containers=tuple(self._looked_into(c, should) for c in actual.containers))

    def _looked_into(self, seen: Container, should: Mapping[tuple[str, str], tuple[File, ...]]) -> Container:
        files = should.get((seen.service, seen.fingerprint))
        if files is None:
            return seen
        altered = drift.in_files(seen.service, files, self.engine.files(seen.name, CONFIG_DIR))
        return replace(seen, drift=(*seen.drift, *altered))

    def _mend(self) -> None:
        todo = rollout.repair(self.engine.actual(self.name))
        if todo:
            self.report("an earlier deploy was broken off: first going back to what ran before it")
        for command in todo:
            self.engine.run(command)

    def _rollout(self, record: Record, swaps: Sequence[Swap], timeout_s: float, fresh: Sequence[Desired]) -> Rollout:
        def ship() -> None:
            self._load(fresh)
            for command in self._things_of(fresh):
                self.engine.run(command)
            for d in fresh:
                self.engine.run(d.container(record.revision, self._gateway(d)))

        journal = self._journal(record, tuple(swap.service for swap in swaps))
        errors_max = self.site.site.rollout.errors_max
        return Rollout(
            self.engine, self.name, record, swaps, ship, self.report, timeout_s, clock=self.clock, errors_max=errors_max,
            journal=journal,
        )  # fmt: skip

    def _journal(self, record: Record, services: tuple[str, ...]) -> Callable[[State, str], None]:
        """Tells the site's history of an attempt: 'ship' when it begins, then how it ended."""
        begun_s = self.clock.monotonic_s()
        _, volumes = self.engine.volumes(names.history(self.name, ""))
        entry = history.Entry(
            history.number(self.name, volumes), record.at, record.by, record.action, record.what, record.revision,
            record.note, services=services,
        )  # fmt: skip

        def tell(state: State, why: str) -> None:
            end = replace(entry, result=state, why=why, seconds=round(self.clock.monotonic_s() - begun_s, 1))
            todo = history.begun(self.name, entry, volumes) if state == "ship" else history.ended(self.name, end)
            try:
                for command in todo:
                    self.engine.run(command, fenced=False)
            except SitestreamError as e:  # what was done to the site counts more
                self.report(f"the site's history could not be written: {e}", bad=True)

        return tell

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
        todo += [FillVolume(d.config_volume, d.tag, d.config_files) for d in fresh]
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
        found = self.engine.base(name)
        if found is None and (known := bases.recall(layer_store().folder / bases.FOLDER, name)):
            return known  # its layers are shipped with the others
        if found is None and pull:
            self.engine.pull(name)
            found = self.engine.base(name)
        if found is None:
            return images.unseen(name)
        python = _PYTHONS.get(found.id) or self.engine.python_of(name)
        _PYTHONS[found.id] = python
        python.check(name)
        return Base(found.id, python, found)

    def _load(self, wanted: Sequence[Desired]) -> None:
        """Give the engine what it lacks of images, the lowest first: what has arrived need not be sent again."""
        for image, layers, size in self._lacking(wanted):
            self.report(f"{image.tag}: shipping {decimal(size)}")
            self.engine.load(image, layer_store(), layers)
            self.shipped_bytes += size

    def _lacking(self, wanted: Sequence[Desired]) -> list[tuple[Image, int, int]]:
        """The images that the engine does not have, lowest first, with the number of layers and bytes that it lacks of each."""
        every = {image.tag: image for d in wanted for image in d.images}
        needed = [image for image in every.values() if not self.engine.has(image)]
        counts = self.engine.lacking(needed) if needed else []
        sizes = (
            sum(layer.size for layer in i.layers[len(i.layers) - n :]) for i, n in zip(needed, counts, strict=True)
        )
        return list(zip(needed, counts, sizes, strict=True))

    def _now(self) -> str:
        return datetime.fromtimestamp(self.clock.now_ns() / 1e9, UTC).isoformat(timespec="seconds")


def _name_in(current: dict[str, Container], service: str) -> str | None:
    return current[service].name if service in current else None
