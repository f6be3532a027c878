"""Brings one site to what is wanted, through its engine: the same for an operator who pushes and for an agent that pulls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from containers import drift, history, names, rollout
from containers.commands import Command, CreateNetwork, CreateVolume, File, FillVolume
from containers.engine import Engine
from containers.hold import held, operator_name
from containers.oci import Image, LayerStore
from containers.profiles import BROKER, CONFIG_DIR, INGRESS, INTERNAL
from containers.rollout import Actual, Change, Container, Record, State, Swap
from containers.site import GATEWAY
from containers.walk import Report, Rollout
from containers.wanted import Desired
from pipelines.clock import Clock
from pipelines.errors import ConfigError, SitestreamError
from pipelines.units import show_bytes


@dataclass(frozen=True)
class Deployment:
    """What a deploy would do: `wanted` against `actual`."""

    wanted: tuple[Desired, ...]
    actual: Actual
    lacking: Mapping[str, int] = field(default_factory=dict)  # bytes to be shipped of each image, by its tag
    ill: bool = True  # whether what is not well is replaced, too

    @property
    def changes(self) -> list[Change]:
        """For each service of either side, what and why."""
        records = self.actual.records
        recorded = records[-1].services if records else ()
        return rollout.changes(self.wanted, self.actual.current, recorded, ill=self.ill)

    @property
    def fresh(self) -> list[Desired]:
        """What gets a new container."""
        changed = {c.service for c in self.changes if c.mark in "+~"}
        return [d for d in self.wanted if d.service in changed]

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return not self.actual.records or any(c.mark != "=" for c in self.changes) or bool(rollout.repair(self.actual))


class Deployer:
    """What is common to all who change a site. Subclasses say which site, and where layers of images are."""

    engine: Engine
    report: Report
    clock: Clock
    shipped_bytes: int  # to the engine, so far

    @property
    def name(self) -> str:
        """The site's name."""
        raise NotImplementedError

    @property
    def where(self) -> str:
        """Where its settings stand, for messages."""
        raise NotImplementedError

    @property
    def errors_max(self) -> float:
        """See `gates.Policy`."""
        raise NotImplementedError

    @property
    def store(self) -> LayerStore:
        """Where the layers of images are."""
        raise NotImplementedError

    @contextmanager
    def alone(self, purpose: str = "changed", *, wait_s: float = 0.0, last: bool = False) -> Iterator[None]:
        """While it lasts nobody else changes the site, whatever machine they work from: the lock is on its engine.

        `Unavailable` says who does, if that is not over within `wait_s`. See `hold.held`.
        """
        with held(self.engine, self.name, purpose, self.report, wait_s=wait_s, last=last, clock=self.clock):
            yield

    def mend(self) -> None:
        """Go back to the newest record, if a deploy was broken off."""
        todo = rollout.repair(self.engine.actual(self.name))
        if todo:
            self.report("an earlier deploy was broken off: first going back to what ran before it")
        for command in todo:
            self.engine.run(command)

    def bring(
        self,
        wanted: Sequence[Desired],
        note: str,
        what: str,
        *,
        timeout_s: float,
        soak_s: float = 0.0,
        roll_back: bool = True,
        ill: bool = True,
        grant: Callable[[str], None] = lambda container: None,
    ) -> Rollout | None:
        """The rollout to these services, to be `run`; None if there is nothing to do. `ill`: replace what is not well, too.

        `grant` makes topics and rights, at once or, if the site's own broker gets a new `container`, as soon as that is
        healthy; the container is empty if it is the present one. What an earlier deploy has left must have been mended.
        """
        todo = Deployment(tuple(wanted), self.as_it_is(wanted), ill=ill)
        fresh = todo.fresh
        starts = next((d for d in fresh if d.service == BROKER.service), None)
        if not starts:
            grant("")
        if not todo.needed:
            return None
        self.report(f"{rollout.summary(todo.changes)}  {what.partition(' ')[0]} to {self.name}")
        revision, current = todo.actual.revision + 1, todo.actual.current
        changed = {d.service for d in fresh}
        swaps = [Swap(d.service, _name_in(current, d.service), d.container_name(revision), made=True) for d in fresh]
        swaps += [Swap(c.service, current[c.service].name, None) for c in todo.changes if c.mark == "-"]
        unchanged = {s: c.name for s, c in current.items() if s not in changed}
        after = {d.service: unchanged.get(d.service) or d.container_name(revision) for d in wanted}
        record = Record(revision, after, self._now(), note, operator_name(), what)
        made = replace(self._rollout(record, swaps, timeout_s, fresh), roll_back=roll_back, soak_s=soak_s)
        if starts:
            made.once_healthy[BROKER.service] = partial(grant, starts.container_name(revision))
        return made

    def prune(self) -> None:
        """Remove what only revisions need that are no longer kept."""
        for command in [*rollout.outdated(self.engine.actual(self.name), self.name), *self.engine.unused_images()]:
            self.engine.run(command)

    def as_it_is(self, wanted: Sequence[Desired]) -> Actual:
        """The site as it is, also with regard to the files that services must find."""
        actual, should = self.engine.actual(self.name), {(d.service, d.fingerprint): d.config_files for d in wanted}
        return replace(actual, containers=tuple(self._looked_into(c, should) for c in actual.containers))

    def _looked_into(self, seen: Container, should: Mapping[tuple[str, str], tuple[File, ...]]) -> Container:
        files = should.get((seen.service, seen.fingerprint))
        if files is None:
            return seen
        altered = drift.in_files(seen.service, files, self.engine.files(seen.name, CONFIG_DIR))
        return replace(seen, drift=(*seen.drift, *altered))

    def _rollout(self, record: Record, swaps: Sequence[Swap], timeout_s: float, fresh: Sequence[Desired]) -> Rollout:
        def prepare() -> None:
            self.ship(images_of(fresh))
            for command in self._things_of(fresh):
                self.engine.run(command)
            for d in fresh:
                self.engine.run(d.container(record.revision, self._gateway(d)))

        journal = self._journal(record, tuple(swap.service for swap in swaps))
        return Rollout(
            self.engine, self.name, record, swaps, prepare, self.report, timeout_s, clock=self.clock, errors_max=self.errors_max,
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
        labels = {names.SITE: self.name}
        own = {names.network(self.name, role): (internal, role != INGRESS) for role, internal in INTERNAL.items()}
        needed = {n for d in fresh for n in d.networks}
        todo: list[Command] = [CreateNetwork(n, i, labels, m) for n, (i, m) in own.items() if n in needed]
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
                f"{self.where}: [hosts] has {GATEWAY!r}, and network {d.networks[0]} has none: write an IP address there"
            )
        return address

    def ship(self, images: Iterable[Image]) -> None:
        """Give the engine what it lacks of images, the lowest first: what has arrived need not be sent again."""
        for image, layers, size in self.lacking(images):
            self.report(f"{image.tag}: shipping {show_bytes(size)}")
            self.engine.load(image, self.store, layers)
            self.shipped_bytes += size

    def lacking(self, images: Iterable[Image]) -> list[tuple[Image, int, int]]:
        """The images that the engine does not have, lowest first, with the number of layers and bytes that it lacks of each."""
        every = {image.tag: image for image in images}
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


def images_of(wanted: Iterable[Desired]) -> list[Image]:
    """The images of services and those under them."""
    return [image for d in wanted for image in d.images]
