"""Each part of the test bed is real and does what the tests rely on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiomqtt
import obstore
import pytest
from obstore.exceptions import AlreadyExistsError
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from containers.child import Child
from containers.embedded import EmbeddedKafka, EmbeddedMqtt
from containers.fetch import kafka_jars
from containers.repository.base import sha256
from containers.repository.registry import Registry
from pipelines.errors import Unavailable
from tests.bed import find_part, free_port, until, wait_until
from tests.bed.engine import Engine
from tests.bed.firewall import iptables
from tests.bed.mosquitto import Mosquitto
from tests.bed.prometheus import Prometheus
from tests.bed.registry import ImageRegistry
from tests.bed.s3 import S3
from tests.bed.slots import take_slot
from tests.bed.topics import consume_all, create_topic, produce

# Ask Kafka for its brokers (Metadata request, version 1), print where it says it lives, then try the world outside.
_PROBE = """
import socket, struct, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
link.sendall(struct.pack(">ihhihi", 14, 3, 1, 1, -1, 0))
reply = link.recv(512)
length, = struct.unpack_from(">h", reply, 16)
print(reply[18:18 + length].decode(), *struct.unpack_from(">i", reply, 18 + length), sep=":")
try:
    socket.create_connection(("192.0.2.1", 80), 1)
except OSError:
    print("unreachable")
