"""Who may do what: on paper, and tried with every identity on a real broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from containers import bus
from containers.acls import acls, bearer, of_operator
from containers.certs import principal
from containers.desired import services_at
from pipelines import topics
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError
from pipelines.plan import Plan
from pipelines.runtime import kafka
from tests.bus.fleet import Fleet, site_toml
from tests.containers.kit import site_of

SERVICES = ("collect", "process", "upload", "control", "firmware")
TOPICS = {
    "raw": "hall1.reading", "result": "hall1.tiny.second", "state": "hall1.tiny.state", "dead": "hall1.dead",
    "commands": "hall1.control.cmd", "acks": "hall1.control.ack",
    "desired": "hall1.twin.desired", "reported": "hall1.twin.reported", "hints": "hall1.fw.desired", "updates": "hall1.fw.status",
    "audit": "hall1.audit", "updates' audit": "hall1.fw.audit", "positions": "hall1.collect.position",
    "another site's": "hall2.reading",
}  # fmt: skip
MAY_READ = {
    "collect": {"raw", "positions"}, "process": {"raw", "state"}, "upload": {"result"},
    "control": {"result", "commands", "acks", "desired", "reported"},
    "firmware": {"hints", "updates"},
}  # fmt: skip
MAY_WRITE = {
    "collect": {"raw", "positions", "dead"}, "process": {"result", "state", "dead"}, "upload": {"dead"},
    "control": {"commands", "acks", "desired", "reported", "audit", "dead"}, "firmware": {"updates", "updates' audit", "dead"},
}  # fmt: skip
GROUPS = {
    "hall1.tiny": "process", "hall1.tiny.upload": "upload", "hall1.control": "control", "hall1.control.alarms": "control",
}  # fmt: skip
TRANSACTIONS = {"hall1.tiny.0": "process", "hall1.tiny.3": "process", "hall1.control": "control",
    "hall1.firmware": "firmware", "hall2.tiny.0": None,
}  # fmt: skip
FIRMWARE = '[firmware]\nrepository = "https://fw"\nmqtt = "mqtt://edge"\n'


POLLED = """
from connectors import http
class Level(Schema):
    tank = Key[str]()
    m = Col[float]()
