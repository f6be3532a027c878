"""A site with a broker of its own, end to end on a real engine: no reading is lost, whatever happens to the broker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from containers import names
from tests.bed import wait_until
from tests.broker.site import NAME, SERVICES, OwnSite, resize
from tests.privilege.site import INSIDE, ask, attempt

pytestmark = pytest.mark.timeout(600)
# Kafka's settings of every topic, asked inside the broker's container as the broker itself.
TOPICS = """\
import asyncio, json
from pipelines.runtime import identity, kafka
from pipelines.settings import load
settings = load("/run/sitestream/settings.json")
identity.become("broker", settings)
print(json.dumps({t.name: [t.partitions, dict(t.settings)] for t in asyncio.run(kafka.topics_there(settings.brokers))}))
"""
# What collect tries with its own certificate: to read results; what anybody tries: to come without one.
READS = """\
import asyncio, sys
from pipelines.errors import SitestreamError
from pipelines.runtime import identity, kafka
from pipelines.settings import load
settings = load("/run/sitestream/settings.json")
async def main(topic):
    consumer = await kafka.consumer(settings.brokers)
    consumer.assign([kafka.Place(topic, 0)])
    await consumer.seek_to_beginning()
    try:
        return len((await asyncio.wait_for(consumer.getone(), 20)).value)
    finally:
        await kafka.stopped(consumer)
for name, topic in (("collect", "own.tiny.second"), ("collect", "own.reading"), ("", "own.reading")):
    if name:
        identity.become(name, settings)
    else:
        identity._identity.set(None)
    try:
        print("read", asyncio.run(main(topic)))
    except Exception as e:
        print("refused", type(e).__name__)
