"""Rollouts over real engines side by side, each a site: one behind a slow link, one that is away, one that is cut off."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from containers.embedded import EmbeddedKafka
from tests.bed.engine import HOST_IN_CONTAINERS, Engine
from tests.bed.topics import create_topic
from tests.containers.kit import process_text
from tests.fleet.kit import pipeline
from tests.fleet.slow_link import SlowLink

SITES = ("plant-1", "plant-2", "plant-3", "plant-4")
SLOW_BYTES_PER_S = 250_000
FLEET = """\
[defaults]
pipeline = "tiny.py"
brokers = "{brokers}"
base_image = "{base}"
[defaults.hosts]
"{host}" = "gateway"
[groups.first]
"""
CRASHES = "import os\nif os.uname().nodename == 'process':\n    raise RuntimeError('the new version is broken')"


@dataclass
class Fleet:
    folder: Path
    engines: dict[str, Engine]
    links: dict[str, SlowLink]
    seconds: int = 0

    def write(self, first_lines: str = "") -> str:
        """Another version of the pipeline: with a window that is a second longer. Returns its text."""
        self.seconds += 1
        text = process_text(window=f"{self.seconds}s", first_lines=first_lines)
        (self.folder / "tiny.py").write_text(text)
        return text

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, what is said on stdout, on stderr."""
        said = pipeline(*words, "--fleet", str(self.folder))
        return said.exit_code, said.stdout, said.stderr

    def containers(self) -> dict[str, str]:
        """Id of the container that runs at each site."""
        found = {}
        for site, engine in self.engines.items():
            (container,) = engine.client.containers.list(filters={"label": f"sitestream.site={site}"})
            found[site] = str(container.id)
        return found

    def result(self) -> dict[str, Any]:
        """How the newest rollout stands."""
        value: dict[str, Any] = json.loads(self.run("rollout", "status", "-o", "json")[1])
        return value

    def reports(self) -> str:
        """What was reported of each site, with the logs of what failed."""
        return "\n".join(f"{f}:\n{f.read_text()}" for f in sorted(self.folder.rglob("*.log")))

    def states(self) -> dict[str, str]:
        """The state of each site in the newest rollout."""
        return {site: s["state"] for site, s in self.result()["sites"].items()}


@pytest.fixture(scope="module")
def fleet(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "sites").mkdir()
    with ExitStack() as running:
        engines = {site: running.enter_context(Engine()) for site in SITES}
        links = {site: SlowLink(folder / f"{site}.sock", engine.url) for site, engine in engines.items()}
        for site, link in links.items():
            groups = '\ngroups = ["first"]' if site == SITES[0] else ""
            (folder / f"sites/{site}.toml").write_text(f'engine = "{link.url}"{groups}\n')
            running.callback(link.down)
        base = engines[SITES[0]].base_image
        text = FLEET.format(brokers=kafka.advertised_bootstrap, base=base, host=HOST_IN_CONTAINERS)
        (folder / "fleet.toml").write_text(text)
        asyncio.run(create_topic(kafka.bootstrap, "others", 4))
        made = Fleet(folder, engines, links)
        made.write()
        code, _, err = made.run("deploy", "--max-parallel", "1")  # engines on one machine share its firewall
        assert code == 0, err + made.reports()
        yield made


@pytest.fixture(autouse=True)
def good_links(fleet: Fleet) -> Iterator[None]:
    yield
    for link in fleet.links.values():
        link.down()
        link.bytes_per_s = float("inf")
        link.up()


