"""What each service may do in Kafka, as a pure function of the plan. docs/bus.md has the table.

`describe` is granted for all of the site's topics and the foreign ones that it reads: services check at their start that all are
there. It shows names and numbers of partitions, no content.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connectors.control.bridge import origins
from containers.certs import principal
from pipelines import topics
from pipelines.plan import SOURCES, Plan, foreign
from pipelines.runtime.kafka import Acl

ADMIN = "admin"  # makes topics and ACLs; must be among the broker's super.users
OPERATOR = "operator"  # people at a site's own broker, which has no other super user than itself


def bearer(site: str, service: str) -> str:
    """The common name of a service's certificate."""
    return f"{site}-{service}"


def acls(plan: Plan, site: str, service: str) -> set[Acl]:
    """All that one service of a site may do."""
    who = principal(bearer(site, service))
    rights = {"collect": _collect, "process": _process, "upload": _upload, "control": _control, "firmware": _firmware}[
        service
    ]
    always = [Acl(who, "describe", "topic", f"{site}.", prefixed=True), Acl(who, "write", "topic", topics.dead(site))]
    always += [Acl(who, "describe", "topic", source.topic) for source in _foreign(plan)]
    return {*always, *rights(plan, site, who)}


def of_operator(plan: Plan, site: str) -> set[Acl]:
    """What people's tools may do: read how devices are, hand in commands, which control judges, and say that there is a plan."""
    who = principal(bearer(site, OPERATOR))
    streams = [topics.stream(site, name) for name, source in plan.sources.items() if not foreign(source)]
    of_devices = [topics.acks, topics.audit, topics.twin_desired, topics.twin_reported]
    of_devices += [topics.firmware_status, topics.firmware_audit]
    reads = [Acl(who, "read", "topic", name) for name in (*streams, *(topic(site) for topic in of_devices))]
    writes = [Acl(who, "write", "topic", topic(site)) for topic in (topics.commands, topics.firmware_desired)]
    return {Acl(who, "describe", "topic", f"{site}.", prefixed=True), *reads, *writes}


def _foreign(plan: Plan) -> list[Any]:
    return [source for source in plan.sources.values() if foreign(source)]


def _collect(plan: Plan, site: str, who: str) -> Iterator[Acl]:
    for stream, source in plan.sources.items():
        if getattr(source, "reader", None):
            yield from _both(
                who, topics.stream(site, stream)
            )  # reads how far its watermark was before it was started again
    if plan.needs_births:
        yield Acl(who, "write", "topic", topics.rebirths(site))
    if plan.keeps_positions:
        yield from _both(who, topics.positions(site))


def _process(plan: Plan, site: str, who: str) -> Iterator[Acl]:
    for step in plan.steps:
        if step.kind in SOURCES:
            yield Acl(who, "read", "topic", plan.topic(site, step.name))
    for output in plan.outputs:
        yield Acl(who, "write", "topic", plan.topic(site, output))
    for exchange in plan.exchanges:
        yield Acl(who, "read", "topic", plan.topic(site, exchange))
    yield from _both(who, topics.state(site, plan.pipeline))
    yield Acl(who, "read", "group", f"{site}.{plan.pipeline}")
    yield Acl(who, "write", "transactional id", f"{site}.{plan.pipeline}.", prefixed=True)


def _upload(plan: Plan, site: str, who: str) -> Iterator[Acl]:
    for step, _ in plan.sinks_of("parquet"):
        yield Acl(who, "read", "topic", plan.topic(site, step.name))
    yield Acl(who, "read", "group", f"{site}.{plan.pipeline}.upload")


def _control(plan: Plan, site: str, who: str) -> Iterator[Acl]:
    yield from (Acl(who, "read", "topic", name) for name in origins(plan, site))
    yield from (*_both(who, topics.commands(site)), *_both(who, topics.acks(site)))
    yield from (*_both(who, topics.twin_desired(site)), *_both(who, topics.twin_reported(site)))
    yield Acl(who, "write", "topic", topics.audit(site))
    if plan.needs_births:
        yield Acl(who, "read", "topic", topics.rebirths(site))
    yield from (Acl(who, "read", "group", f"{site}.control{part}") for part in ("", ".alarms"))
    yield Acl(who, "write", "transactional id", f"{site}.control")


def _firmware(plan: Plan, site: str, who: str) -> Iterator[Acl]:
    yield Acl(who, "read", "topic", topics.firmware_desired(site))
    yield from _both(who, topics.firmware_status(site))
    yield Acl(who, "write", "topic", topics.firmware_audit(site))
    yield Acl(who, "write", "transactional id", f"{site}.firmware")


def _both(who: str, topic: str) -> Iterator[Acl]:
    yield Acl(who, "read", "topic", topic)
    yield Acl(who, "write", "topic", topic)
