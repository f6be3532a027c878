"""What an operator can have done to a site: plan, build, deploy, roll back, destroy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from containers import bases, broker, bus, images, names, rollout
from containers.agent.profile import AGENT
from containers.commands import (
    RemoveContainer,
    RemoveVolume,
    StopContainer,
)
from containers.deployer import Deployer, Deployment, images_of
from containers.desired import layer_store, services_at
from containers.engine import Engine
from containers.hold import operator_name
from containers.images import Base
from containers.oci import LayerStore
from containers.profiles import BROKER
from containers.python import Python
from containers.release import KAFKA, Build, Piece
from containers.rollout import Record
from containers.saved_plan import Expected
from containers.site import SiteFile
from containers.walk import Report, Rollout
from containers.wanted import Desired
from pipelines.clock import Clock, SystemClock
from pipelines.plan import Plan

_PYTHONS: dict[str, Python] = {}  # by base image: the sites of a fleet mostly have the same


@dataclass
class Operator(Deployer):
    """Acts on one site through its engine, as its files on this machine say."""

    site: SiteFile
    engine: Engine
    report: Report
    clock: Clock = field(default_factory=SystemClock)
    shipped_bytes: int = 0  # to the engine, so far

    @property
    def name(self) -> str:
        """See `Deployer`."""
        return self.site.site.site

    @property
    def where(self) -> str:
        """See `Deployer`."""
        return str(self.site.path)

    @property
    def errors_max(self) -> float:
        """See `Deployer`."""
        return self.site.site.rollout.errors_max

    @property
    def store(self) -> LayerStore:
        """See `Deployer`."""
        return layer_store()

    def plan(self, plan: Plan) -> Deployment:
        """What a deploy of a pipeline's plan would do. Changes nothing."""
        wanted = broker.everything(self.site, plan, self.base(pull=False), self._identities(plan, renew=False))
        seen = Deployment(tuple(wanted), self.as_it_is(wanted))
        lacking = self.lacking(images_of(seen.fresh))
        return replace(seen, lacking={image.tag: size for image, _, size in lacking})

    def build(self, plan: Plan) -> tuple[Desired, ...]:
        """Make every image of a plan, and give the engine what it lacks of them."""
        wanted = broker.everything(
            self.site, plan, self.base(pull=True), self._identities(plan, renew=False), fetch=True
        )
        self.ship(images_of(wanted))
        return tuple(wanted)

    def release(self, plan: Plan) -> Build:
        """All that a release of a plan is made of, with nothing left on the engine."""
        base, identities = self.whole_base(), self._identities(plan, renew=False)
        wanted = broker.everything(self.site, plan, base, identities, secrets=False, fetch=True)
        pieces = [Piece(d.service, d.images, d.pins, d.parts.get(KAFKA, "")) for d in wanted]
        own = images.agent_contents(AGENT, base)
        pieces.append(Piece(AGENT.service, images.made(AGENT, own, layer_store(), fetch=True), (own.common,)))
        return Build(plan, self.site.site.base_image, base, tuple(pieces), layer_store())

    def whole_base(self) -> Base:
        """The base image, with its layers in the cache."""
        store, name = layer_store(), self.site.site.base_image
        base = self.base(pull=True)
        assert base.image is not None  # else it would have been refused
        if all(layer.digest for layer in base.image.layers):
            return base
        known = bases.recall(store.folder / bases.FOLDER, name)
        if known is None or known.id != base.id:
            known = replace(base, image=self.engine.export(name, base.image, store))
            bases.remember(store.folder / bases.FOLDER, name, bases.Known.of(known))
        return known

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
        base, identities = self.base(pull=True), self._identities(plan, renew=True)
        wanted = tuple(broker.everything(self.site, plan, base, identities, fetch=True))
        if as_planned:
            as_planned.check(self.name, Deployment(wanted, self.as_it_is(wanted)))
        self.mend()
        what = f"{plan.pipeline} {plan.fingerprint}"
        return self.bring(
            wanted, plan.pipeline, what, timeout_s=timeout_s, soak_s=soak_s, roll_back=roll_back,
            grant=lambda container: self._grant(plan, container),
        )  # fmt: skip

    def revoke(self, plan: Plan) -> None:
        """Take from services the rights in Kafka that a plan, which runs now, does not need any more."""
        self._grant(plan, revoke=True)

    def roll_back(self, revision: int | None, *, timeout_s: float, mark: str = "") -> Rollout | None:
        """The rollout that brings an earlier revision back (by default the one before the present), as a new revision.

        None if that has been done before under the same `mark`.
        """
        self.mend()
        actual = self.engine.actual(self.name)
        if mark and actual.records and actual.records[-1].note.endswith(mark):
            return None
        target = rollout.target_of(actual, revision)
        note = f"back to revision {target.revision} {mark}".strip()
        record = Record(
            actual.revision + 1, target.services, self._now(), note, operator_name(), target.what, "rollback"
        )
        return self._rollout(record, rollout.swaps_back(actual, target), timeout_s, ())

    def destroy(self, *, keep_data: bool) -> None:
        """Remove all of the site from the engine, but for its data if they are to be kept."""
        self.remove_agent()
        containers = self.engine.actual(self.name).containers
        for container in sorted(containers, key=lambda c: c.service == BROKER.service):  # others need it to finish
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

    def remove_agent(self) -> None:
        """Remove the site's agent, its keys and what it remembers; it would bring everything back."""
        for name in self.engine.agents(self.name):
            self.report(f"removing {name}")
            self.engine.run(RemoveContainer(name))
        for name in self.engine.of_agent(self.name):
            self.engine.run(RemoveVolume(name))

    def _identities(self, plan: Plan, *, renew: bool) -> bus.Files:
        services = [p.service for p in broker.services_of(self.site, plan)]
        return bus.identity_files(self.site, services, self.clock, renew=renew)

    def _grant(self, plan: Plan, own_broker: str = "", *, revoke: bool = False) -> None:
        """`own_broker`: the container of the site's own, if it is not the present one."""
        self.engine.fence()
        services = [p.service for p in services_at(self.site, plan)]
        if self.site.site.own_broker:
            container = own_broker or self.engine.actual(self.name).current[BROKER.service].name
            asked = bus.request(self.site, plan, services, revoke=revoke)
            added, removed = broker.grant(self.engine, container, asked)
        else:
            added, removed = bus.grant(self.site, plan, services, self.clock, revoke=revoke)
        if added:
            self.report(f"Kafka: {added} rights granted")
        if removed and revoke:
            self.report(f"Kafka: {removed} rights taken away")

    def base(self, *, pull: bool) -> Base:
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
