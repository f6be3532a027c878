"""Writes what sites should run into the repository, signed: what an operator does for sites that pull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock

from securesystemslib.signer import Signer

from containers import broker, bus, images, release
from containers.agent import document, status
from containers.agent.document import Document, Rules
from containers.agent.identity import sealing_key
from containers.agent.profile import AGENT
from containers.agent.report import said_by
from containers.desired import services_at
from containers.hold import operator_name
from containers.images import Base
from containers.oci import Image, LayerStore
from containers.repository import artifact
from containers.repository.base import Repository
from containers.repository.errors import NotFound, Replayed, Untrusted
from containers.repository.statement import sign, signed_version
from containers.site import SiteFile
from pipelines.clock import Clock
from pipelines.errors import ConfigError, Unavailable
from pipelines.plan import Plan
from pipelines.units import duration_s

_PUSHING = Lock()  # many sites need the same image at the same time: for one of them it is pushed


@dataclass(frozen=True)
class Published:
    """What was published for a site."""

    site: str
    version: int
    what: str
    services: tuple[str, ...]
    bytes: int  # of the document
    agent: str = (
        ""  # what happens to the site's agent: 'is exchanged', 'stays', or 'unknown' if it has not told what it is
    )


@dataclass(frozen=True)
class Standing:
    """What lies in the repository for a site, signed by keys of ours."""

    version: int
    document: Document


@dataclass
class Publisher:
    """Publishes for any number of sites; images go to the repository once."""

    repo: Repository
    signers: Sequence[Signer]
    roots: Sequence[bytes]
    store: LayerStore
    clock: Clock
    days_good: int
    there: set[str] = field(default_factory=set)  # ids of images that the repository has

    def publish(
        self, site: SiteFile, plan: Plan, base: Base, *, rollout: str = "", rules: Rules | None = None
    ) -> Published:
        """Images first, then the document that names them: a site never finds one without the other. `rules`: other ones than
        those of the site's file.

        Rights in Kafka that neither what runs nor this needs are taken away, see `settle`. `ConfigError` if the site was not
        enrolled, or its files are not complete.
        """
        name, key = site.site.site, site.site.agent.key
        if not key:
            raise ConfigError(f"{site.path}: site {name} has no agent.key yet: pipeline agent enrol --site {name}")
        services = [p.service for p in broker.services_of(site, plan)]
        identities = bus.identity_files(site, services, self.clock, renew=True)
        wanted = broker.everything(site, plan, base, identities, fetch=True)
        rights = bus.rights_of(site, plan, [p.service for p in services_at(site, plan)])
        self.settle(site, also=rights)
        grants, settles = self._granted(site, plan)
        agent = agent_images(base, self.store) if site.site.agent.exchange else ()
        whole = [release.whole(image, base) for image in (*agent, *(image for d in wanted for image in d.images))]
        for image in whole:
            self._push(image)
        what, at = f"{plan.pipeline} {plan.fingerprint}", self._now().isoformat()
        made = document.of(
            name, what, operator_name(), at, rules or rules_of(site), wanted, whole, sealing_key(key), grants, settles=settles,
            rollout=rollout, rights=rights, agent=[image.tag for image in agent],
        )  # fmt: skip
        return self._published(site, made)

    def publish_again(
        self, site: SiteFile, version: int | None = None, *, rollout: str = "", rules: Rules | None = None
    ) -> Published:
        """Publish under a new number what a site ran before, or a release of it by its number: nothing is built or pushed.

        The site's agent stays the one that is. `ConfigError` if nothing is known to have run before, or the repository does not
        have it any more; `Untrusted` if keys signed it that do not count any more.
        """
        now = self.standing(site.site.site)
        version = version or self._before(site, now)
        old, at, ours = self.earlier(site, version), self._now().isoformat(), rules or rules_of(site)
        made = document.renewed(old, version, now.document if now else old, operator_name(), at, ours, rollout)
        self.settle(site, also=made.rights)
        if made.rights:
            bus.give_back(site, made.rights, self.clock)
        return self._published(site, made)

    def earlier(self, site: SiteFile, version: int) -> Document:
        """A release of a site as it was published. Errors as of `publish_again`."""
        path = artifact.site_name(site.site.site)
        try:
            found = artifact.get_document(self.repo, path, artifact.kept(version))
        except NotFound as e:
            raise ConfigError(
                f"release {version} of site {site.site.site} is not in {self.repo.where} (any more): check out the files that it "
                f"was made of, and  pipeline deploy --site {site.site.site}"
            ) from e
        assert found is not None  # nothing is known before
        if (stated := signed_version(self.roots[-1], found.statement, path, found.content)) != version:
            raise Replayed(
                f"what lies at {self.repo.where} as release {version} of {path} is release {stated}: it is not used"
            )
        return document.decode(found.content, site.site.site)

    def _before(self, site: SiteFile, now: Standing | None) -> int:
        """Number of the release to go back to. One that is the same as what runs, published anew, is none to go back from."""
        said = said_by(self.repo, site)
        found = status.before(said, now.version if now else 0, back=bool(now and now.document.renews))
        if now and found and found == said.running and document.alike(self.earlier(site, found), now.document):
            found = said.before
        if not found:
            runs = f"release {said.running} runs there, and none" if said.running else "no release"
            raise ConfigError(
                f"site {said.site}: {runs} is known to have run before: check out the files of what is to run, and  "
                f"pipeline deploy --site {said.site}"
            )
        return found

    def _published(self, site: SiteFile, made: Document) -> Published:
        content = document.encode(made)
        version = self._put(made.site, content)
        if made.rights:
            # another operator's `settle` may have been under way, and not have known of this
            bus.give_back(site, made.rights, self.clock)
        services = tuple(s.profile.service for s in made.services)
        return Published(made.site, version, made.what, services, len(content), self._exchanged(site, made.agent))

    def standing(self, site: str) -> Standing | None:
        """What is published for a site; None if nothing is that our keys signed and this version can read."""
        path = artifact.site_name(site)
        try:
            found = artifact.get_document(self.repo, path, artifact.DESIRED)
        except NotFound:
            return None
        assert found is not None  # nothing is known before
        try:
            version = signed_version(self.roots[-1], found.statement, path, found.content)
            return Standing(version, document.decode(found.content, site))
        except (ConfigError, Untrusted):
            return None

    def settle(self, site: SiteFile, *, also: str = "") -> int:
        """Take away the rights in Kafka that neither what a site runs needs nor `also`; how many those were.

        Never before the site has reported, signed, that what was published last is what runs well: until then it may go back to
        what ran before. Of a site's own broker its agent takes them away.
        """
        before = self.standing(site.site.site)
        if before is None or not before.document.rights or not self._runs(site, before.version):
            return 0
        removed = bus.take_away(site, [before.document.rights, also], self.clock).removed
        now = self.standing(site.site.site)
        if now and now.version != before.version and now.document.rights:  # another operator was here at the same time
            bus.give_back(site, now.document.rights, self.clock)
        return removed

    def _runs(self, site: SiteFile, version: int) -> bool:
        try:
            return said_by(self.repo, site).running == version
        except (Unavailable, Untrusted):
            return False

    def _exchanged(self, site: SiteFile, tags: Sequence[str]) -> str:
        if not tags:
            return "stays"
        try:
            has = said_by(self.repo, site).agent_image
        except (Unavailable, Untrusted):
            return "unknown"
        return "unknown" if not has else "stays" if has == tags[-1] else "is exchanged"

    def _granted(self, site: SiteFile, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Topics and rights: of the site's own broker the agent makes them, with the first words, and takes away with the second
        what is too much; of others we make them, now.
        """
        services = [p.service for p in services_at(site, plan)]
        if site.site.own_broker:
            words = [broker.grant_words(bus.request(site, plan, services, revoke=revoke)) for revoke in (False, True)]
            return words[0], words[1]
        bus.grant(site, plan, services, self.clock, revoke=False)
        return (), ()

    def _push(self, image: Image) -> None:
        with _PUSHING:
            if image.id not in self.there:
                release.push_image(self.repo, image, self.store)
                self.there.add(image.id)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_ns() // 10**9, UTC)

    def _put(self, site: str, content: bytes) -> int:
        if not self.there & {"roots"}:
            artifact.put_roots(self.repo, self.roots)
            self.there.add("roots")
        path, at = artifact.site_name(site), self._now()
        version = max(int(at.timestamp()), self._newest(path) + 1)
        statement = sign(content, path, version, at + timedelta(days=self.days_good), self.signers)
        artifact.put_document(
            self.repo, path, artifact.DESIRED, content, document.MEDIA_TYPE, statement, also=[artifact.kept(version)]
        )
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
