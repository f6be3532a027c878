"""A site that pulls, for real: enrolled, published to, lied to, cut off, killed in the middle; it runs what is signed for it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from containers import images, names
from containers.embedded import EmbeddedKafka
from containers.profiles import UID
from containers.repository import artifact
from containers.repository.keys import Keys
from containers.repository.registry import Registry
from containers.repository.statement import sign
from pipelines.clock import SystemClock
from tests.agent.plant import CRASHES, DIES_LATER, Plant, lines
from tests.bed.engine import Engine

pytestmark = pytest.mark.timeout(400)
CODE_BYTES_MAX = 300_000
MEMORY_KB_MAX = 80_000


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, engine: Engine, kafka: EmbeddedKafka) -> Iterator[Plant]:
    """See `Plant.enrolled`; its first release runs."""
    with Plant.enrolled(tmp_path_factory.mktemp("pull"), engine, kafka) as plant:
        plant.applied(plant.publish())
        yield plant


def test_a_site_that_pulls_is_told_of_with_the_others(plant: Plant) -> None:
    said = plant.status()
    code, out, _ = plant.run("status", "-o", "json")
    value = json.loads(out)
    assert code == 0
    assert (value["release"], value["newest_release"], value["trouble"]) == (said.running, said.running, "")
    assert [(s["service"], s["state"]) for s in value["services"]] == [("process", "running")]
    code, out, _ = plant.run("status")
    assert re.search(rf"release {said.running}, newest {said.running}, reported \d+ seconds ago by its agent", out)


def test_deploy_plan_and_rollback_go_by_its_agent(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("containers.fleet.pulled.LOOK_S", 0.5)
    before, revision = plant.process.id, plant.status().actual.revision
    assert plant.run("plan", "--detailed-exitcode", "--engine", plant.engine.url)[0] == 0
    assert plant.run("deploy", *plant.means)[:2] == (0, f"{plant.name}: done, revision {revision}\n")
    assert plant.process.id == before, "the same again replaces nothing"
    code, _, err = plant.run("rollback", *plant.means)
    assert code == 1
    assert (
        f"site {plant.name}: release {plant.status().running} runs there, and none is known to have run before" in err
    )


def test_the_agent_has_the_socket_and_nothing_else(plant: Plant) -> None:
    about, host = plant.agent.attrs, plant.agent.attrs["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert not host["Privileged"]
    assert not host["PortBindings"]
    assert about["Config"].get("ExposedPorts") is None
    assert about["Config"]["User"] == f"{UID}:{UID}"
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert list(about["NetworkSettings"]["Networks"]) == [names.network(plant.name, "wan")]
    sockets = [m["Destination"] for m in about["Mounts"] if m["Type"] == "bind"]
    assert sockets == ["/run/docker.sock"]
    inside = """import os
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
listening = [line for n in ('tcp', 'tcp6', 'udp', 'udp6') for line in open(f'/proc/net/{n}').readlines()[1:]
             if line.split()[3] in ('0A', '07') and not line.split()[1].startswith('0B00007F')]
