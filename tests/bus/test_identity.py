"""Services that show a certificate to a real broker: what works, and the one clear line of each mistake."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from containers.certs import DAYS, Authority, principal
from pipelines.clock import ManualClock, SystemClock
from pipelines.errors import ConfigError
from pipelines.runtime import identity, kafka
from pipelines.topics import Topic
from tests.bus.fleet import Fleet

DAY_NS = 86_400 * 10**9


async def test_an_admin_makes_a_topic_and_writes_and_reads_it(fleet: Fleet, tmp_path: Path, unique: str) -> None:
    fleet.become("s-admin", tmp_path / "secrets")
    brokers = fleet.kafka.tls_bootstrap
    await kafka.ensure(brokers, [Topic(unique, 1)])
    producer = await kafka.producer(brokers, transactional_id=unique)
    await producer.begin_transaction()
    await producer.send_and_wait(unique, b"one")
    await producer.commit_transaction()
    await kafka.stopped(producer)
    consumer = await kafka.consumer(brokers, unique, group=unique)
    assert (await asyncio.wait_for(consumer.getone(), 20)).value == b"one"
    await kafka.stopped(consumer)


async def test_what_no_acl_allows_is_refused_with_service_topic_and_cure(
    fleet: Fleet, tmp_path: Path, unique: str
) -> None:
    await kafka.ensure(fleet.kafka.bootstrap, [Topic(unique, 1), Topic(f"{unique}-own", 1)])
    me, brokers = principal("s-process"), fleet.kafka.tls_bootstrap
    await kafka.set_acls(fleet.kafka.bootstrap, [kafka.Acl(me, "write", "topic", f"{unique}-own")], [me], revoke=True)
    fleet.become("s-process", tmp_path / "secrets")
    producer = await kafka.producer(brokers)
    with pytest.raises(kafka.KafkaError) as refused:
        await producer.send_and_wait(unique, b"one")
    with pytest.raises(
        ConfigError, match=rf"^s-process may not use the topic {unique}, says the broker: run  pipeline deploy"
    ):
        kafka.raise_refusal(refused.value)
    await kafka.stopped(producer)
    with pytest.raises(ConfigError, match=rf"^s-process may not use the transactional id {unique}, says"):
        await kafka.producer(brokers, transactional_id=unique)
    with pytest.raises(ConfigError, match=rf"^s-process may not use the topic {unique}, says"):
        await kafka.ensure(brokers, [Topic(unique, 1)])


@pytest.mark.parametrize("name", [identity.CA_FILE, identity.CERT_FILE, identity.KEY_FILE])
async def test_a_missing_file(fleet: Fleet, tmp_path: Path, name: str) -> None:
    folder = fleet.become("s-process", tmp_path / "secrets")
    (folder / name).unlink()
    with pytest.raises(
        ConfigError, match=rf"^s-process: {folder / name} is missing: run  pipeline deploy , which issues"
    ):
        await kafka.consumer(fleet.kafka.tls_bootstrap)


async def test_a_key_of_another(fleet: Fleet, tmp_path: Path) -> None:
    other = fleet.become("s-upload", tmp_path / "other")
    folder = fleet.become("s-process", tmp_path / "secrets")
    shutil.copy(other / identity.KEY_FILE, folder)
    with pytest.raises(ConfigError, match=r"^s-process: \S*kafka-key.pem is not the key of \S*kafka-cert.pem: run"):
        await kafka.consumer(fleet.kafka.tls_bootstrap)


async def test_damage(fleet: Fleet, tmp_path: Path) -> None:
    folder = fleet.become("s-process", tmp_path / "secrets")
    (folder / identity.CERT_FILE).write_text("nonsense")
    with pytest.raises(ConfigError, match=r"^s-process: the certificates in \S+ cannot be read \("):
        await kafka.consumer(fleet.kafka.tls_bootstrap)


async def test_an_expired_certificate(fleet: Fleet, tmp_path: Path) -> None:
    past = ManualClock(SystemClock().now_ns() - (DAYS + 1) * DAY_NS)
    fleet.become("s-process", tmp_path / "secrets", Authority(fleet.authority.folder, past))
    with pytest.raises(ConfigError, match=r"^s-process: brokers will refuse \S+: certificate has expired: run"):
        await kafka.consumer(fleet.kafka.tls_bootstrap)


async def test_a_broker_of_another_fleet(fleet: Fleet, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", SystemClock())
    other.init()
    fleet.become("s-process", tmp_path / "secrets", other)
    at = fleet.kafka.tls_bootstrap
    with pytest.raises(
        ConfigError,
        match=rf"^s-process: the broker at {at} shows a certificate that cannot be trusted \(.*certs broker$",
    ):
        await kafka.consumer(at)


async def test_a_broker_that_does_not_believe_our_authority(fleet: Fleet, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", SystemClock())
    other.init()
    folder = fleet.become("s-process", tmp_path / "secrets", other)
    (folder / identity.CA_FILE).write_bytes(other.certificate + fleet.authority.certificate)
    with pytest.raises(ConfigError, match=r"^s-process: the broker at \S+ refuses our certificate \("):
        await kafka.consumer(fleet.kafka.tls_bootstrap)


async def test_a_port_without_tls(fleet: Fleet, tmp_path: Path) -> None:
    fleet.become("s-process", tmp_path / "secrets")
    with pytest.raises(
        ConfigError, match=r"^s-process: the broker at \S+ does not speak TLS \(.+\): name its TLS port"
    ):
        await kafka.consumer(fleet.kafka.bootstrap)
