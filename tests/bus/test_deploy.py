"""A site deployed on a real engine with mTLS: certificates issued, rights set, one rotated without touching the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.engine import Engine
from tests.bed.mosquitto import Mosquitto
from tests.bed.s3 import S3
from tests.bus.fleet import Fleet
from tests.containers.plant import Plant

pytestmark = pytest.mark.timeout(400)
NAME = "bused"


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, fleet: Fleet, mosquitto: Mosquitto, s3: S3
) -> Iterator[Plant]:
    plant = Plant(NAME, tmp_path_factory.mktemp(NAME), engine, fleet.kafka, mosquitto, s3)
    plant.settings["more_of_site"] = (
        f'[kafka]\nsecurity = "mtls"\nadmin = "{fleet.kafka.tls_bootstrap}"\ncerts = "{fleet.authority.folder}"'
    )
    plant.write()
    code, err = plant.deploy()
    assert code == 0, err
    yield plant
    plant.run("destroy", "-y")


def test_readings_flow_and_deploying_again_changes_nothing(plant: Plant) -> None:
    plant.readings_flow()
    before = plant.ids()
    assert plant.run("plan", "--detailed-exitcode")[0] == 0
    assert plant.deploy()[0] == 0
    assert plant.ids() == before


def test_a_new_certificate_replaces_its_service_alone(plant: Plant, fleet: Fleet) -> None:
    before = plant.ids()
    fleet.authority.issue(f"{NAME}-process")
    assert "~ process   certificate" in plant.run("plan")[1]
    assert plant.deploy()[0] == 0
    after = plant.ids()
    assert {s for s in after if after[s] != before[s]} == {"process"}
    plant.readings_flow()


def test_rights_that_a_changed_pipeline_does_not_need_are_taken_away_after_it_runs(plant: Plant) -> None:
    # a stream of late rows with a table of its own: one topic more for process and upload
    plant.write(more='second.late.to(parquet.dataset("tiny/late"))')
    code, err = plant.deploy()
    assert (code, "Kafka: 2 rights granted" in err, "taken away" in err) == (0, True, False), err
    plant.write()
    code, err = plant.deploy()
    assert (code, "granted" in err, "Kafka: 2 rights taken away" in err) == (0, False, True), err
    assert err.index("healthy") < err.index("taken away")


def test_a_lost_certificate_is_due_until_it_is_issued_by_deploy(plant: Plant, fleet: Fleet) -> None:
    Path(fleet.authority.folder / f"{NAME}-upload.pem").unlink()
    assert plant.run("plan", "--detailed-exitcode")[0] == 2
    assert not (fleet.authority.folder / f"{NAME}-upload.pem").exists()
    assert plant.deploy()[0] == 0
    assert fleet.authority.find(f"{NAME}-upload")
    assert plant.run("plan", "--detailed-exitcode")[0] == 0
