"""The whole site as objects, in the order in which they can be created."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from containers import images as image_names
from containers import names
from containers.desired import desired
from containers.kubernetes import fit, network, scaling, storage, workload
from containers.kubernetes.scope import Object, Scope
from containers.site import SiteFile
from containers.wanted import Desired
from pipelines.plan import Plan

SHARED = "00-namespace"  # kubectl takes the files of a folder by name, and the namespace must be there first


@dataclass(frozen=True)
class Rendering:
    """A site on Kubernetes."""

    namespace: str
    parts: Mapping[str, list[Object]]  # by name: what all services share, then each service
    images: Mapping[str, str]  # by service
    secrets: Mapping[str, str]  # by service: the command that brings them into the cluster

    @property
    def objects(self) -> list[Object]:
        """All of it."""
        return [o for part in self.parts.values() for o in part]


def render(site: SiteFile, plan: Plan, images: str, namespace: str | None = None) -> Rendering:
    """The manifests of a site. `images` is where the cluster finds them: REGISTRY/PREFIX.

    The base image counts by its name alone, since no engine is asked. `ConfigError` if the site or the pipeline is wrong, or
    asks for what Kubernetes cannot give.
    """
    namespace = namespace or f"{names.PREFIX}-{site.site.site}"
    fit.check(site, plan, namespace, images)
    scope = Scope(namespace)
    wanted = desired(site, plan, image_names.unseen(site.site.base_image), secrets=False)
    at = {d.service: f"{images}/{d.service}:{d.edition}" for d in wanted}
    about = {names.SITE: site.site.site, names.PIPELINE: plan.pipeline}
    shared = {SHARED: [*scope.shared(about), network.deny_all(scope)]}
    parts = shared | {d.service: list(_service(scope, d, plan, at[d.service])) for d in wanted}
    return Rendering(
        namespace, parts, at, {d.service: storage.secret_command(site, scope, d) for d in wanted if d.secrets}
    )


def _service(scope: Scope, d: Desired, plan: Plan, image: str) -> Iterator[Object]:
    yield network.policy(scope, d, plan)  # first, so that no pod ever runs without it
    yield storage.config_map(scope, d)
    if d.profile.keeps:
        yield storage.claim(scope, d)
    if listens := network.listens(d, plan):
        yield network.service(scope, d, listens)
    yield workload.deployment(scope, d, image, tuple(listens.values()))
    if d.service == workload.SCALES:
        yield scaling.autoscaler(scope, d)
        yield scaling.disruption_budget(scope, d)