"""


async def test_kafka_keeps_what_is_produced(kafka: EmbeddedKafka, unique: str) -> None:
    topic = await create_topic(kafka.bootstrap, unique)
    await produce(kafka.bootstrap, topic, b"one", b"two")
    assert await consume_all(kafka.bootstrap, topic) == [b"one", b"two"]


async def test_kafka_keeps_records_through_stop_and_kill(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path) as kafka:
        topic = await create_topic(kafka.bootstrap, "kept")
        await produce(kafka.bootstrap, topic, b"before the stop")
        kafka.stop()
        kafka.start()
        await produce(kafka.bootstrap, topic, b"before the kill")
        kafka.kill9()
        kafka.start()
        assert await consume_all(kafka.bootstrap, topic) == [b"before the stop", b"before the kill"]


def test_a_second_kafka_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path), pytest.raises(Unavailable, match="Kafka already runs on"):
        EmbeddedKafka(tmp_path).start()


def test_a_port_in_use_is_named(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with pytest.raises(Unavailable, match=f"port {mosquitto.port} of 127.0.0.1 is in use"):
        EmbeddedMqtt(tmp_path, port=mosquitto.port).start()
    with pytest.raises(Unavailable, match=f"port {mosquitto.port} of 127.0.0.1 is in use"):
        EmbeddedKafka(tmp_path, port=mosquitto.port).start()


async def test_mosquitto_redelivers_after_a_restart(mosquitto: Mosquitto, unique: str) -> None:
    await _subscribe_and_leave(mosquitto.port, unique)
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.publish(unique, b"while you were out", qos=1)
    mosquitto.stop()
    assert not mosquitto.running
    mosquitto.start()
    assert await _first_message(mosquitto.port, unique) == b"while you were out"


async def test_embedded_mqtt_redelivers_to_a_persistent_session(tmp_path: Path, unique: str) -> None:
    with EmbeddedMqtt(tmp_path) as broker:
        await _subscribe_and_leave(broker.port, unique)
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await client.publish(unique, b"while you were out", qos=1)
        assert await _first_message(broker.port, unique) == b"while you were out"


def test_s3_refuses_to_overwrite_when_asked(s3: S3, unique: str) -> None:
    store = s3.store(prefix=unique)
    obstore.put(store, "a.parquet", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "a.parquet", b"second", mode="create")
    assert (s3.folder / s3.bucket / unique / "a.parquet").read_bytes() == b"first"


def test_registry_keeps_what_was_pushed_through_a_restart(registry: ImageRegistry, unique: str) -> None:
    with Registry(registry.address) as repo:
        repo.push_blob(unique, sha256(b"blob"), 4, b"blob")
        registry.stop()
        assert not registry.running
        registry.start()
        assert repo.has_blob(unique, sha256(b"blob"))


def test_engine_runs_a_hardened_container(engine: Engine) -> None:
    program = "import os; print(os.getuid()); open('/forbidden', 'w')"
    container = engine.client.containers.create(
        engine.base_image,
        ["python3", "-c", program],
        user="65532",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
    )
    container.start()
    assert container.wait()["StatusCode"] == 1
    assert container.logs(stderr=False) == b"65532\n"
    assert b"Read-only file system" in container.logs(stdout=False)


def test_engine_enforces_memory_and_process_limits(engine: Engine) -> None:
    greedy = engine.client.containers.create(
        engine.base_image, ["python3", "-c", "bytearray(256 << 20)"], mem_limit="64m", network_mode="none"
    )
    greedy.start()
    assert greedy.wait()["StatusCode"] == 137
    forks = "import os, time\nwhile os.fork(): pass\ntime.sleep(9)"
    bomb = engine.client.containers.create(
        engine.base_image, ["python3", "-c", forks], pids_limit=16, network_mode="none"
    )
    bomb.start()
    assert bomb.wait()["StatusCode"] == 1
    assert b"BlockingIOError" in bomb.logs()


def test_containers_on_an_internal_network_reach_kafka_and_nothing_else(
    engine: Engine, kafka: EmbeddedKafka, unique: str
) -> None:
    engine.network(unique)
    host, port = kafka.advertised_bootstrap.split(":")
    out = engine.client.containers.run(
        engine.base_image, ["python3", "-c", _PROBE, host, port], network=unique, extra_hosts=engine.hosts(unique)
    )
    assert out.decode().split() == [f"{host}:{port}", "unreachable"]


def test_a_second_engine_leaves_the_networks_of_the_first_apart(engine: Engine, unique: str) -> None:
    engine.network(unique)
    apart = _isolation_rules()
    assert apart
    with Engine() as second:
        assert second.url != engine.url
        assert second.client.containers.list() == []
        assert apart <= _isolation_rules()


def test_prometheus_scrapes_and_answers(prometheus: Callable[..., Prometheus]) -> None:
    registry = CollectorRegistry()
    Gauge("bed_answer", "A number", registry=registry).set(42)
    server, thread = start_http_server(0, "127.0.0.1", registry=registry)
    try:
        monitor = prometheus([f"127.0.0.1:{server.server_port}"])
        ((labels, value),) = wait_until(lambda: monitor.query("bed_answer"), 15, "a scrape")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (labels["job"], value) == ("sitestream", 42)


def test_a_missing_part_is_an_error_with_its_cure() -> None:
    with pytest.raises(Unavailable, match="`no-such-broker`, which is not installed: run `make test`"):
        find_part("no-such-broker")


def test_a_program_that_ends_while_starting_shows_its_last_words(tmp_path: Path) -> None:
    child = Child("the printer", ["sh", "-c", "echo paper jam; exit 3"], tmp_path / "log")
    with pytest.raises(Unavailable, match=r"(?s)the printer ended with code 3 .*Open the lid.*paper jam"):
        child.start(lambda: False, cure="Open the lid.")
    assert not child.running


def test_a_program_that_never_answers_is_ended(tmp_path: Path) -> None:
    child = Child("the sleeper", ["sleep", "60"], tmp_path / "log")
    with pytest.raises(Unavailable, match=r"the sleeper did not answer within 0.2 s"):
        child.start(lambda: False, timeout_s=0.2)
    assert not child.running


def test_fetching_without_a_network_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match=r"Check that this machine reaches it, or name a running broker"):
        kafka_jars(tmp_path)
    assert not list(tmp_path.iterdir())


async def test_waiting_in_vain_says_what_for_and_what_was_seen_last() -> None:
    with pytest.raises(TimeoutError, match=r"waited 0.1 s for the moon: it last gave \[\]"):
        wait_until(list, 0.1, "the moon")
    with pytest.raises(TimeoutError, match=r"for a division: it last raised ZeroDivisionError"):
        await until(lambda: 1 // 0, 0.1, "a division")


def test_processes_have_numbers_of_their_own_until_they_give_them_back(tmp_path: Path) -> None:
    locks = [tmp_path / "0" / "lock", tmp_path / "1"]
    (zero, lock), (one, other) = take_slot(locks, "processes run"), take_slot(locks, "processes run")
    with other, lock:
        assert (zero, one) == (0, 1)
        with pytest.raises(Unavailable, match="2 processes run already: end some of those test sessions"):
            take_slot(locks, "processes run")
        lock.close()
        again, lock_again = take_slot(locks, "processes run")
        with lock_again:
            assert again == 0


def _isolation_rules() -> set[str]:
    return {rule for rule in iptables("-S").splitlines() if rule.startswith("-A DOCKER-ISOLATION") and "br-" in rule}


async def _subscribe_and_leave(port: int, topic: str) -> None:
    async with aiomqtt.Client("127.0.0.1", port, identifier=topic, clean_session=False) as client:
        await client.subscribe(topic, qos=1)


async def _first_message(port: int, topic: str) -> object:
    async with aiomqtt.Client("127.0.0.1", port, identifier=topic, clean_session=False) as client:
        async for message in client.messages:
            return message.payload
    return None
