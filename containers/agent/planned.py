"""What publishing for a site that pulls would change: from its last report, and the release that it runs. No engine is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from containers import broker, bus
from containers.agent import document, status
from containers.agent.document import Document, Service
from containers.agent.report import said_by
from containers.agent.status import about
from containers.deployer import Deployment, images_of
from containers.images import Base
from containers.oci import Image
from containers.repository import artifact
from containers.repository.base import Repository
from containers.rollout import Container
from containers.site import SiteFile
from containers.wanted import hash_of
from pipelines.clock import Clock
from pipelines.errors import SitestreamError, Unavailable
from pipelines.plan import Plan


def planned(repo: Repository, site: SiteFile, plan: Plan, base: Base, clock: Clock) -> Deployment:
    """What a deploy would do, as `Operator.plan` has it. Changes nothing. `Unavailable` if the site is silent."""
    said = status.reported(said_by(repo, site), clock.now_ns() / 1e9)
    if said.silent:
        raise Unavailable(f"its agent reported last {about(said.age_s)} ago")
    services = [p.service for p in broker.services_of(site, plan)]
    wanted = tuple(broker.everything(site, plan, base, bus.identity_files(site, services, clock, renew=False)))
    runs = _running(repo, site.site.site, said.status.running if said.status else 0)
    known = {s.profile.service: s for s in runs.services} if runs else {}
    actual = replace(said, containers=tuple(_told(c, known.get(c.service)) for c in said.containers))
    seen = Deployment(wanted, actual, ill=False)
    return replace(seen, lacking=_lacking(images_of(seen.fresh), runs.images if runs else {}))


def _running(repo: Repository, site: str, version: int) -> Document | None:
    """The release that runs, if it can be had. It is not verified: what it says counts where it agrees with the report."""
    try:
        found = artifact.get_document(repo, artifact.site_name(site), artifact.kept(version))
        return document.decode(found.content, site) if found else None
    except Unavailable:
        raise
    except SitestreamError:
        return None


def _told(seen: Container, runs: Service | None) -> Container:
    """A container as it was reported, with what its release tells of it, if it was made of that."""
    if runs is None or hash_of(dict(runs.parts)) != seen.fingerprint:
        return seen
    return replace(seen, parts=runs.parts, settings=msgspec.to_builtins(runs.settings), versions=runs.state)


def _lacking(images: Iterable[Image], there: Mapping[str, Image]) -> dict[str, int]:
    """Bytes that the site has to fetch of each image, by its tag, if it has nothing but the images of the release that runs."""
    have = {layer.diff_id for image in there.values() for layer in image.layers}
    found: dict[str, int] = {}
    for image in images:
        new = {layer.diff_id: layer.size for layer in image.layers if layer.diff_id not in have}
        have |= new.keys()
        found.setdefault(image.tag, sum(new.values()))
    return found
