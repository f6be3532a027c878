"""What deploy does for a site's Kafka if the site file says mtls: certificates for the services, topics, ACLs."""

from __future__ import annotations

import asyncio
import contextvars
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from connectors import firmware
from connectors.control.bridge import topics_of
from containers.acls import ADMIN, acls, bearer
from containers.certs import Authority, Issued, principal
from containers.commands import File
from containers.profiles import FIRMWARE, PROFILES, SECRETS_FOLDER, UID
from containers.site import SiteFile
from pipelines.clock import Clock
from pipelines.plan import Plan
from pipelines.runtime import identity, kafka
from pipelines.settings import Settings
from pipelines.topics import unique

Files = Mapping[str, tuple[File, ...]]  # by service; none if its certificate is due to be issued


def authority(site: SiteFile, clock: Clock) -> Authority:
    """The authority that a site belongs to."""
    return Authority(site.resolve(site.site.kafka.certs), clock)


def identity_files(site: SiteFile, services: Iterable[str], clock: Clock, *, renew: bool) -> Files:
    """What each service identifies itself with; with `renew`, certificates are issued that are missing or near their end.

    `ConfigError` if the fleet has no authority here.
    """
    if site.site.kafka.security != "mtls":
        return {}
    ours = authority(site, clock)
    ca, found = ours.certificate, {s: _issued(ours, bearer(site.site.site, s), renew) for s in services}
    return {service: _files(ca, issued) if issued else () for service, issued in found.items()}


def _issued(ours: Authority, name: str, renew: bool) -> Issued | None:
    return ours.find(name) or (ours.issue(name) if renew else None)


def _files(ca: bytes, issued: Issued) -> tuple[File, ...]:
    content = {
        identity.CA_FILE: ca, identity.CERT_FILE: issued.certificate, identity.KEY_FILE: issued.key,
    }  # fmt: skip
    return tuple(File(f"{SECRETS_FOLDER}/{name}", data, mode=0o400, uid=UID) for name, data in content.items())


def grant(site: SiteFile, plan: Plan, services: Iterable[str], clock: Clock, *, revoke: bool) -> tuple[int, int]:
    """Make the site's topics and give its services their rights; how many were missing, and how many are too many.

    With `revoke` the latter are taken away; all, if the plan has no work for a service. Done as the site's admin, from this
    machine.
    """
    if site.site.kafka.security != "mtls":
        return 0, 0
    (files,) = identity_files(site, [ADMIN], clock, renew=True).values()
    with tempfile.TemporaryDirectory() as folder:  # 0700
        for file in files:
            assert isinstance(file.content, bytes)
            (Path(folder) / Path(file.path).name).write_bytes(file.content)
        return contextvars.copy_context().run(_as_admin, site, plan, tuple(services), folder, revoke)


def _as_admin(site: SiteFile, plan: Plan, services: tuple[str, ...], folder: str, revoke: bool) -> tuple[int, int]:
    s = site.site
    brokers = s.kafka.admin or s.brokers
    me = Settings(site=s.site, brokers=brokers, pipeline="", secrets_dir=folder, kafka_security="mtls")
    identity.become(bearer(s.site, ADMIN), me)
    needed = [
        *plan.topics(s.site, s.partitions),
        *(topics_of(plan, s.site, s.partitions) if "control" in services else []),
        *(firmware.topics_of(s.site) if FIRMWARE.service in services else []),
    ]
    wanted = {acl for service in services for acl in acls(plan, s.site, service)}

    async def work() -> tuple[int, int]:
        await kafka.ensure(brokers, unique(needed))
        all_of_site = [principal(bearer(s.site, service)) for service in (*PROFILES, FIRMWARE.service)]
        added, removed = await kafka.set_acls(brokers, wanted, all_of_site, revoke=revoke)
        return len(added), len(removed)

    return asyncio.run(work())
