"""What deploy does for a site's Kafka if it speaks mTLS: certificates for the services and its own broker, topics, ACLs."""

from __future__ import annotations

import asyncio
import contextvars
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from connectors import firmware
from connectors.control.bridge import topics_of
from containers.acls import ADMIN, OPERATOR, acls, bearer, of_operator
from containers.certs import Authority, Issued, principal
from containers.commands import File
from containers.profiles import BROKER, FIRMWARE, PROFILES, SECRETS_FOLDER, UID
from containers.site import OWN_BROKER, SiteFile
from pipelines.clock import Clock
from pipelines.errors import ConfigError
from pipelines.plan import Plan
from pipelines.runtime import identity, kafka, sizing
from pipelines.runtime.grants import Answer, Request, carry_out
from pipelines.settings import Settings
from pipelines.topics import Topic, unique
from pipelines.units import size_bytes

T = TypeVar("T")
BROKER_HOSTS = (OWN_BROKER.partition(":")[0], "localhost")  # for the services, and for the broker itself
NewLoop = Callable[[], asyncio.AbstractEventLoop]
Files = Mapping[str, tuple[File, ...]]  # by service; none if its certificate is due to be issued


def authority(site: SiteFile, clock: Clock) -> Authority:
    """The authority that a site belongs to."""
    return Authority(site.resolve(site.site.kafka.certs), clock)


def identity_files(site: SiteFile, services: Iterable[str], clock: Clock, *, renew: bool) -> Files:
    """What each service identifies itself with; with `renew`, certificates are issued that are missing or near their end.

    `ConfigError` if the fleet has no authority here.
    """
    if site.site.security != "mtls":
        return {}
    ours = authority(site, clock)
    ca, found = ours.certificate, {s: _issued(ours, site.site.site, s, renew) for s in services}
    return {s: _files(ca, issued, _uid(s)) if issued else () for s, issued in found.items()}


def _issued(ours: Authority, site: str, service: str, renew: bool) -> Issued | None:
    name, hosts = bearer(site, service), BROKER_HOSTS if service == BROKER.service else ()
    return ours.find(name) or (ours.issue(name, hosts) if renew else None)


def _uid(service: str) -> int:
    return BROKER.uid if service == BROKER.service else UID


def _files(ca: bytes, issued: Issued, uid: int) -> tuple[File, ...]:
    content = {
        identity.CA_FILE: ca, identity.CERT_FILE: issued.certificate, identity.KEY_FILE: issued.key,
    }  # fmt: skip
    return tuple(File(f"{SECRETS_FOLDER}/{name}", data, mode=0o400, uid=uid) for name, data in content.items())


def request(site: SiteFile, plan: Plan, services: Iterable[str], *, revoke: bool) -> Request:
    """The topics of a site and the rights of its services, and of people at its own broker; with `revoke` what they have
    besides is taken away.
    """
    s, bearers = site.site, [*PROFILES, FIRMWARE.service]
    wanted = {acl for service in services for acl in acls(plan, s.site, service)}
    disk = 0
    if s.own_broker:
        wanted |= of_operator(plan, s.site)
        bearers.append(OPERATOR)
        disk = size_bytes(s.kafka.disk)
    all_of_site = tuple(principal(bearer(s.site, name)) for name in bearers)
    return Request(topics_of_site(site, plan), tuple(sorted(wanted)), all_of_site, revoke, disk)


def topics_of_site(site: SiteFile, plan: Plan) -> tuple[Topic, ...]:
    """Every topic that a plan needs at a site."""
    name, partitions = site.site.site, site.site.partitions
    commands = topics_of(plan, name, partitions) if any(plan.sinks_of("control")) or site.site.devices else []
    updates = firmware.topics_of(name) if site.site.firmware else []
    return unique([*plan.topics(name, partitions), *commands, *updates])


