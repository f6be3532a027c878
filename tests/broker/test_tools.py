"""What people's tools do at a site with a broker of its own, through its engine; the part of control is played in the broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from connectors import firmware
from connectors.control import audit
from connectors.control.bridge import topics_of
from connectors.control.commands import Command
from connectors.control.ledger import Entry, State
from connectors.control.twin import Reported
from containers import broker, bus, reach
from containers.acls import OPERATOR, of_operator
from containers.agent.disk import Disk
from containers.agent.publish import Publisher
from containers.agent.turn import Agent
from containers.cli import main
from containers.deploy import Operator
from containers.desired import layer_store
from containers.engine import Engine as Site
from containers.firmware import reach as of_firmware
from containers.repository.layout import Folder
from containers.repository.trust import TrustStore
from containers.site import SiteFile, load_site
from pipelines import topics
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.runtime import kafka
from pipelines.topics import unique
from tests.bed import wait_until
from tests.bed.ways import behind_ssh, behind_tls
from tests.broker.site import NAME, OwnSite
from tests.repository.plant import RELEASE_KEYS, make_root

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]
CLI = (sys.executable, "-m", "containers.cli")
# What control and firmware would write, and what they would read, done by the broker itself.
AS_BROKER = """\
import asyncio, json
from pipelines.runtime import identity, kafka
from pipelines.settings import load
settings = load("/run/sitestream/settings.json")
identity.become("broker", settings)
async def put(records, much):
    producer = await kafka.producer(settings.brokers)
    for topic, key, value in records:
        await producer.send(topic, value.encode(), key=key.encode())
    topic, value = much
    for n in range(100):
        await producer.send(topic, value.replace("FILL", 100_000 * "x").encode(), key=str(n).encode())
    await producer.flush()
    await kafka.stopped(producer)
async def read(topic):
    consumer = await kafka.consumer(settings.brokers, topic)
    found = [r.value.decode() for records in (await consumer.getmany(timeout_ms=5000)).values() for r in records]
    await kafka.stopped(consumer)
    return found
async def give(who, topic):
    acl = kafka.Acl(who, "write", "topic", topic)
    await kafka.set_acls(settings.brokers, [acl], [], revoke=False)
async def rights(who):
    admin = await kafka._admin(settings.brokers)
    found = await kafka._acls_of(admin, who)
    await kafka.stopped(admin)
    return sorted([a.operation, a.kind, a.name, a.prefixed] for a in found)
print(json.dumps(asyncio.run({call})))
"""


@dataclass
class Tools:
    """The site, and a key that somebody has."""

    site: OwnSite
    key: Path

    @property
    def file(self) -> SiteFile:
        return load_site(self.site.folder / "site.toml")

    def as_broker(self, call: str) -> Any:
        """What a call of `AS_BROKER` gives."""
        said = self.site.inside("broker", AS_BROKER.replace("{call}", call))
        return json.loads(said.splitlines()[-1])

    def write(self, engine: str) -> str:
        """A site file with another way to the engine."""
        folder, text = self.site.folder, (self.site.folder / "site.toml").read_text()
        tls = 'engine_tls = {ca = "ca.pem", cert = "ca.pem", key = "key.pem"}\n' if engine.startswith("tcp") else ""
        (folder / "tools.toml").write_text(tls + text.replace(self.site.engine.url, engine))
        return str(folder / "tools.toml")

    def run(self, *words: str, engine: str = "", code: int = 0) -> Any:
        """What `pipeline words… -o json` says, by another way to the engine; or its error."""
        words = (*words, "--site", self.write(engine or self.site.engine.url), "-o", "json")
        if engine.startswith("ssh"):  # docker's client leaves processes of it to the end of ours
            done = subprocess.run(CLI + words, cwd=ROOT, capture_output=True, text=True, check=True)
            return json.loads(done.stdout)
        said = CliRunner().invoke(main, words)
        assert said.exit_code == code, (said.output, said.exception)
        return json.loads(said.stdout) if code == 0 else said.stderr

    @property
    def relays(self) -> list[str]:
        """The programs in the broker's container that carry for somebody."""
        processes = self.site.container("broker").top()["Processes"]
        return [line[-1] for line in processes if "signal.alarm" in line[-1]]

    def nothing_left(self) -> None:
        wait_until(lambda: not self.relays, 20, "the programs in the broker's container to end")