print(os.getuid(), status['CapEff'].strip(), status['NoNewPrivs'].strip(), len(listening), os.path.exists('/bin/sh'))
import importlib.util
print([m for m in ('numpy', 'pyarrow', 'aiokafka', 'click') if importlib.util.find_spec(m)])
"""
    said = plant.inside(plant.agent, inside)
    assert said == f"{UID} 0000000000000000 1 0 False\n[]\n"
    memory = plant.inside(plant.agent, "print([l for l in open('/proc/1/status') if l.startswith('VmRSS')][0])")
    assert int(memory.split()[1]) < MEMORY_KB_MAX
    process = plant.process.attrs
    assert not [m for m in process["Mounts"] if m["Type"] == "bind"]


def test_secrets_are_for_the_site_alone_and_its_keys_stay_there(plant: Plant) -> None:
    for found in plant.registry.folder.rglob("data"):
        assert b"very secret" not in found.read_bytes()
    said = plant.inside(plant.process, "print(open('/run/sitestream/secrets/unused').read())")
    assert said.strip() == "very secret"
    kept = plant.inside(plant.agent, "print(open('/data/identity.a.json').read())")
    private = json.loads(kept.partition("\n")[2])
    for file in plant.folder.rglob("*"):
        if file.is_file():
            assert private["signing"].encode() not in file.read_bytes()


def test_a_changed_filter_is_pulled_with_few_bytes(plant: Plant) -> None:
    before = plant.process.id
    plant.write()
    release = plant.publish()
    plant.applied(release)
    assert plant.process.id != before
    _, _, log = plant.log().partition(f"release {release} was published")
    (fetched,) = lines(log, "fetching")  # of all layers that one alone, which holds our code and the pipeline's file
    assert float(re.findall(r"process:\w+: fetching ([\d.]+) kB", fetched)[0]) * 1000 < CODE_BYTES_MAX


def forged(plant: Plant, version: int, *, days: int, keys: str = "keys") -> None:
    """Put what the site runs there again, as somebody else would."""
    path = artifact.site_name(plant.name)
    with Registry(plant.address, plain=True) as repo:
        found = artifact.get_document(repo, path, artifact.DESIRED)
        assert found
        signers = Keys(plant.folder / keys, SystemClock()).release_signers()
        expires = datetime.now(UTC) + timedelta(days=days)
        statement = sign(found.content, path, version, expires, signers)
        artifact.put_document(repo, path, artifact.DESIRED, found.content, found.media_type, statement)


def test_forged_old_and_expired_releases_are_refused_and_the_next_one_is_taken(plant: Plant) -> None:
    before, running = plant.process.id, plant.status().running
    assert plant.run("keys", "init", "--keys", str(plant.folder / "thieves"))[0] == 0
    for message, version, days, keys in (
        ("does not know that key for this", running + 50, 30, "thieves"),
        (f"came in version {running - 1}, and version {running} was seen before", running - 1, 30, "keys"),
        ("expired at", running + 50, -1, "keys"),
    ):
        forged(plant, version, days=days, keys=keys)
        plant.until(lambda message=message: message in plant.status().trouble, f"{message} to be told")
        assert plant.process.id == before
    code, out, _ = plant.run("status", "--site", str(plant.folder / "site.toml"))
    assert code == 0
    assert "expired at" in out
    assert plant.applied(plant.publish()).trouble == ""
    assert plant.process.id == before, "the same content needs no new container"


def test_without_the_registry_the_site_runs_on_and_catches_up(plant: Plant) -> None:
    before = plant.process.id
    plant.write()
    release = plant.publish()  # and at once nobody can fetch it any more
    plant.registry.stop()
    try:
        plant.agent.restart()  # the machine was started anew, without a network
        plant.process.remove(force=True)
        plant.until(lambda: lines(plant.log(), "cannot be reached"), "the outage to be told")
        plant.until(lambda: plant.process.status == "running", "the site to be held to what it was")
        assert plant.process.id != before
    finally:
        plant.registry.start()
    plant.applied(release)


def test_a_version_that_crashes_or_dies_in_the_soak_goes_back_and_blocks_nothing(plant: Plant) -> None:
    good, before = plant.status().running, plant.process.id
    for first_lines, soak, message in (
        (CRASHES, "0s", "process ended"),
        (DIES_LATER, "30s", "process ended"),
    ):
        plant.write(first_lines, soak=soak)
        bad = plant.publish()
        plant.until(
            lambda bad=bad: f"release {bad} failed and is not tried again" in plant.status().trouble, "a verdict", 90
        )
        assert message in plant.status().trouble
        assert (plant.status().running, plant.status().newest) == (good, bad)
        assert plant.process.id == before
    assert "the new version is broken" in plant.log(), "the last lines of what failed are in the agent's log"
    plant.write()
    assert plant.applied(plant.publish()).trouble == ""


def test_killed_in_mid_deploy_it_goes_on_from_there(plant: Plant) -> None:
    before = plant.process.id
    plant.write()
    release = plant.publish()
    plant.until(lambda: lines(plant.log(), "process: starting")[-1:] and _starts(plant, before), "the swap to begin")
    plant.agent.kill("SIGKILL")
    plant.agent.start()  # as after a power cut: what was killed by hand is not started by the engine
    said = plant.applied(release)
    assert said.trouble == ""
    assert [c.image for c in said.actual.containers]
    kept: list[Any] = plant.engine.client.containers.list(all=True, filters={"label": f"{names.SITE}={plant.name}"})
    assert sum(c.status == "running" for c in kept) == 1


def _starts(plant: Plant, before: str | None) -> bool:
    found = plant.engine.client.containers.list(filters={"label": f"{names.SITE}={plant.name}"})
    return bool(found) and all(c.id != before for c in found)


def test_its_history_is_on_its_engine_as_everywhere(plant: Plant) -> None:
    code, out, _ = plant.run("history", "-o", "json")
    assert code == 0
    attempts = json.loads(out)["attempts"]
    assert {"done", "rolled back", "broken off"} <= {a["result"] for a in attempts}
    assert all(a["note"].startswith("release ") for a in attempts if a["note"])


def another_agent(monkeypatch: pytest.MonkeyPatch, *, last_lines: str = "") -> None:
    """What is published from now on names an agent of other code."""
    made = images.agent_contents

    def other(*words: Any) -> images.Contents:
        found = made(*words)
        service = next(f for f in found.files if f.path.endswith("containers/agent/service.py"))
        text = service.content + f"\n# another {last_lines!r}\n{last_lines}\n".encode()
        files = tuple(replace(f, content=text) if f is service else f for f in found.files)
        return replace(found, files=files, code=hashlib.sha256(text).hexdigest())

    monkeypatch.setattr("containers.images.agent_contents", other)


def agents(plant: Plant) -> list[str]:
    found = plant.engine.client.containers.list(all=True, filters={"label": f"{names.AGENT}={plant.name}"})
    return [str(c.name) for c in found]


def test_a_newer_agent_takes_over_and_one_that_is_broken_does_not(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, running, image = plant.agent.id, plant.process.id, plant.status().agent_image
    with monkeypatch.context() as patch:
        another_agent(patch, last_lines="raise RuntimeError('the new agent is broken')")
        bad = plant.publish()
    plant.until(lambda: lines(plant.log(), "the new agent ended: "), "it to be given up")
    assert "RuntimeError: the new agent is broken" in plant.log()
    assert plant.agent.id == first
    assert (plant.status().running, plant.status().agent_image) == (bad, image)
    with monkeypatch.context() as patch:
        another_agent(patch)
        code, out, err = plant.run("publish", *plant.means)
    assert code == 0, err
    assert "is exchanged" in out
    plant.until(lambda: plant.status().agent_image != image, "the new agent to report")
    plant.until(lambda: agents(plant) == [names.agent(plant.name)] and plant.agent.id != first, "it to take over")
    assert plant.process.id == running
    new = plant.agent
    os.kill(new.attrs["State"]["Pid"], signal.SIGKILL)  # the engine starts it again
    plant.write()
    with monkeypatch.context() as patch:
        another_agent(patch)
        said = plant.applied(plant.publish())
    assert said.trouble == ""
    assert said.agent_image != image
    assert plant.agent.attrs["RestartCount"] == 1
    assert (plant.agent.id, agents(plant)) == (new.id, [names.agent(plant.name)])
    assert said.agent_image in plant.run("status")[1]


def test_without_its_agent_a_site_runs_on_and_nothing_is_left_of_a_site_that_is_destroyed(plant: Plant) -> None:
    running = plant.process.id
    label: Any = {"label": f"{names.AGENT}={plant.name}"}
    assert plant.run("agent", "remove")[0] == 0
    client = plant.engine.client
    assert not client.containers.list(all=True, filters=label)
    assert not client.volumes.list(filters=label)
    assert plant.process.id == running
    assert plant.run("agent", "enrol", "--reset", "--keys", str(plant.folder / "keys"))[0] == 0  # with new keys
    plant.applied(plant.publish())
    assert plant.process.id == running
    assert plant.run("destroy", "-y", "--lock-timeout", "60s")[0] == 0
    for found in (f"{names.AGENT}={plant.name}", f"{names.SITE}={plant.name}"):
        assert not client.containers.list(all=True, filters={"label": found})
        assert not client.volumes.list(filters={"label": found})