def test_a_change_of_code_ships_little_and_sites_that_are_away_catch_up(fleet: Fleet) -> None:
    before = fleet.containers()
    fleet.links["plant-2"].bytes_per_s = SLOW_BYTES_PER_S
    fleet.links["plant-2"].sent = 0
    fleet.links["plant-3"].down()
    fleet.write()
    code, out, err = fleet.run("plan")
    assert (code, out.splitlines()[0]) == (0, "4 sites: 3 to change, 1 offline")
    code, out, err = fleet.run("deploy")
    assert code == 5, err
    assert fleet.states() == {"plant-1": "done", "plant-2": "done", "plant-3": "pending", "plant-4": "done"}
    outcomes = {site: s.get("outcome", {}) for site, s in fleet.result()["sites"].items()}
    print(outcomes, fleet.links["plant-2"].sent)
    assert 0 < outcomes["plant-2"]["bytes_shipped"] < 1_000_000
    assert fleet.links["plant-2"].sent < 2_000_000  # all that went over the link
    fleet.links["plant-3"].up()
    fleet.write()  # what is newest when it returns counts
    assert fleet.run("rollout", "resume")[0] == 0
    assert fleet.states()["plant-3"] == "done"
    after = fleet.containers()
    assert not [s for s in before if before[s] == after[s]]
    assert "plant-3" not in fleet.run("plan")[1]  # it has what the files say; the others have not yet


def test_a_bad_version_stops_at_the_canary_and_the_canary_goes_back(fleet: Fleet) -> None:
    before = fleet.containers()
    fleet.write(CRASHES)
    code, _, err = fleet.run("deploy", "--canary", "1", "--max-failures", "0")
    assert code == 3, err
    states = fleet.states()
    assert sorted(states.values()) == ["failed", "skipped", "skipped", "skipped"]
    assert fleet.containers() == before
    assert re.search(r"process ended( with code 1)? while starting", err)  # it may be starting again
    assert "wave 2" not in err
    (failed,) = [site for site, state in states.items() if state == "failed"]
    (log,) = fleet.folder.glob(f".sitestream/rollouts/{fleet.result()['rollout']}/sites/{failed}.log")
    assert "RuntimeError: the new version is broken" in log.read_text()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that docker's client loses
def test_a_link_that_drops_in_mid_push_leaves_the_old_version_and_the_next_deploy_works(fleet: Fleet) -> None:
    before = fleet.containers()
    fleet.write()
    fleet.links["plant-4"].cut_after = 100_000
    code, _, err = fleet.run("deploy", "--site", "plant-4")
    assert code in (3, 5), err
    assert fleet.containers() == before
    fleet.links["plant-4"].down()
    fleet.links["plant-4"].up()
    assert fleet.run("deploy", "--site", "plant-4")[0] == 0
    assert fleet.containers()["plant-4"] != before["plant-4"]
    gc.collect()  # they are missed now, and not in another test


def test_a_group_goes_back_once_however_often_the_rollout_is_taken_up(fleet: Fleet) -> None:
    before = fleet.containers()
    fleet.write()
    assert fleet.run("deploy", "--site", "plant-1", "--site", "plant-2")[0] == 0
    changed = fleet.containers()
    assert fleet.run("rollback", "--group", "first")[0] == 0
    after = fleet.containers()
    assert after["plant-1"] == before["plant-1"]
    assert [s for s in SITES if after[s] != changed[s]] == ["plant-1"]
    assert json.loads(fleet.run("history", "-o", "json")[1])["rollouts"][0]["release"] == "the revision before"


def test_a_saved_plan_is_carried_out_once_and_refused_when_it_is_stale(fleet: Fleet, tmp_path: Path) -> None:
    saved = tmp_path / "a.plan"
    planned = fleet.write()
    assert fleet.run("plan", "--site", "plant-1", "--out", str(saved))[0] == 0
    fleet.write()
    code, _, err = fleet.run("deploy", "--plan", str(saved))
    assert (code, "files have changed that decide about process; plan again" in err) == (3, True), err
    (fleet.folder / "tiny.py").write_text(planned)
    before = fleet.containers()
    assert fleet.run("deploy", "--plan", str(saved))[0] == 0
    after = fleet.containers()
    assert [s for s in SITES if after[s] != before[s]] == ["plant-1"]  # only the site in the plan
    code, _, err = fleet.run("deploy", "--plan", str(saved))
    assert (code, "it has revision" in err) == (3, True), err