@pytest.fixture(scope="module")
def tools(site: OwnSite) -> Tools:
    """It has the topics of control and firmware, and what these would have written."""
    wait_until(site.answers, 120, "Kafka to answer")
    file = load_site(site.folder / "site.toml")
    plan = load(file.pipeline).plan()
    asked = bus.request(file, plan, ["collect", "process", "upload"], revoke=False)
    more = unique([*asked.topics, *topics_of(plan, NAME, 1), *firmware.topics_of(NAME)])
    with closing(Site(site.engine.url)) as engine:
        broker.grant(engine, str(site.container("broker").name), msgspec.structs.replace(asked, topics=more))
    CliRunner().invoke(main, ["device", "keys", "new", "anna", "--folder", str(site.folder)])
    made = Tools(site, site.folder / "anna.key")
    reported = Reported(device="d", version=1, values={"speed": 2.0}, applied=0, at_ns=5, since_ns=0)
    noted = audit.Record(
        at_ns=7, who="berta", issuer="anna", device="d", verb="stop", args={}, command="a", state="QUEUED"
    )
    records = [
        (topics.acks(NAME), "a", an_entry("a")),
        (topics.twin_reported(NAME), "d", msgspec.json.encode(reported).decode()),
        (topics.audit(NAME), "", msgspec.json.encode(noted).decode()),
    ]
    made.as_broker(f"put({records!r}, {(topics.acks(NAME), an_entry('much', 'FILL'))!r})")
    return made


def an_entry(name: str, detail: str = "") -> str:
    command = Command(id=name, device="d", verb="stop", args={}, issuer="anna", issued_at_ns=1, expires_at_ns=2)
    entry = Entry(command=command, state=State.SUCCEEDED, updated_at_ns=3, partition=0, detail=detail)
    return msgspec.json.encode(entry).decode()