tiny.read(http.poll(Level, url="http://tanks/"))
"""


def shown(plan: Plan, service: str) -> set[str]:
    return {f"{a.operation} {a.kind} {a.name}{'*' * a.prefixed}" for a in acls(plan, "hall1", service)}


def test_rights_follow_from_the_plan(tmp_path: Path) -> None:
    _, plan = site_of(tmp_path)
    for_all = {"describe topic hall1.*", "write topic hall1.dead"}
    assert shown(plan, "collect") == for_all | {"read topic hall1.reading", "write topic hall1.reading"}
    assert shown(plan, "process") == for_all | {
        "read topic hall1.reading", "write topic hall1.tiny.second",
        "read topic hall1.tiny.state", "write topic hall1.tiny.state", "read group hall1.tiny",
        "write transactional id hall1.tiny.*",
    }  # fmt: skip
    assert shown(plan, "upload") == for_all | {"read topic hall1.tiny.second", "read group hall1.tiny.upload"}
    assert shown(plan, "control") == for_all | {
        "read topic hall1.tiny.second", "read topic hall1.control.cmd", "write topic hall1.control.cmd",
        "read topic hall1.control.ack", "write topic hall1.control.ack", "write topic hall1.audit", "read group hall1.control",
        *(f"{may} topic hall1.twin.{side}" for may in ("read", "write") for side in ("desired", "reported")),
        "read group hall1.control.alarms", "write transactional id hall1.control",
    }  # fmt: skip


def test_who_polls_has_a_record_of_how_far_it_came(tmp_path: Path) -> None:
    _, plan = site_of(tmp_path, more=POLLED)
    rights = {"read topic hall1.collect.position", "write topic hall1.collect.position"}
    assert rights <= shown(plan, "collect")
    for other in ("process", "upload", "control", "firmware"):
        assert not any("position" in right for right in shown(plan, other)), other


def test_people_have_rights_of_their_own_at_a_sites_own_broker_only(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path)
    rights = of_operator(plan, "hall1")
    assert {a.principal for a in rights} == {"User:CN=hall1-operator"}
    assert {f"{a.operation} {a.kind} {a.name}{'*' * a.prefixed}" for a in rights} == {
        "describe topic hall1.*", "read topic hall1.reading", "read topic hall1.control.ack", "read topic hall1.audit",
        "read topic hall1.twin.desired", "read topic hall1.twin.reported", "read topic hall1.fw.status",
        "read topic hall1.fw.audit",
        "write topic hall1.control.cmd", "write topic hall1.fw.desired",
    }  # fmt: skip
    asked = bus.request(site, plan, ["process"], revoke=True)
    assert "User:CN=hall1-operator" not in {*asked.principals, *(a.principal for a in asked.acls)}


def test_an_exchange_is_written_and_read_by_process_and_a_foreign_topic_read_by_it_alone(tmp_path: Path) -> None:
    more = (
        "from connectors import kafka\nclass Order(Schema):\n    line = Key[str]()\n    device = Col[str]()\n    n = Col[int]()\n"
        "class Pieces(Schema):\n    n = agg.sum(Order.n)\n"
        'orders = tiny.read(kafka.source(Order, topic="erp.orders", stream="orders", time="at"))\n'
        'orders.key_by(Order.device).window(tumbling("1s", late="0s"), Pieces).to(parquet.dataset("tiny/pieces"))\n'
    )
    _, plan = site_of(tmp_path, more=more)
    (exchange,) = {plan.topic("hall1", step) for step in plan.exchanges}
    assert {
        "read topic erp.orders",
        "describe topic erp.orders",
        f"read topic {exchange}",
        f"write topic {exchange}",
    } <= shown(plan, "process")
    for other in ("collect", "upload", "control"):
        found = {right for right in shown(plan, other) if "erp.orders" in right or exchange in right}
        assert found == {"describe topic erp.orders"}, other


def test_a_wish_for_births_is_written_by_collect_and_read_by_control_where_there_are_edge_nodes(tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    _, plan = site_of(tmp_path)
    _, edge = site_of(
        tmp_path / "edge", more='tiny.read(mqtt.sparkplug(Reading, broker="mqtt://edge", stream="nodes"))\n'
    )
    right = {(service, r) for service in SERVICES for r in shown(edge, service) if "rebirth" in r}
    assert right == {
        ("collect", "write topic hall1.control.rebirth"),
        ("control", "read topic hall1.control.rebirth"),
    }
    assert topics.rebirths("hall1") in {t.name for t in edge.topics("hall1", 2)}
    assert not [r for service in SERVICES for r in shown(plan, service) if "rebirth" in r]


def granted(fleet: Fleet, folder: Path, name: str = "hall1") -> tuple[int, int]:
    folder.mkdir(exist_ok=True)
    site, plan = site_of(folder, site_toml(fleet, name) + FIRMWARE, more=POLLED)
    return bus.grant(site, plan, [p.service for p in services_at(site, plan)], SystemClock(), revoke=True)


async def test_each_forbidden_act_is_refused_by_the_broker(fleet: Fleet, tmp_path: Path) -> None:
    for name in ("hall1", "hall2"):
        await asyncio.to_thread(granted, fleet, tmp_path / name, name)
    producer = await kafka.producer(fleet.kafka.bootstrap)
    for topic in TOPICS.values():
        await producer.send_and_wait(topic, b"seen", key=b"k", partition=0)
    await kafka.stopped(producer)
    for service in SERVICES:
        fleet.become(bearer("hall1", service), tmp_path / service)
        got = await asyncio.gather(*(reads(fleet, topic) for topic in TOPICS.values()))
        assert {kind for kind, may in zip(TOPICS, got, strict=True) if may} == MAY_READ[service], f"{service} reads"
        got = await writes(fleet, list(TOPICS.values()))
        assert {kind for kind, may in zip(TOPICS, got, strict=True) if may} == MAY_WRITE[service], f"{service} writes"
        mine = [g for g in GROUPS if await joins(fleet, g)]
        assert mine == [g for g, owner in GROUPS.items() if owner == service]
        opened = [t for t in TRANSACTIONS if await opens(fleet, t)]
        assert opened == [t for t, owner in TRANSACTIONS.items() if owner == service]


async def reads(fleet: Fleet, topic: str) -> bool:
    consumer = await kafka.consumer(fleet.kafka.tls_bootstrap)
    try:
        place = kafka.Place(topic, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        return bool((await asyncio.wait_for(consumer.getone(), 3)).value)
    except TimeoutError:  # what it may not even describe does not exist for it
        return False
    except kafka.KafkaError as e:
        return refused(e, f"topic {topic}")
    finally:
        await kafka.stopped(consumer)


async def writes(fleet: Fleet, names: list[str]) -> list[bool]:
    producer = await kafka.producer(fleet.kafka.tls_bootstrap)
    found = []
    for topic in names:
        try:
            found.append(bool(await producer.send_and_wait(topic, b"x", key=b"k", partition=0)))
        except kafka.KafkaError as e:
            found.append(refused(e, f"topic {topic}"))
    await kafka.stopped(producer)
    return found


async def joins(fleet: Fleet, group: str) -> bool:
    consumer = await kafka.consumer(fleet.kafka.tls_bootstrap, group=group)
    try:
        await asyncio.wait_for(consumer.committed(kafka.Place(TOPICS["raw"], 0)), 10)
    except kafka.KafkaError as e:
        # the offset of a topic that it may not read is refused as well, but as a topic
        return "Topic" in type(e).__name__ or refused(e, f"consumer group {group}")
    finally:
        await kafka.stopped(consumer)
    return True


async def opens(fleet: Fleet, transactional_id: str) -> bool:
    try:
        await kafka.stopped(await kafka.producer(fleet.kafka.tls_bootstrap, transactional_id=transactional_id))
    except ConfigError as e:
        if f"may not use the transactional id {transactional_id}, says the broker" not in str(e):
            raise
        return False
    return True


def refused(error: BaseException, what: str) -> bool:
    """False, after a look at what the service would say."""
    with pytest.raises(ConfigError, match=f"may not use the {what}, says the broker: run"):
        kafka.raise_refusal(error)
    return False


async def test_granting_again_changes_nothing_and_what_is_too_much_is_taken_away(fleet: Fleet, tmp_path: Path) -> None:
    await asyncio.to_thread(granted, fleet, tmp_path)
    assert await asyncio.to_thread(granted, fleet, tmp_path) == (0, 0)
    me = principal("hall1-collect")
    too_much = kafka.Acl(me, "write", "topic", topics.commands("hall1"))
    others = kafka.Acl(principal("somebody"), "write", "topic", topics.commands("hall1"))
    _, plan = site_of(tmp_path, more=POLLED)
    wanted = [*acls(plan, "hall1", "collect"), too_much]
    assert await kafka.set_acls(fleet.kafka.bootstrap, wanted, [me], revoke=False) == ({too_much}, set())
    await kafka.set_acls(fleet.kafka.bootstrap, [others], [others.principal], revoke=True)
    assert await asyncio.to_thread(granted, fleet, tmp_path) == (0, 1)
    assert await asyncio.to_thread(granted, fleet, tmp_path) == (0, 0)
    assert await kafka.set_acls(fleet.kafka.bootstrap, [others], [others.principal], revoke=True) == (set(), set())


async def test_whoever_is_no_admin_cannot_grant(fleet: Fleet, tmp_path: Path) -> None:
    fleet.become("stranger", tmp_path / "stranger")
    with pytest.raises(ConfigError, match=r"^stranger may not use the cluster \(its access control lists\), says"):
        await kafka.set_acls(fleet.kafka.tls_bootstrap, [], ["User:CN=x"], revoke=True)


async def test_a_broker_without_an_authorizer(plain: str) -> None:
    with pytest.raises(ConfigError, match=r"set authorizer.class.name=org\.apache\.kafka\.metadata"):
        await kafka.set_acls(plain, [], ["User:CN=x"], revoke=True)