"""


@contextmanager
def readings(site: OwnSite) -> Iterator[None]:
    """Devices go on while something happens."""
    end = threading.Event()

    def publish() -> None:
        while not end.wait(0.1):
            site.publish(2)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_readings_flow_and_all_is_well(site: OwnSite) -> None:
    site.publish(50)
    site.all_arrive()
    services = site.status()["services"]
    assert [(s["service"], s["health"]) for s in services] == [(name, "healthy") for name in SERVICES]
    code, said, _ = site.run("doctor")
    assert (code, "the site's own broker answers, its topics take" in said) == (0, True), said


def test_what_was_acknowledged_gets_to_the_disk_without_being_asked(site: OwnSite) -> None:
    """Kafka notes how far each log is on the disk. No segment is full and nothing was stopped: only `flush` moves that."""
    note = site.folder / "disk" / "log" / "recovery-point-offset-checkpoint"

    def flushed() -> int:
        points = {f"{t}-{p}": int(o) for t, p, o in (line.split() for line in note.read_text().splitlines()[2:])}
        return points.get("own.reading-0", 0)

    wait_until(lambda: flushed() > 0, 20, "readings to be on the disk")


def test_deploying_again_changes_nothing(site: OwnSite) -> None:
    before = site.ids()
    assert site.run("plan", "--detailed-exitcode")[0] == 0
    code, err = site.deploy()
    assert (code, site.ids(), "granted" in err) == (0, before, False), err


def test_topics_fit_on_the_disk(site: OwnSite) -> None:
    found = json.loads(site.inside("broker", TOPICS))
    assert set(found) == {"own.reading", "own.tiny.second", "own.tiny.second-late", "own.tiny.state", "own.dead"}
    held = [
        int(s["retention.bytes"]) + 2 * int(s["segment.bytes"]) for _, s in found.values() if "retention.bytes" in s
    ]
    assert len(held) == 4
    assert 2**30 < sum(held) < 2 * 2**30 - 512 * 2**20
    used = sum(f.stat().st_blocks * 512 for f in (site.folder / "disk").rglob("*") if f.is_file())
    assert used < 2 * 2**30


def test_it_has_the_rights_that_it_needs_and_no_others(site: OwnSite) -> None:
    container = site.container("broker")
    facts = ask(container, {"say": 1})
    ids = [facts[of][kind].split() for of in ("first", "own") for kind in ("Uid", "Gid", "Groups")]
    assert {i for found in ids for i in found} == {"10001"}
    sets = [facts[of][f"Cap{kind}"] for of in ("first", "own") for kind in ("Eff", "Prm", "Bnd", "Inh", "Amb")]
    assert not any(int(found, 16) for found in sets)
    assert (facts["own"]["NoNewPrivs"], facts["own"]["Seccomp"], facts["setuid"]) == ("1", "2", [])
    assert "ro" in facts["mounts"]["/"][1].split(",")
    assert {"/" + place.split("/")[1] for place in facts["writable"] if place != "/dev/mqueue"} == {"/tmp", "/data"}
    assert (facts["limits"], facts["cgroup"]["processes"]) == ({"core": 0, "files": 16384}, "512")
    assert facts["cgroup"]["memory"] == facts["cgroup"]["with swap"] == str(512 * 2**20)
    assert facts["secrets"] == {f"kafka-{n}.pem": [0o400, 10001] for n in ("ca", "cert", "key")}
    told = {m["Destination"]: m["RW"] for m in container.attrs["Mounts"]}
    assert told == {"/run/sitestream": False, "/data": True}
    assert set(container.attrs["NetworkSettings"]["Networks"]) == {names.network(NAME, "bus")}
    assert not container.attrs["HostConfig"]["PortBindings"]


def test_it_reaches_nothing_outside_and_nobody_reaches_it_without_a_certificate(site: OwnSite) -> None:
    acts: dict[str, list[Any]] = {
        "the world": ["connect", "192.0.2.1", 443],
        "become root": ["become_root"],
        "speak with the engine": ["docker_socket"],
        "write in /opt": ["run_from", "/opt"],
    }
    assert {
        name: allowed for name, (allowed, _) in attempt(site.container("broker"), acts, program=INSIDE).items()
    } == (dict.fromkeys(acts, False))
    said = site.inside("collect", READS)
    assert [line.split()[0] for line in said.splitlines() if line.startswith(("read", "refused"))] == [
        "refused", "read", "refused",
    ], said  # fmt: skip
    key = site.container("broker").exec_run(
        ["python3", "-c", "print(open('/run/sitestream/secrets/kafka-key.pem').read())"]
    )
    text: Any = key.output
    shown = "".join(
        site.run(*words)[1] for words in (("plan", "-o", "json"), ("status", "-o", "json"), ("logs", "broker"))
    )
    assert text.decode().splitlines()[1] not in shown + json.dumps(site.container("broker").attrs)


def test_another_pipeline_never_restarts_it(site: OwnSite) -> None:
    before = site.ids()
    site.write(every="2s", more='second.where(Second.readings > 1).to(parquet.dataset("busy"), name="busy")')
    code, err = site.deploy()
    assert (code, "Kafka: 2 rights granted" in err, "taken away" in err) == (0, True, False), err
    assert {s for s, now in site.ids().items() if now != before[s]} == {"upload", "process"}


def test_rights_that_a_changed_pipeline_does_not_need_are_taken_away_after_it_runs(site: OwnSite) -> None:
    site.write(more="")
    code, err = site.deploy()
    assert (code, "granted" in err, "Kafka: 2 rights taken away" in err) == (0, False, True), err
    assert err.rindex("healthy") < err.index("taken away")


def test_killed_it_starts_again_and_nothing_that_it_acknowledged_is_lost(site: OwnSite) -> None:
    """A kill -9 does not take what the system has yet to write: for a power cut see docs/broker.md."""
    before = site.ids()
    with readings(site):
        time.sleep(1)
        site.kill9()
        wait_until(lambda: site.container("broker").attrs["RestartCount"] == 1, 20, "the engine to start it again")
        wait_until(site.answers, 180, "Kafka to answer again")
    site.all_arrive()
    assert {s: i for s, (i, _) in site.ids().items()} == {s: i for s, (i, _) in before.items()}


def test_a_new_one_takes_over_its_data_or_the_old_one_comes_back(site: OwnSite) -> None:
    before = site.ids()
    with readings(site):
        site.write(memory="448MiB")
        assert "~ broker    settings, container" in site.run("plan")[1]
        code, err = site.deploy("--health-timeout", "500ms")
        assert (code, "broker was not healthy within 0.5 s: starting" in err) == (3, True), err
        assert site.ids()["broker"][0] == before["broker"][0]
        wait_until(site.all_healthy, 120, "all to be well again")  # what is not well would be replaced as well
        code, err = site.deploy()
        assert code == 0, err
    after = site.ids()
    assert {s for s in SERVICES if after[s] != before[s]} == {"broker"}
    wait_until(site.all_healthy, 120, "all to be well")
    site.all_arrive()
    site.publish(10)
    code, _, err = site.run("rollback")
    assert code == 0, err
    assert site.ids()["broker"][0] == before["broker"][0]
    site.all_arrive()
    wait_until(site.all_healthy, 120, "all to be well")
    site.write(memory="512MiB")
    code, said, _ = site.run("plan", "--detailed-exitcode")
    assert code == 0, said


def test_a_full_disk_ends_it_and_it_comes_back_by_itself_once_there_is_room(site: OwnSite) -> None:
    disk, restarts = site.folder / "disk", site.container("broker").attrs["RestartCount"]
    used = sum(f.stat().st_blocks * 512 for f in disk.rglob("*") if f.is_file())
    resize(disk, str(used))
    site.publish(200)
    wait_until(lambda: site.container("broker").attrs["RestartCount"] > restarts, 120, "it to end")
    resize(disk, "3g")
    wait_until(site.answers, 180, "Kafka to answer again")
    site.publish(10)
    site.all_arrive()
