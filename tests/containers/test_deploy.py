"""A site, deployed for real: four containers, each with the rights it needs and no more, replaced one without the others."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from containers.embedded import EmbeddedKafka
from containers.hold import operator_name
from tests.bed.engine import Engine
from tests.bed.mosquitto import Mosquitto
from tests.bed.s3 import S3
from tests.containers.plant import CRASHES, HANGS, SERVICES, Plant

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, kafka: EmbeddedKafka, mosquitto: Mosquitto, s3: S3
) -> Iterator[Plant]:
    """See `Plant.deployed`."""
    with Plant.deployed(tmp_path_factory.mktemp("plant"), engine, kafka, mosquitto, s3) as plant:
        yield plant


@pytest.fixture(autouse=True)
def _as_its_files_say(plant: Plant) -> Iterator[None]:
    yield
    plant.write()


def test_all_services_are_healthy_and_readings_flow_from_devices_to_the_store(plant: Plant) -> None:
    status = plant.status()
    assert {s["service"]: (s["state"], s["health"]) for s in status["services"]} == dict.fromkeys(
        SERVICES, ("running", "healthy")
    )
    assert not status["broken_off"]
    plant.readings_flow()
    code, said, _ = plant.run("doctor")
    assert "metrics of 4 services can be read; they reach Kafka, the store and what else they need" in said, (
        code,
        said,
    )


def test_deploying_again_changes_nothing(plant: Plant) -> None:
    before = plant.ids()
    assert plant.run("plan", "--detailed-exitcode")[0] == 0
    assert plant.deploy()[0] == 0
    assert plant.ids() == before


def test_what_was_changed_by_hand_is_told_and_mended_by_the_next_deploy(plant: Plant) -> None:
    before = plant.ids()
    plant.container("process").update(mem_limit="1g", memswap_limit="1g")
    bus = plant.engine.client.networks.get(f"sitestream-{plant.name}-bus")
    bus.disconnect(plant.container("collect"))
    _, status, _ = plant.run("status")
    assert f"\n  collect: network {bus.name} missing\n" in status
    assert (
        "Changed by hand (pipeline deploy mends it):\n  process: memory 2GiB → 1GiB, memory with swap 2GiB → 1GiB"
        in status
    )
    code, shown, _ = plant.run("plan", "--detailed-exitcode")
    assert code == 2
    assert "~ process   drift: memory 2GiB → 1GiB, memory with swap 2GiB → 1GiB\n" in shown
    assert f"~ collect   drift: network {bus.name} missing\n" in shown
    assert plant.deploy()[0] == 0
    assert plant.newest_attempt()["result"] == "done"
    after = plant.ids()
    assert {s for s in SERVICES if before[s] != after[s]} == {"process", "collect"}
    assert plant.run("plan", "--detailed-exitcode")[0] == 0
    plant.readings_flow()


def test_a_changed_window_replaces_process_alone(plant: Plant) -> None:
    before, version = plant.ids(), _version(plant)
    plant.write(window="2s")
    code, plan, _ = plant.run("plan", "--detailed-exitcode")
    assert code == 2
    assert plan.startswith("+0 ~1 -0; 1 state-breaking")
    plant.settings |= {"window": "2s", "discard_state": version}
    plant.write()
    assert plant.deploy()[0] == 0
    after = plant.ids()
    assert {s for s in SERVICES if before[s] != after[s]} == {"process"}
    plant.readings_flow()


def _version(plant: Plant) -> str:
    (process,) = (s for s in plant.status()["services"] if s["service"] == "process")
    return str(process["pipeline"].split()[1])


def test_a_version_that_crashes_is_rolled_back_with_its_last_words(plant: Plant) -> None:
    before = plant.status()
    plant.write(first_lines=CRASHES, window="4s", every="2s")  # upload changes, too, and is fine
    code, err = plant.deploy()
    assert code == 3
    assert "upload: healthy" in err
    assert "the new version is broken" in err
    assert re.search(r"process ended( with code 1)? while starting", err)
    after = plant.status()
    assert after["revision"] == before["revision"]
    assert {s["service"]: s["id"] for s in after["services"]} == {s["service"]: s["id"] for s in before["services"]}
    attempt = plant.newest_attempt()
    assert (attempt["result"], attempt["by"], attempt["services"]) == (
        "rolled back",
        operator_name(),
        ["upload", "process"],
    )
    assert re.match(r"process ended( with code 1)? while starting", attempt["why"])
    plant.write()
    assert plant.run("plan", "--detailed-exitcode")[0] == 0
    plant.readings_flow()


def _wait_for_line(process: subprocess.Popen[str], start: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(start):
            return
    raise AssertionError(f"it ended before it said {start!r}")


def test_a_version_that_never_gets_healthy_is_rolled_back_and_nobody_else_may_deploy_meanwhile(plant: Plant) -> None:
    before = plant.ids()
    plant.write(first_lines=HANGS, window="4s")
    with plant.started("deploy", "--health-timeout", "2s") as first:
        _wait_for_line(first, "sitestream/process")
        code, err = plant.deploy()
        assert (code, f"site {plant.name} is being deployed by {operator_name()} (process {first.pid})" in err) == (
            1,
            True,
        )
        assert "wait for it with --lock-timeout 2m" in err
        _wait_for_line(first, "process was not healthy within 2 s")
        assert first.wait(60) == 3
    after = plant.ids()
    assert {s: i for s, (i, _) in before.items()} == {s: i for s, (i, _) in after.items()}


def test_without_rollback_a_failed_version_stays_until_the_next_deploy(plant: Plant) -> None:
    before = plant.ids()
    plant.write(first_lines=HANGS, window="4s")
    assert plant.deploy("--health-timeout", "1s", "--no-rollback")[0] == 4
    assert str(plant.container("process").id)[:12] != before["process"][0]
    plant.write()
    assert plant.deploy()[0] == 0
    assert plant.ids()["process"][0] == before["process"][0]


@pytest.mark.parametrize(("by", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_deploy_that_is_broken_off_is_mended_by_itself_or_by_the_next(
    plant: Plant, by: signal.Signals, code: int
) -> None:
    before = plant.ids()
    plant.write(first_lines=HANGS, window="4s")
    with plant.started("deploy") as process:
        _wait_for_line(process, "process: starting")
        process.send_signal(by)
        assert process.wait(60) == code
    assert plant.status()["broken_off"] is (by == signal.SIGKILL)
    told = {signal.SIGKILL: ("running", ""), signal.SIGINT: ("rolled back", "interrupted")}  # until its lock expires
    assert (plant.newest_attempt()["result"], plant.newest_attempt()["why"]) == told[by]
    plant.write()
    assert plant.deploy()[0] == 0
    after = plant.ids()
    assert {s: i for s, (i, _) in before.items()} == {s: i for s, (i, _) in after.items()}
    assert {s for s in SERVICES if before[s] != after[s]} == {"process"}  # the others ran through
    plant.readings_flow()


def test_rollback_brings_the_revision_before_back_and_touches_only_what_differs(plant: Plant) -> None:
    before = plant.status()
    plant.write(log_level="DEBUG")
    assert plant.deploy()[0] == 0
    assert plant.status()["revision"] == before["revision"] + 1
    code, out, err = plant.run("rollback", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["services"] == ["process"]
    after = plant.status()
    assert {s["service"]: s["id"] for s in after["services"]} == {s["service"]: s["id"] for s in before["services"]}
    plant.write()
    assert plant.run("plan", "--detailed-exitcode")[0] == 0
    code, _, err = plant.run("rollback", "999")
    assert (code, "there is no revision 999 to go back to; the engine keeps:" in err) == (1, True)


def test_a_store_folder_that_is_not_there_is_named_and_nothing_is_touched(plant: Plant) -> None:
    before = plant.ids()
    site = plant.folder / "site.toml"
    site.write_text(site.read_text().replace(f"s3://{plant.s3.bucket}/{plant.name}", "file:///no/such/folder"))
    code, err = plant.deploy()
    assert code == 1
    assert "the folder /no/such/folder of `store` does not exist on the site's machine: create it there" in err
    assert plant.ids() == before
    assert plant.run("plan")[1].startswith("+0 ~1 -0")
    assert not plant.status()["broken_off"]


def test_a_base_image_that_is_not_there_or_has_no_python(plant: Plant) -> None:
    site = plant.folder / "site.toml"
    plain = site.read_text()
    site.write_text(plain.replace(plant.engine.base_image, "nowhere.invalid/base:1"))
    code, err = plant.deploy()
    assert code == 1
    assert "the engine does not have the base image nowhere.invalid/base:1 and cannot pull it" in err
    plant.engine.client.api.import_image_from_data(_empty_tar(), repository="sitestream-test/empty", tag="1")
    site.write_text(plain.replace(plant.engine.base_image, "sitestream-test/empty:1"))
    code, err = plant.deploy()
    assert code == 1
    assert "has no python3 that runs" in err


def _empty_tar() -> bytes:
    return bytes(1024)


def test_what_became_of_commands_is_shown(plant: Plant) -> None:
    plant.readings_flow()
    code, out, err = plant.run("device", "status", "--brokers", plant.kafka.bootstrap, "-o", "json")
    assert code == 0, err
    commands = json.loads(out)["commands"]
    assert {c["verb"] for c in commands} == {"mark"}
    text = plant.run("device", "status", commands[0]["device"], "--brokers", plant.kafka.bootstrap)[1]
    assert text.splitlines()[0].split() == ["COMMAND", "DEVICE", "VERB", "STATE", "SENT", "DETAIL"]
    assert {line.split()[1] for line in text.splitlines()[1:]} == {commands[0]["device"]}


def test_logs_are_shown_by_service(plant: Plant) -> None:
    code, out, _ = plant.run("logs", "process", "--tail", "5")
    assert code == 0
    assert out
    assert all(line.startswith("process | ") for line in out.splitlines())
    with plant.started("logs", "-f", "process") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("process | ")
    assert "runs no proces; it runs" in plant.run("logs", "proces")[2]


def test_destroy_asks_first_and_then_leaves_nothing_of_this_site(plant: Plant) -> None:
    assert plant.run("destroy")[0] == 130  # nobody answered
    assert plant.status()["services"]
    other_site = _created_from_the_images_of(plant, "control")
    assert plant.run("destroy", "--keep-data", "-y")[0] == 0
    assert plant.status()["services"] == []
    client, label = plant.engine.client, {"label": f"sitestream.site={plant.name}"}
    left = client.api.volumes(filters=label)["Volumes"]
    assert {v["Name"] for v in left} == {
        f"sitestream-{plant.name}-upload-data",
        f"sitestream-{plant.name}-control-data",
    }
    assert plant.run("destroy", "-y")[0] == 0
    assert not client.api.volumes(filters=label)["Volumes"]
    assert not client.networks.list(filters=label)
    made = {
        tag.partition(":")[0]
        for image in client.images.list(filters={"label": "sitestream.image"})
        for tag in image.tags
    }
    assert made == {"sitestream/control", "sitestream/packages-control", "sitestream/packages"}  # of the other site
    other_site.remove()


def _created_from_the_images_of(plant: Plant, service: str) -> Container:
    """A container as another site on the same engine would have it."""
    container = plant.container(service)
    labels = {"sitestream.images": container.labels["sitestream.images"]}
    return plant.engine.client.containers.create(container.attrs["Image"], labels=labels, network_mode="none")
