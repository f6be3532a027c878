"""One rollout over a site that is pushed to and one that pulls, for real: an engine, an agent, a registry, a broker."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from containers import names
from containers.embedded import EmbeddedKafka
from tests.agent.plant import CRASHES, version_text
from tests.bed.engine import HOST_IN_CONTAINERS, Engine
from tests.bed.registry import ImageRegistry
from tests.bed.topics import create_topic
from tests.fleet.kit import pipeline, states_in

pytestmark = pytest.mark.timeout(300)
FLEET = """\
[defaults]
pipeline = "tiny.py"
brokers = "{brokers}"
partitions = 1
engine = "{engine}"
base_image = "{base}"
[defaults.hosts]
"{host}" = "gateway"
"""
TOPIC = "of-mixed-sites"
PULLS, PUSHED = "mixed-pulls", "mixed-pushed"


@dataclass
class Mixed:
    """`number` is that of the version that was written last."""

    folder: Path
    engine: Engine
    number: int = 0

    def write(self, first_lines: str = "") -> None:
        """Another version of the pipeline."""
        self.number += 1
        text = version_text(self.number, first_lines, TOPIC)
        (self.folder / "tiny.py").write_text(text)

    def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        """What `pipeline words…` says on stdout and on stderr; it must end with this code."""
        keys = [] if words[0] in ("plan", "rollout", "history") else ["--keys", str(self.folder / "keys")]
        base = ["--engine", self.engine.url] if words[0] in ("plan", "deploy", "rollback") else []
        said = pipeline(*words, *keys, *base, "--fleet", str(self.folder))
        assert said.exit_code == code, said.output + self.log()
        return said.stdout, said.stderr

    def states(self) -> dict[str, str]:
        """The state of each site in the newest rollout."""
        return states_in(self.run("rollout", "status", "-o", "json")[0])

    def running(self) -> dict[str, tuple[str, str]]:
        """Id and image of the container that runs at each site."""
        found = {}
        for site in (PULLS, PUSHED):
            (one,) = self.engine.client.containers.list(filters={"label": f"{names.SITE}={site}"})
            found[site] = (str(one.id), str(one.attrs["Config"]["Image"]))
        return found

    def log(self) -> str:
        """What the agent wrote."""
        found = self.engine.client.containers.list(all=True, filters={"label": f"{names.AGENT}={PULLS}"})
        return "\n".join(str(agent.logs().decode())[-4000:] for agent in found)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, engine: Engine, kafka: EmbeddedKafka) -> Iterator[Mixed]:
    """Both sites run the first version, which one rollout has brought to them."""
    folder = tmp_path_factory.mktemp("mixed")
    gateway = engine.network(names.network(PULLS, "wan"), internal=False)
    with ImageRegistry(folder, host=gateway) as registry, pytest.MonkeyPatch.context() as patch:
        patch.setattr("containers.fleet.pulled.LOOK_S", 0.5)
        (folder / "sites").mkdir()
        text = FLEET.format(
            brokers=kafka.advertised_bootstrap, engine=engine.url, base=engine.base_image, host=HOST_IN_CONTAINERS
        )
        (folder / "fleet.toml").write_text(text)
        (folder / f"sites/{PUSHED}.toml").write_text("")
        agent = f'[agent]\nrepository = "{registry.address}/fleet"\nplain = true\npoll = "1s"\n'
        (folder / f"sites/{PULLS}.toml").write_text(agent)
        asyncio.run(create_topic(kafka.bootstrap, TOPIC, 1))
        made = Mixed(folder, engine)
        made.write()
        made.run("keys", "init")
        made.run("agent", "enrol", "--site", PULLS)
        made.run("deploy")
        yield made
        for site in (PULLS, PUSHED):
            pipeline("destroy", "-y", "--site", site, "--fleet", str(folder))


def test_one_plan_one_rollout_and_one_way_back_for_both(mixed: Mixed) -> None:
    first = mixed.running()
    assert mixed.run("plan")[0] == "2 sites: 2 up to date\n"
    mixed.write()
    out, _ = mixed.run("plan", "--out", str(mixed.folder / "a.plan"))
    assert out.startswith(f"2 sites: 2 to change\n\n2 × {PULLS}, {PUSHED}\n  +0 ~1 -0"), out
    mixed.run("deploy", "--plan", str(mixed.folder / "a.plan"))
    second = mixed.running()
    assert {site for site in first if first[site] != second[site]} == {PULLS, PUSHED}
    assert mixed.states() == {PULLS: "done", PUSHED: "done"}
    _, err = mixed.run("deploy", "--plan", str(mixed.folder / "a.plan"), code=3)
    assert (
        len(re.findall(rf"({PULLS}|{PUSHED}): failed .*the saved plan is stale for site \1: it has revision", err)) == 2
    )
    assert mixed.running() == second
    fetched = mixed.log().count("fetching")
    mixed.run("rollback")
    third = mixed.running()
    assert third[PUSHED] == first[PUSHED], "its container was still there"
    assert third[PULLS][1] == first[PULLS][1]
    assert mixed.log().count("fetching") == fetched, "the image was still there, too"


def test_a_version_that_crashes_halts_the_rollout_and_both_go_back(mixed: Mixed) -> None:
    before = mixed.running()
    mixed.write(CRASHES)
    _, err = mixed.run("deploy", "--canary", "2", "--max-failures", "0", code=3)
    assert mixed.states() == {PULLS: "failed", PUSHED: "failed"}
    assert "halted" in err
    assert len(re.findall(r"failed after .*process ended", err)) == 2
    assert mixed.running() == before
    assert "halted" in mixed.run("history", "-n", "1")[0]
