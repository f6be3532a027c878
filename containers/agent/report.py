"""Reads what a site's agent reported, on the operator's machine."""

from __future__ import annotations

from containers.agent import status
from containers.agent.status import Reported, Status
from containers.repository import artifact
from containers.repository.base import Repository
from containers.repository.errors import NotFound
from containers.repository.registry import Registry
from containers.site import SiteFile
from pipelines.clock import Clock
from pipelines.errors import ConfigError, Unavailable


def registry_of(site: SiteFile) -> Registry:
    """The repository of a site that pulls."""
    own = site.site.agent
    return Registry(own.push or own.repository, ca=site.resolve(own.ca) if own.ca else None, plain=own.plain)


def read_report(site: SiteFile, clock: Clock) -> Reported:
    """How a site that pulls is. `Unavailable` if it has not reported yet, or the repository does not answer; `Untrusted` if
    the report is not the site's own."""
    require_key(site)
    with registry_of(site) as repo:
        return status.reported(said_by(repo, site), clock.now_ns() / 1e9)


def said_by(repo: Repository, site: SiteFile) -> Status:
    """The last report of a site in a repository. Errors as of `read_report`."""
    name = site.site.site
    require_key(site)
    try:
        found = artifact.get_document(repo, status.path(name), status.TAG)
    except NotFound as e:
        raise Unavailable(f"the agent of site {name} has not reported yet to {repo.where}") from e
    assert found is not None  # nothing is known before
    return status.decode(found.content, name, site.site.agent.key)


def require_key(site: SiteFile) -> None:
    """`ConfigError` if a site that pulls was not enrolled."""
    name = site.site.site
    if not site.site.agent.key:
        raise ConfigError(f"site {name} has no agent.key yet: pipeline agent enrol --site {name}")
