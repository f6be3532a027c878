"""`pipeline doctor`: what it makes of what it sees, and that every fault comes with its cure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import doctor
from containers.certs import Authority
from containers.doctor import Facts, Finding, Seen
from containers.rollout import Actual, Record
from containers.scrape import Readings
from pipelines.clock import SystemClock
from pipelines.errors import Unavailable
from tests.bed.engine import Engine
from tests.containers.kit import found as container
from tests.fleet.kit import FLEET, deployed_by_hand, pipeline, write_fleet

FACTS = Facts("28.1", (1, 49), 100.0, "overlay2", 10**9, {"memory": True, "pids": True, "cpu": True}, True)
SEEN = Seen(FACTS, Actual(), "python:3.11-slim", True, 99.5, 100.5)
INFO: dict[str, Any] = {
    "ServerVersion": "28.1", "SystemTime": "2026-01-01T12:00:00.123456789+01:00", "Driver": "overlay2", "MemoryLimit": True,
    "PidsLimit": True, "CpuCfsQuota": False, "SecurityOptions": ["name=seccomp,profile=builtin"], "Warnings": None,
}  # fmt: skip


def ill(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are not ok; each has a cure."""
    faults = [f for f in findings if f.level != "ok"]
    assert all(f.cure for f in faults)
    return faults


def one(findings: Iterable[Finding]) -> tuple[str, str]:
    (fault,) = ill(findings)
    return fault.level, fault.what


def engine_with(**changes: Any) -> list[Finding]:
    return list(doctor.of_engine(replace(SEEN, facts=replace(FACTS, **changes))))


def test_facts_are_read_from_what_the_engine_says() -> None:
    said = doctor.facts(INFO, "1.49", 5)
    assert said.time_s == pytest.approx(1767265200.123456)
    assert said == replace(
        FACTS, time_s=said.time_s, image_bytes=5, limits={"memory": True, "pids": True, "cpu": False}
    )
    assert not doctor.facts({**INFO, "SecurityOptions": ["name=seccomp,profile=unconfined"]}, "1.49", 5).seccomp
    assert not doctor.facts({**INFO, "SecurityOptions": None}, "1.49", 5).seccomp


def test_an_engine_that_is_well_has_no_fault() -> None:
    assert ill(doctor.of_engine(SEEN)) == []


@pytest.mark.parametrize(
    ("changes", "level", "what"),
    [
        ({"api": (1, 40)}, "bad", "Docker 28.1, API 1.40 is too old"),
        ({"driver": "vfs"}, "warn", "storage driver vfs, images take 1.0 GB: vfs copies all of an image for each container"),
        ({"seccomp": False}, "bad", "system calls of services are not filtered: seccomp is off"),
        ({"warnings": ("WARNING: No swap limit support",)}, "warn", "the engine warns: No swap limit support"),
        ({"warnings": ("WARNING: It rains",)}, "warn", "the engine warns: It rains"),
        (
            {"limits": {"memory": False, "pids": True, "cpu": True}, "warnings": ("WARNING: No memory limit support",)},
            "bad", "the engine cannot limit memory: one service could take all of the machine",
        ),
    ],
)  # fmt: skip
def test_a_fault_of_the_engine(changes: Mapping[str, Any], level: str, what: str) -> None:
    assert one(engine_with(**changes)) == (level, what)


def test_a_base_image_that_is_not_there_is_a_warning() -> None:
    level, what = one(doctor.of_engine(replace(SEEN, has_base=False)))
    assert (level, what) == ("warn", "base image python:3.11-slim is not there: it will be pulled")


@pytest.mark.parametrize(
    ("there_s", "level", "what"),
    [
        (100.0, "ok", "its clock agrees with the one here"),
        (107.0, "ok", "its clock agrees with the one here"),
        (108.5, "warn", "its clock is 6 s ahead of the one here"),
        (30.0, "bad", "its clock is 70 s behind the one here"),
    ],
)
def test_clocks(there_s: float, level: str, what: str) -> None:
    judged = doctor.of_clock(there_s, 100.0, 102.0)
    assert (judged.level, judged.what) == (level, what)
    ill([judged])


