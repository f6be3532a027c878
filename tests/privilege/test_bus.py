"""What each service may do in Kafka, tried from within its container with the identity that it has there.

tests/bus/test_acls.py tries the same table with certificates alone; here they are those of the running services.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from pipelines.runtime import kafka
from pipelines.topics import Topic
from tests.bus.test_acls import GROUPS, MAY_READ, MAY_WRITE, TOPICS, TRANSACTIONS
from tests.privilege.site import NAME, SERVICES, LeastSite, Verdict, attempt

PROGRAM = Path(__file__).with_name("inside_bus.py").read_text()
SPARE = f"{NAME}.spare"
ADMINS_ONLY: dict[str, list[Any]] = {
    "make a topic": ["create", f"{NAME}.new"],
    "let a topic forget": ["alter", SPARE],
    "give rights": ["grant", "User:CN=somebody", SPARE],
    "write a topic of nobody": ["write", SPARE],
    "read a topic of nobody": ["read", SPARE],
    "empty a topic": ["empty", SPARE],
    "delete a topic": ["delete", SPARE],
}


def here(name: str) -> str:
    """A name of tests/bus at this site."""
    return name.replace("hall1", NAME)


def forbidden(service: str) -> dict[str, list[Any]]:
    """What a service has no right to; what it has a right to would disturb the site."""
    found = dict(ADMINS_ONLY)
    for kind, topic in TOPICS.items():
        found |= {} if kind in MAY_READ[service] else {f"read {kind}": ["read", here(topic)]}
        found |= {} if kind in MAY_WRITE[service] else {f"write {kind}": ["write", here(topic)]}
    for group, whose in GROUPS.items():
        found |= {} if whose == service else {f"set back {group}": ["commit", here(group), here(TOPICS["raw"])]}
    for transaction, owner in TRANSACTIONS.items():
        found |= {} if owner == service else {f"fence {transaction}": ["open_transactions", here(transaction)]}
    return found


@pytest.fixture(scope="module")
def spare(site: LeastSite) -> None:
    """Topics that no service of the site uses, and one of another site, each with a record."""

    async def make() -> None:
        names = (SPARE, here(TOPICS["positions"]), TOPICS["another site's"])
        await kafka.ensure(site.kafka.bootstrap, [Topic(name, 1) for name in names])
        producer = await kafka.producer(site.kafka.bootstrap)
        for topic in names:
            await producer.send_and_wait(topic, b"seen", partition=0)
        await kafka.stopped(producer)

    asyncio.run(make())


def tried(container: Container, who: str, acts: dict[str, list[Any]], how: str) -> dict[str, Verdict]:
    """Try them as somebody."""
    return attempt(container, acts, how, program=PROGRAM, more={"as": who})


@pytest.fixture(scope="module")
def of_service(site: LeastSite, spare: None) -> Callable[[str], dict[str, Verdict]]:
    """What became of all that is forbidden to a service."""
    return cache(lambda service: tried(site.container(service), service, forbidden(service), "try at once"))


@pytest.mark.parametrize(("service", "act"), [(s, a) for s in SERVICES for a in forbidden(s)])
def test_it_is_refused(of_service: Callable[[str], dict[str, Verdict]], service: str, act: str) -> None:
    allowed, said = of_service(service)[act]
    assert not allowed, said


def test_an_admin_may(site: LeastSite, too_free: Container, of_service: Callable[[str], dict[str, Verdict]]) -> None:
    for service in SERVICES:
        of_service(service)  # first, for the admin deletes the topic
    acts = {
        "read another site's": ["read", TOPICS["another site's"]],
        "set a group back": ["commit", f"{NAME}.of-nobody", SPARE],
        "have transactions": ["open_transactions", f"{NAME}.of-nobody"],
        **ADMINS_ONLY,
    }
    order = sorted(acts, key=lambda act: act == "delete a topic")
    found = tried(too_free, "admin", {act: acts[act] for act in order}, "try")
    assert {act for act, (allowed, _) in found.items() if allowed} == set(acts), found
    assert {said for _, said in found.values()} == {"done"}, found