@contextmanager
def way(kind: str, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address of the engine."""
    for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):  # which `requests` puts before what it is told
        monkeypatch.delenv(name, raising=False)
    folder, url = tools.site.folder, tools.site.engine.url
    if kind == "tls":
        with behind_tls(folder, url) as address:
            yield address
    elif kind == "ssh":
        with behind_ssh(folder / "bin", url) as address:
            monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
            yield address
    else:
        yield url


def test_commands_are_sent_and_all_is_shown(tools: Tools) -> None:
    tools.site.publish(1)
    sent = tools.run("device", "send", "d", "stop", "--key", str(tools.key))["command"]
    commands = [json.loads(text) for text in tools.as_broker(f"read({topics.commands(NAME)!r})")]
    assert [(c["id"], c["issuer"]) for c in commands] == [(sent, "anna")]
    assert [c["state"] for c in tools.run("device", "status")["commands"] if c["id"] == "a"] == ["SUCCEEDED"]
    assert [r["who"] for r in tools.run("device", "audit")["records"]] == ["berta"]
    assert tools.run("device", "twin", "d")["reported"]["values"] == {"speed": 2.0}
    shown = {d["device"]: d for d in tools.run("devices")["devices"]}
    assert shown["d"]["readings"][0]["values"] == {"n": tools.site.sent - 1}
    tools.nothing_left()


@pytest.mark.parametrize("kind", ["tls", "ssh"])
def test_megabytes_come_and_commands_go_however_the_engine_is_reached(
    tools: Tools, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with way(kind, tools, monkeypatch) as engine:
        found = tools.run("device", "status", engine=engine)["commands"]
        assert [len(c["detail"]) for c in found if c["id"] == "much"] == [100_000] * 100
        text = "text=" + "y" * 40_000
        sent = tools.run("device", "send", "d", kind, text, "--key", str(tools.key), engine=engine)["command"]
    got = [json.loads(text) for text in tools.as_broker(f"read({topics.commands(NAME)!r})")]
    assert [len(c["args"]["text"]) for c in got if c["id"] == sent] == [40_000]
    tools.nothing_left()


@pytest.mark.parametrize(("kind", "end"), [("unix", signal.SIGINT), ("ssh", signal.SIGKILL)])
def test_a_live_view_goes_on_until_it_ends_and_leaves_nothing(
    tools: Tools, kind: str, end: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with way(kind, tools, monkeypatch) as engine:
        words = [*CLI, "devices", "--site", tools.write(engine), "--watch", "1", "-o", "json", "--device", "d"]
        with subprocess.Popen(words, cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
            assert process.stdout
            assert process.stderr
            lines = (json.loads(line)["devices"][0]["readings"][0]["values"]["n"] for line in process.stdout)
            first = next(lines)
            wait_until(lambda: tools.relays, 20, "a program that carries for the next look")
            tools.site.publish(1)
            assert tools.site.sent - 1 in lines, first
            process.send_signal(end)
            process.stdout.read()
            said = process.stderr.read()
    assert (process.returncode, said) == ((130, "\nerror: interrupted\n") if end == signal.SIGINT else (-9, ""))
    tools.nothing_left()


def test_people_have_the_rights_that_their_tools_need_and_no_others(tools: Tools) -> None:
    plan = load(tools.file.pipeline).plan()
    wanted = sorted([a.operation, a.kind, a.name, a.prefixed] for a in of_operator(plan, NAME))
    assert tools.as_broker(f"rights('User:CN={NAME}-{OPERATOR}')") == wanted

    async def read(at: str) -> None:
        consumer = await kafka.consumer(at)
        try:
            consumer.assign([kafka.Place(f"{NAME}.tiny.second", 0)])
            await consumer.seek_to_beginning()
            await consumer.getone()
        except kafka.KafkaError as e:
            kafka.raise_refusal(e)
        finally:
            await kafka.stopped(consumer)

    async def write(at: str) -> None:
        producer = await kafka.producer(at)
        try:
            await producer.send_and_wait(f"{NAME}.reading", b"x")
        except kafka.KafkaError as e:
            kafka.raise_refusal(e)
        finally:
            await kafka.stopped(producer)

    for work, topic in ((read, "own.tiny.second"), (write, "own.reading")):
        with pytest.raises(ConfigError, match=f"own-operator may not use the topic {topic}, says the broker"):
            reach.at_kafka(tools.file, None, work)


def test_whoever_has_the_operators_certificate_needs_no_authority(tools: Tools) -> None:
    certs = tools.site.folder / "certs"
    key = (certs / "ca.key").rename(certs / "away.key")
    try:
        assert tools.run("device", "status", "none")["commands"] == []
        issued = (certs / f"{NAME}-{OPERATOR}.pem").rename(certs / "other.txt")
        assert "ca.key cannot be read" in tools.run("device", "status", code=1)
        issued.rename(certs / f"{NAME}-{OPERATOR}.pem")
    finally:
        key.rename(certs / "ca.key")


def test_what_is_not_as_it_should_be_is_told(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "OWN_BROKER", "broker:9")
    name = tools.site.container("broker").name
    assert (
        f"the broker of site own was not reached in {name} (Connection refused): it may be starting; see  pipeline logs broker"
    ) in tools.run("device", "status", code=1)
    monkeypatch.undo()
    tools.site.container("broker").pause()
    try:
        assert "the broker of site own is paused: see  pipeline logs broker" in tools.run("device", "status", code=1)
    finally:
        tools.site.container("broker").unpause()
    other = tools.site.folder / "other.toml"
    other.write_text((tools.site.folder / "site.toml").read_text().replace('"own"', '"other"', 1))
    said = CliRunner().invoke(main, ["device", "status", "--site", str(other)])
    assert f"site other has no broker on its engine at {tools.site.engine.url} yet: deploy it first" in said.stderr


def test_firmware_campaigns_reach_it_too(tools: Tools) -> None:
    assert of_firmware.statuses([tools.file]) == ({NAME: (None, [])}, {})
    assert of_firmware.hint([tools.file], 5) == {}
    assert tools.as_broker(f"read({topics.firmware_desired(NAME)!r})") == ['{"counter": 5}']


class All(set[str]):
    """The ids of images that a repository is said to have: those of a site that runs are on its engine already."""

    def __contains__(self, image: object) -> bool:
        return True


def test_an_agent_takes_away_what_the_release_that_runs_does_not_need(tools: Tools, tmp_path: Path) -> None:
    """The site is one that pulls, for once: the agent finds what it should run, running."""
    folder, clock = tools.site.folder, SystemClock()
    said: list[str] = []
    root, disk, repo = (
        make_root(created=datetime.now(UTC) - timedelta(days=1)),
        Disk(tmp_path),
        Folder(tmp_path / "repo"),
    )
    disk.enrol()
    me, trusted = disk.identity(), TrustStore(tmp_path / "trust")
    trusted.init(root)
    agent_table = f'\n[agent]\nrepository = "registry.example/press"\nkey = "{me.public}"\nexchange = false\n'
    (folder / "pulled.toml").write_text((folder / "site.toml").read_text() + agent_table)
    site = load_site(folder / "pulled.toml")
    process, before = f"User:CN={NAME}-process", tools.site.ids()
    tools.as_broker(f"give({process!r}, {NAME + '.surplus'!r})")
    with closing(Site(tools.site.engine.url)) as engine:
        base = Operator(site, engine, lambda text, *, bad=False: None).whole_base()
        publisher = Publisher(repo, RELEASE_KEYS[:1], [root], layer_store(), clock, 90, All())
        publisher.publish(site, load(site.pipeline).plan(), base)
        agent = Agent(
            NAME, engine, repo, trusted, disk, me, lambda text, *, bad=False: said.append(text), "0.1.0", clock
        )
        assert agent.turn(), said
        assert "Kafka: 1 rights taken away" in said
        assert [NAME + ".surplus" for right in tools.as_broker(f"rights({process!r})") if "surplus" in right[2]] == []
        assert agent.turn(), said
    assert said.count("Kafka: 1 rights taken away") == 1
    assert tools.site.ids() == before
    assert tools.run("device", "status", "none")["commands"] == [], "people keep theirs"
