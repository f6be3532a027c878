"""Commands for the sites of a fleet: which sites they are for, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from containers.fleet import show
from containers.fleet.folder import load_fleet
from containers.rollout import Actual, Record
from pipelines.errors import Unavailable
from tests.containers.kit import SITE, found, write_site
from tests.fleet.kit import FLEET, pipeline, write_fleet


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet folder; the working directory is another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return write_fleet(tmp_path / "fleet")


def listed(*words: str, **environment: str) -> list[str]:
    said = pipeline("sites", "-o", "json", *words, **environment)
    assert said.exit_code == 0, said.stderr
    return [s["site"] for s in json.loads(said.stdout)["sites"]]


ALL = ["hall1", "plant-1", "plant-2", "yard"]


def test_a_fleet_is_named_by_option_environment_or_the_working_directory(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_fleet(tmp_path / "other", a="")
    assert listed("--fleet", str(fleet)) == ALL
    assert listed(SITESTREAM_FLEET=str(fleet)) == ALL
    assert listed("--fleet", str(other), SITESTREAM_FLEET=str(fleet)) == ["a"]
    monkeypatch.chdir(fleet)
    assert listed() == ALL
    assert listed(SITESTREAM_FLEET=str(other)) == ["a"]
    write_site(fleet, SITE)
    assert listed() == ALL, "a fleet counts before a site.toml"


def test_sites_are_chosen_by_names_and_groups_before_and_after_the_command(fleet: Path) -> None:
    at = ("--fleet", str(fleet))
    assert listed(*at, "--site", "plant-*", "--site", "yard") == ["plant-1", "plant-2", "yard"]
    assert listed(*at, "--group", "eu", "--group", "big", "--site", "plant-*") == ["plant-1", "plant-2"]
    said = pipeline(*at, "--site", "yard", "sites", "--site", "hall*", "-o", "json")
    assert [s["site"] for s in json.loads(said.stdout)["sites"]] == ["hall1", "yard"]


def test_sites_lists_groups_and_engines(fleet: Path) -> None:
    said = pipeline("sites", "--fleet", str(fleet), "--site", "plant-1", "--site", "yard")
    assert said.stdout.splitlines() == [
        "SITE     GROUPS   ENGINE",
        "plant-1  eu, big  unix:///var/run/docker.sock",
        "yard     -        unix:///var/run/docker.sock",
    ]
    value = json.loads(pipeline("sites", "--fleet", str(fleet), "--site", "yard", "-o", "json").stdout)
    engine, file = "unix:///var/run/docker.sock", f"{fleet}/sites/yard.toml"
    assert value == {"version": 1, "sites": [{"site": "yard", "groups": [], "engine": engine, "file": file}]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sites", "--site", "plant-1"], "there is no fleet.toml here to choose sites from: name the fleet folder with --fleet"),
        (["sites", "--group", "eu"], "there is no fleet.toml here to choose sites from: name the fleet folder with --fleet DIR"),
        (["sites"], "site.toml: there is no such site file: name it with --site FILE"),
        (["sites", "--fleet", "."], "fleet.toml: there is no such file: name the fleet folder with --fleet DIR"),
        (["sites", "--fleet", "../fleet", "--site", "plnt-1"], "--site plnt-1: no site has such a name: did you mean 'plant-1'?"),
        (["sites", "--fleet", "../fleet", "--site", "h.toml"], "--site h.toml is a site file, which stands alone"),
        (["sites", "--site", "h.toml", "--site", "x"], "to choose from a fleet give names of sites, such as --site h"),
        (["sites", "--site", "h.toml", "--group", "x"], "--site h.toml is a site file, which stands alone"),
        (["sites", "--site", "../fleet/sites/yard.toml"], "/fleet --site yard"),
        (["destroy", "--fleet", "../fleet"], "this command is for one site, and 4 are chosen (hall1, plant-1, plant-2, yard)"),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_made_is_one_line_with_the_cure(fleet: Path, words: list[str], message: str) -> None:
    said = pipeline(*words)
    assert said.exit_code == 1
    assert said.stderr.startswith("error: ")
    assert message in said.stderr
    assert (said.stdout, said.stderr.count("\n")) == ("", 1)


def test_a_command_for_one_site_takes_it_from_the_fleet(fleet: Path) -> None:
    said = pipeline("graph", "--fleet", str(fleet), "--site", "yard")
    assert said.stdout.startswith("flowchart LR\n")


def test_site_files_that_stand_alone_can_be_chosen_together(fleet: Path) -> None:
    write_site(Path(), SITE).rename("a.toml")
    write_site(Path(), SITE.replace("hall1", "hall2")).rename("b.toml")
    assert listed("--site", "a.toml", "--site", "./b.toml", SITESTREAM_FLEET=str(fleet)) == ["hall1", "hall2"]


def test_a_fleet_has_one_authority(fleet: Path) -> None:
    assert pipeline("certs", "init", "--fleet", str(fleet)).stdout.startswith(f"made {fleet}/certs/ca.pem")
    (fleet / "sites" / "yard.toml").write_text("kafka.certs = 'yard-certs'")
    said = pipeline("certs", "show", "--fleet", str(fleet))
    assert said.exit_code == 1
    assert (
        f"the sites chosen have 2 authorities ({fleet}/certs, {fleet}/yard-certs): choose sites of one" in said.stderr
    )
    assert pipeline("certs", "show", "--fleet", str(fleet), "--site", "*[!d]").exit_code == 0


# check


def test_check_of_a_fleet_reads_each_pipeline_once(fleet: Path) -> None:
    (fleet / "tiny.py").write_text((fleet / "tiny.py").read_text() + "\nprint('read')\n")
    (fleet / "sites" / "yard.toml").write_text("pipeline = 'tiny.py:tiny'")
    said = pipeline("check", "--fleet", str(fleet))
    assert said.exit_code == 0, said.stderr
    read, again, tiny, same, sites = said.stdout.splitlines()
    assert (read, again) == ("read", "read")
    assert tiny == same
    assert tiny.startswith("pipeline tiny is well: sources reading; results second; services ")
    assert sites == "4 sites are well: hall1, plant-1, plant-2, yard"


def test_check_says_which_sites_run_which_pipeline(fleet: Path) -> None:
    (fleet / "sites" / "yard.toml").write_text("pipeline = 'tiny.py:tiny'")
    said = json.loads(pipeline("check", "--fleet", str(fleet), "-o", "json").stdout)
    assert [p["sites"] for p in said["pipelines"]] == [["hall1", "plant-1", "plant-2"], ["yard"]]
    assert {p["pipeline"] for p in said["pipelines"]} == {"tiny"}


def test_check_of_one_site_of_a_fleet(fleet: Path) -> None:
    said = pipeline("check", "--fleet", str(fleet), "--site", "yard")
    assert said.stdout.splitlines()[-1] == "1 site is well: yard"


def test_check_tells_all_that_is_wrong_with_all_sites(fleet: Path) -> None:
    for name in ("hall1", "yard"):
        (fleet / "sites" / f"{name}.toml").write_text("store = 's3://cold'")
    (fleet / "sites" / "plant-2.toml").write_text("pipeline = 'nowhere.py'")
    (fleet / "sites" / "plant-1.toml").write_text("pipeline = 'nowhere.py'")
    said = pipeline("check", "--fleet", str(fleet))
    assert said.exit_code == 1
    first, *lines = said.stderr.splitlines()
    assert first == f"error: fleet {fleet}: 3 mistakes"
    assert lines[0] == f"  {fleet}/nowhere.py: there is no such pipeline file"
    assert [line.partition(": ")[0] for line in lines[1:]] == [f"  {fleet}/sites/{n}.toml" for n in ("hall1", "yard")]
    assert "upload needs the secret 's3_access_key'" in lines[1]
    assert said.stdout == ""


# status


def test_the_table_of_a_fleet_says_how_each_site_is(fleet: Path) -> None:
    well = found("process"), found("collect")
    ill = found("process", state="exited", exit_code=1), found("collect", health="unhealthy")
    new = found("process", health="starting"), found("collect")
    sites = list(load_fleet(fleet).sites)
    readings: list[show.Reading] = [
        Actual(well, (_record(well),)),
        Actual(ill[1:], (_record(ill[1:]),)),
        Actual(new, (_record(new),)),
        Unavailable("no Docker engine\n answers"),
    ]
    assert show.fleet_text(sites, readings).splitlines() == [
        "4 sites: 1 healthy, 1 unhealthy, 1 starting, 1 offline",
        "",
        "SITE     REVISION  HEALTHY  STATE",
        "hall1    1         2 of 2   \x1b[32mhealthy\x1b[0m",
        "plant-1  1         0 of 1   \x1b[31munhealthy\x1b[0m: collect is unhealthy",
        "plant-2  1         1 of 2   \x1b[33mstarting\x1b[0m: process",
        "yard     -         -        \x1b[31moffline\x1b[0m: no Docker engine answers",
    ]
    states = show.fleet_value(sites, readings)["sites"]
    assert isinstance(states, list)
    assert [s["state"] for s in states] == ["healthy", "unhealthy", "starting", "offline"]
    broken: list[show.Reading] = [Actual(ill, (_record(ill),)), Actual()]
    assert show.fleet_text(sites[:2], broken).splitlines()[3:] == [
        "hall1    1         0 of 2   \x1b[31mbroken off\x1b[0m: deploy again to mend it",
        "plant-1  -         -        \x1b[33mnothing deployed\x1b[0m",
    ]


def _record(containers: Any) -> Record:
    return Record(1, {c.service: c.name for c in containers}, "2026-01-01T00:00:00+00:00")


def test_status_fails_only_if_no_site_can_be_read(fleet: Path, tmp_path: Path) -> None:
    (fleet / "fleet.toml").write_text(
        FLEET.replace("[defaults]", f"[defaults]\nengine = 'unix://{tmp_path}/{{site}}.sock'")
    )
    said = pipeline("status", "--fleet", str(fleet), "--group", "big")
    assert said.exit_code == 1
    assert said.stdout.splitlines()[0] == "2 sites: 2 offline"
    assert (
        f"plant-1  -         -        offline: no Docker engine answers at unix://{tmp_path}/plant-1.sock"
        in said.stdout
    )
    assert said.stderr == ""
    one = json.loads(pipeline("status", "--fleet", str(fleet), "--site", "yard", "-o", "json").stdout)
    assert one["sites"][0]["offline"].startswith("no Docker engine answers at")


def test_an_engines_certificate_that_is_not_there_is_an_offline_site(fleet: Path) -> None:
    tls = "engine = 'tcp://127.0.0.1:1'\n[engine_tls]\nca = 'ca.pem'\ncert = 'cert.pem'\nkey = 'key.pem'"
    (fleet / "sites" / "yard.toml").write_text(tls)
    said = pipeline("status", "--fleet", str(fleet), "--site", "yard")
    assert said.exit_code == 1
    assert "offline: the Docker engine at tcp://127.0.0.1:1 cannot be reached (connect): " in said.stdout