@given(st.floats(0, 1e9), st.floats(0, 1e3), st.floats(-1e3, 1e3), st.floats(0, 1))
def test_an_answer_that_takes_long_is_no_clock_that_is_wrong(
    begin: float, took: float, off: float, when: float
) -> None:
    seen = doctor.of_clock(begin + took * when + off, begin, begin + took)
    assert seen.level == "ok" or abs(off) > doctor.CLOCK_WARN_S - 1e-3
    assert seen.level != "ok" or abs(off) <= took + doctor.CLOCK_WARN_S + 1e-3


def test_services_that_are_not_well() -> None:
    services = [
        container("process", health="unhealthy"), container("collect", restarts=3), container("upload", health="starting"),
    ]  # fmt: skip
    actual = Actual(tuple(services), (Record(1, {c.service: c.name for c in services}, "2026"),))
    assert [(f.level, f.what) for f in ill(doctor.of_services(actual))] == [
        ("bad", "process is unhealthy"),
        ("warn", "collect has ended and was restarted 3 times"),
        ("warn", "upload is starting"),
    ]
    assert [f.what for f in doctor.of_services(Actual())] == ["nothing is deployed"]


def test_a_deploy_that_was_broken_off() -> None:
    now, left = container("process"), container("process", revision=2)
    actual = Actual((now, left), (Record(1, {"process": now.name}, "2026"),))
    assert one(doctor.of_services(actual)) == ("bad", "a deploy was broken off, or somebody stopped a container")


UP, DOWN = ({("sitestream_uplink_up", frozenset({("site", "hall")})): up} for up in (1.0, 0.0))


@pytest.mark.parametrize(
    ("service", "said", "level", "what"),
    [
        ("collect", None, "bad", "collect does not tell its health and metrics"),
        ("collect", Readings({}, {"kafka": False, "sources": True}), "bad", "collect does not reach Kafka"),
        ("collect", Readings({}, {"kafka": True, "sources": False}), "bad", "collect does not reach its devices"),
        (
            "process",
            Readings({}, {"connected": True, "restored": False}),
            "warn",
            "process is still restoring its state",
        ),
        ("other", Readings({}, {"warm": False}), "bad", "other says that it is not warm"),
        ("upload", Readings(DOWN), "warn", "upload does not reach the store: 0 MB wait on its disk"),
    ],
)
def test_what_services_say_that_is_not_well(service: str, said: Readings | None, level: str, what: str) -> None:
    assert one(doctor.of_said({service: said, "process2": Readings({}, {"connected": True})})) == (level, what)


def test_services_that_reach_all_they_need() -> None:
    said = {"upload": Readings(UP, {"kafka": True}), "process": Readings({}, {"connected": True})}
    assert [f.what for f in doctor.of_said(said)] == [
        "metrics of 2 services can be read; they reach Kafka, the store and what else they need"
    ]
    assert list(doctor.of_said({})) == []


@pytest.mark.parametrize(
    ("days", "deployed", "level", "what"),
    [
        ({"ca": 3000}, True, "bad", "certificate hall-process is missing"),
        ({"ca": 3000}, False, "warn", "certificate hall-process is missing"),
        ({"ca": 3000, "hall-process": 29}, True, "warn", "certificate hall-process expires in 29 days"),
        ({"ca": 3000, "hall-process": -1}, True, "bad", "certificate hall-process has expired"),
        ({"ca": 20, "hall-process": 80}, True, "warn", "certificate ca expires in 20 days"),
        ({"ca": 3000, "hall-process": 80, "broker": 2}, True, "warn", "certificate broker expires in 2 days"),
        ({"hall-process": 80}, True, "bad", "the fleet's authority is not here"),
    ],
)
def test_certificates(days: Mapping[str, int], deployed: bool, level: str, what: str) -> None:
    assert one(doctor.of_certificates(days, ["hall-process"], deployed=deployed)) == (level, what)


def test_certificates_that_are_well() -> None:
    (said,) = doctor.of_certificates({"ca": 3000, "hall-process": 80}, ["hall-process"], deployed=True)
    assert (said.level, said.what) == ("ok", "certificates are good for 80 days")


