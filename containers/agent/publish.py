"""Writes what sites should run into the repository, signed: what an operator does for sites that pull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import Signer

from containers import broker, bus, images, release
from containers.agent import document
from containers.agent.document import Rules
from containers.agent.identity import sealing_key
from containers.agent.profile import AGENT
from containers.desired import services_at
from containers.hold import operator_name
from containers.images import Base
from containers.oci import Image, LayerStore
from containers.repository import artifact
from containers.repository.base import Repository
from containers.repository.errors import NotFound, Untrusted
from containers.repository.statement import sign, signed_version
from containers.site import SiteFile
from pipelines.clock import Clock
from pipelines.errors import ConfigError
from pipelines.plan import Plan
from pipelines.units import duration_s


@dataclass(frozen=True)
class Published:
    """What was published for a site."""

    site: str
    version: int
    what: str
    services: tuple[str, ...]
    bytes: int  # of the document


@dataclass
class Publisher:
    """Publishes for any number of sites; images go to the repository once."""

    repo: Repository
    signers: Sequence[Signer]
    roots: Sequence[bytes]
    store: LayerStore
    clock: Clock
    days_good: int
    _there: set[str] = field(default_factory=set)  # ids of images that the repository has

    def publish(self, site: SiteFile, plan: Plan, base: Base) -> Published:
        """Images first, then the document that names them: a site never finds one without the other.

        `ConfigError` if the site was not enrolled, or its files are not complete.
        """
        name, key = site.site.site, site.site.agent.key
        if not key:
            raise ConfigError(f"{site.path}: site {name} has no agent.key yet: pipeline agent enrol --site {name}")
        services = [p.service for p in broker.services_of(site, plan)]
        wanted = broker.everything(
            site, plan, base, bus.identity_files(site, services, self.clock, renew=True), fetch=True
        )
        grants = self._granted(site, plan)
        whole = [release.whole(image, base) for d in wanted for image in d.images]
        for image in whole:
            self._push(image)
        at = datetime.fromtimestamp(self.clock.now_ns() // 10**9, UTC)
        what = f"{plan.pipeline} {plan.fingerprint}"
        made = document.of(
            name, what, operator_name(), at.isoformat(), rules_of(site), wanted, whole, sealing_key(key), grants
        )
        content = document.encode(made)
        version = self._put(name, content, at)
        return Published(name, version, what, tuple(services), len(content))

    def _granted(self, site: SiteFile, plan: Plan) -> tuple[str, ...]:
        """Topics and rights: of the site's own broker the agent makes them, with these words; of others we do, now."""
        services = [p.service for p in services_at(site, plan)]
        if site.site.own_broker:
            return broker.grant_words(bus.request(site, plan, services, revoke=False))
        bus.grant(site, plan, services, self.clock, revoke=False)
        return ()

    def _push(self, image: Image) -> None:
        if image.id not in self._there:
            release.push_image(self.repo, image, self.store)
            self._there.add(image.id)

    def _put(self, site: str, content: bytes, at: datetime) -> int:
        if not self._there & {"roots"}:
            artifact.put_roots(self.repo, self.roots)
            self._there.add("roots")
        path = artifact.site_name(site)
        version = max(int(at.timestamp()), self._newest(path) + 1)
        statement = sign(content, path, version, at + timedelta(days=self.days_good), self.signers)
        artifact.put_document(self.repo, path, artifact.DESIRED, content, document.MEDIA_TYPE, statement)
        return version

    def _newest(self, path: str) -> int:
        """The version that a site may have seen last; a number that nobody of us signed is no reason to count on from it."""
        try:
            found = artifact.get_document(self.repo, path, artifact.DESIRED)
            return signed_version(self.roots[-1], found.statement, path) if found else 0
        except (NotFound, Untrusted):
            return 0


def rules_of(site: SiteFile) -> Rules:
    """When new containers may stay at a site."""
    r = site.site.rollout
    return Rules(duration_s(r.health_timeout), duration_s(r.soak), r.errors_max)


def agent_images(base: Base, store: LayerStore) -> tuple[Image, ...]:
    """The agent's image and those under it, lowest first; made, and their packages fetched, if need be."""
    return images.made(AGENT, images.agent_contents(AGENT, base), store, fetch=True)