def check(site: SiteFile, plan: Plan) -> None:
    """`ConfigError` if the site's own broker has no room for the plan's topics, or cannot have one of them. Reads nothing."""
    if not site.site.own_broker:
        return
    wanted = topics_of_site(site, plan)
    if others := [t.name for t in wanted if t.foreign]:
        raise ConfigError(
            f"{site.path}: the pipeline reads the topic {others[0]} of other programs, which do not reach the site's own broker "
            "(kafka.broker = 'container'): name the brokers that have it as `brokers` instead"
        )
    try:
        sizing.fitted(wanted, size_bytes(site.site.kafka.disk))
    except ConfigError as e:
        raise ConfigError(f"{site.path}: {e}") from e


def grant(site: SiteFile, plan: Plan, services: Iterable[str], clock: Clock, *, revoke: bool) -> Answer:
    """Make the site's topics and give its services their rights, as the site's admin and from this machine.

    See `request`; all rights go if the plan has no work for a service.
    """
    if site.site.security != "mtls":
        return Answer(0, 0)
    asked = request(site, plan, services, revoke=revoke)
    return as_admin(site, clock, lambda brokers: carry_out(brokers, asked))


def rights_of(site: SiteFile, plan: Plan, services: Iterable[str]) -> str:
    """The rights that a plan needs in a Kafka that is not the site's own, for `take_away`; empty if it has none there."""
    if site.site.security != "mtls" or site.site.own_broker:
        return ""
    return msgspec.structs.replace(request(site, plan, services, revoke=True), topics=()).word()


def take_away(site: SiteFile, but: Iterable[str], clock: Clock) -> Answer:
    """Take from a site's services all rights but these, of one or more plans, as `rights_of` has them."""
    return _held(site, but, clock, revoke=True)


def give_back(site: SiteFile, rights: str, clock: Clock) -> Answer:
    """See that a site's services have these rights, and leave those that they have besides."""
    return _held(site, [rights], clock, revoke=False)


def _held(site: SiteFile, rights: Iterable[str], clock: Clock, *, revoke: bool) -> Answer:
    asked = [Request.of(word) for word in rights if word]
    acls = tuple(sorted({acl for r in asked for acl in r.acls}))
    whose = tuple(dict.fromkeys(p for r in asked for p in r.principals))

    async def work(brokers: str) -> Answer:
        added, removed = await kafka.set_acls(brokers, acls, whose, revoke=revoke)
        return Answer(len(added), len(removed))

    return as_admin(site, clock, work)


def as_admin(site: SiteFile, clock: Clock, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Do `work` at a site's Kafka, whose address it is given, as the site's admin and from this machine."""
    return _as(ADMIN, site, clock, site.site.kafka.admin or site.site.brokers, work)


def as_operator(
    site: SiteFile, clock: Clock, brokers: str, work: Callable[[str], Coroutine[Any, Any, T]], loop: NewLoop | None = None
) -> T:  # fmt: skip
    """Do `work` at a site's own broker as people may, see `acls.of_operator`; in a `loop` that knows a way there."""
    return _as(OPERATOR, site, clock, brokers, work, loop)


def _as(
    who: str, site: SiteFile, clock: Clock, brokers: str, work: Callable[[str], Coroutine[Any, Any, T]],
    loop: NewLoop | None = None,
) -> T:  # fmt: skip
    s = site.site
    files = identity_files(site, [who], clock, renew=True).get(who, ())
    with tempfile.TemporaryDirectory() as folder:  # 0700
        for file in files:
            assert isinstance(file.content, bytes)
            (Path(folder) / Path(file.path).name).write_bytes(file.content)
        me = Settings(site=s.site, brokers=brokers, pipeline="", secrets_dir=folder, kafka_security=s.security)

        def there() -> T:
            identity.become(bearer(s.site, who), me)
            with asyncio.Runner(loop_factory=loop) as runner:
                return runner.run(work(brokers))

        return contextvars.copy_context().run(there)