def test_a_secret_that_others_can_read_is_a_warning() -> None:
    assert [doctor.of_secret("s", "/f", mode) for mode in (0o100600, 0o100640)] == [None, None]
    assert doctor.of_secret("s", "/f", 0o100604) == Finding(
        "warn", "secret s: every user of this machine can get at /f", "chmod 600 /f"
    )


def test_a_disk_that_is_full() -> None:
    assert [doctor.of_cache("/c", int(free)).level for free in (6e9, 4e9, 4e8)] == ["ok", "warn", "bad"]
    ill(doctor.of_cache("/c", n) for n in (0, 10**9))


def test_the_summary_comes_first_and_each_cure_below_its_fault() -> None:
    reports = {
        "site a": [Finding("ok", "well")],
        "site b": [Finding("warn", "w", "mend w"), doctor.offline(Unavailable("x\ny"))],
    }
    lines = doctor.text(reports).splitlines()
    assert lines[0] == "1 ok, 1 bad; 1 to mend, 1 to look at"
    plain = [line.replace("\x1b[33m", "").replace("\x1b[31m", "").replace("\x1b[0m", "") for line in lines]
    at = plain.index("site b")
    assert plain[at + 1 : at + 4] == ["  warn  w", "        cure: mend w", "  bad   x y"]
    assert plain[at + 4].startswith("        cure: see that the machine is up")


def test_what_is_wrong_here_is_told_though_the_site_is_offline(tmp_path: Path) -> None:
    lines = f"""\
engine = 'unix://{tmp_path}/none.sock'
kafka.security = "mtls"
services.process.secrets.token = "file:open"
services.upload.secrets.key = "file:missing"
"""
    fleet = write_fleet(tmp_path / "fleet", yard=lines)
    (fleet / "open").write_text("secret")
    (fleet / "open").chmod(0o644)
    said = pipeline("doctor", "--fleet", str(fleet), "-o", "json")
    assert said.exit_code == 1
    (yard,) = json.loads(said.stdout)["sites"]
    told = {(f["level"], f["what"].partition(" (")[0]) for f in yard["findings"]}
    assert ("warn", f"secret process.token: every user of this machine can get at {fleet}/open") in told
    assert any(level == "bad" and f"the file {fleet}/missing cannot be read" in what for level, what in told), told
    assert ("bad", "the fleet's authority is not here") in told
    assert ("ok", "pipeline tiny and the site's settings are well") in told
    assert any("no Docker engine answers" in what for _, what in told)
    (fleet / "tiny.py").write_text("import nothing_of_that_name")
    Authority(fleet / "certs", SystemClock()).init()
    (fleet / "certs" / "yard-process.pem").write_text("no certificate")
    text = pipeline("doctor", "--fleet", str(fleet)).stdout
    assert "No module named 'nothing_of_that_name'" in text
    assert f"a certificate in {fleet}/certs is damaged" in text
    assert "cure: mend it, and look with  pipeline check" in text


def test_a_site_of_a_real_engine(engine: Engine, tmp_path: Path, unique: str) -> None:
    hall = f"hall-{unique[-8:]}"
    fleet = write_fleet(
        tmp_path / "fleet", FLEET, **{hall: f"engine = '{engine.url}'\nbase_image = '{engine.base_image}'"}
    )
    deployed_by_hand(engine, hall)
    said = pipeline("doctor", "--fleet", str(fleet), "-o", "json")
    value = json.loads(said.stdout)
    told = {f["what"]: f["level"] for f in value["sites"][0]["findings"]}
    assert told["its clock agrees with the one here"] == "ok"
    assert told[f"base image {engine.base_image} is there"] == "ok"
    assert told["memory, processes and processors can be limited"] == "ok"
    assert any(what.startswith("Docker ") and level == "ok" for what, level in told.items())
    assert any(what.startswith("storage driver ") for what in told)
    assert [f["level"] for f in value["here"]["findings"]]
    assert not [f for f in value["sites"][0]["findings"] if f["level"] != "ok" and not f["cure"]]
    assert told["revision 3: 1 of 1 healthy"] == "ok"
    assert told["process does not tell its health and metrics"] == "bad"  # it is none of ours
