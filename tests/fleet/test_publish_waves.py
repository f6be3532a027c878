"""`pipeline publish` in waves over a real registry: agents that poll it, on simulated engines; halted, pending, taken up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from containers.agent.publish import Published, Publisher
from containers.cli_means import Means
from containers.cli_shared import FLEET_VARIABLE
from containers.repository import artifact
from containers.repository.keys import Keys
from containers.repository.registry import Registry
from containers.site import SiteFile
from pipelines.clock import ManualClock, SystemClock
from tests.agent.world import World
from tests.bed.registry import ImageRegistry
from tests.fleet.kit import pipeline, write_fleet

NAMES = ("a", "b", "c")
FLEET = """\
[defaults]
pipeline = "tiny.py"
brokers = "kafka:9092"
store = "file:///srv/{{site}}"
[defaults.agent]
repository = "{address}/fleet"
plain = true
poll = "1s"
"""


class Sites:
    """Agents that look every 50 ms while they are `awake`; `number` is the release that the files are for."""

    def __init__(self, folder: Path, address: str, root: bytes, signers: Any) -> None:
        self.number, self.signers = 1, signers
        self.awake, self.over = {"a", "b"}, threading.Event()
        self.worlds = {name: self._world(folder / name, name, address, root) for name in NAMES}
        self.threads = [threading.Thread(target=self._work, args=(name,)) for name in NAMES]

    def _world(self, folder: Path, name: str, address: str, root: bytes) -> World:
        return World(
            folder, clock=ManualClock(SystemClock().now_ns()), site=name, shared=Registry(f"{address}/fleet", plain=True),
            root=root,
        )  # fmt: skip

    def _work(self, name: str) -> None:
        while not self.over.wait(0.05):
            if name in self.awake:
                self.worlds[name].agent.turn()

    def running(self) -> dict[str, int]:
        """The release of each site; 0: none."""
        return {
            name: next((n for n in range(1, 9) if w.engine.running == w.expected(n)), 0)
            for name, w in self.worlds.items()
        }

    def publish(
        self, publisher: Publisher, site: SiteFile, plan: Any, base: Any, *, rollout: str = "", rules: Any = None
    ) -> Published:
        """What the simulated engines can run: the images of the files are not made."""
        name = site.site.site
        newest = publisher._newest(artifact.site_name(name))
        version = max(SystemClock().now_ns() // 10**9, newest + 1)
        self.worlds[name].publish(self.number, version=version, rollout=rollout, days=3650, by=self.signers)
        return Published(name, version, f"tiny {self.number}", ("process",), 0)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Sites]]:
    """A fleet folder, and its three sites, of which `c` has not been switched on yet."""
    folder = tmp_path_factory.mktemp("waves")
    with ImageRegistry(folder) as registry, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        keys = Keys(folder / "keys", SystemClock())
        keys.init(1, 1)
        sites = Sites(folder, registry.address, keys.roots()[0], keys.release_signers())
        own = {name: f'[agent]\nkey = "{world.identity.public}"\n' for name, world in sites.worlds.items()}
        write_fleet(folder / "fleet", FLEET.format(address=registry.address), **own)
        patch.setattr(Publisher, "publish", lambda self, *words, **more: sites.publish(self, *words, **more))
        patch.setattr("containers.cli_means.Press.base", lambda *_: None)
        patch.setattr("containers.fleet.pulled.LOOK_S", 0.1)
        patch.setenv(FLEET_VARIABLE, str(folder / "fleet"))
        with _at_work(sites):
            yield folder, sites


@contextmanager
def _at_work(sites: Sites) -> Iterator[None]:
    for thread in sites.threads:
        thread.start()
    try:
        yield
    finally:
        sites.over.set()
        for thread in sites.threads:
            thread.join()


def publish(folder: Path, *words: str) -> Result:
    return pipeline("publish", "--keys", str(folder / "keys"), *words)


def heard(sites: Sites, running: dict[str, int]) -> None:
    until_s = time.monotonic() + 20
    while sites.running() != running and time.monotonic() < until_s:
        time.sleep(0.05)
    assert sites.running() == running


def test_a_canary_a_wave_a_site_that_was_away_and_a_release_that_stops_at_the_canary(
    fleet: tuple[Path, Sites], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, sites = fleet
    time.sleep(0.5)  # the agents have reported that nothing is published for them
    said = publish(folder, "--canary", "1", "--waves", "100%")
    assert said.exit_code == 5, said.output
    assert "wave 2 of 2 begins" in said.stderr
    assert "c: offline after" in said.stderr
    assert "the agent of site c has not reported yet" in said.stderr
    assert ": release " in said.stderr
    assert sites.running() == {"a": 1, "b": 1, "c": 0}
    sites.awake.add("c")
    heard(sites, {"a": 1, "b": 1, "c": 1})
    monkeypatch.chdir(tmp_path)  # from anywhere
    said = pipeline("rollout", "resume")
    assert said.exit_code == 0, said.output
    assert json.loads(pipeline("rollout", "status", "-o", "json").stdout)["counts"] == {"done": 3}
    assert "published tiny" in pipeline("history").stdout
    sites.number = 2
    for world in sites.worlds.values():
        world.engine.bad.add(world.tag("process", 2))
    said = publish(folder, "--canary", "1", "--max-failures", "0")
    assert said.exit_code == 3, said.output
    assert "a: failed after" in said.stderr
    assert "halted, since 1 site failed: nothing more is started" in said.stderr
    assert sites.running() == {"a": 1, "b": 1, "c": 1}
    assert [w.agent.memory.failed > 0 for w in sites.worlds.values()] == [True, False, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-failures", "3"], "are for waves, and without these everything is published at once: add --canary or"),
        (["--wait", "1h"], "--max-parallel, --max-failures, --wave-soak and --wait are for waves"),
    ],
)
def test_options_of_waves_need_waves(words: list[str], message: str, fleet: tuple[Path, Sites]) -> None:
    said = publish(fleet[0], *words)
    assert said.exit_code == 1
    assert message in said.stderr


def test_a_site_file_that_stands_alone_has_no_waves(fleet: tuple[Path, Sites], tmp_path: Path) -> None:
    text = (fleet[0] / "fleet" / "sites" / "a.toml").read_text()
    alone = 'site = "a"\npipeline = "tiny.py"\nbrokers = "k:9092"\nstore = "file:///x"\n' + text
    (tmp_path / "tiny.py").write_text((fleet[0] / "fleet" / "tiny.py").read_text())
    (tmp_path / "a.toml").write_text(alone.replace("[agent]\n", '[agent]\nrepository = "registry.example/press"\n'))
    said = publish(fleet[0], "--canary", "1", "--site", str(tmp_path / "a.toml"))
    assert said.exit_code == 1
    assert "a.toml is a site file, which stands alone: --canary and --waves are for the sites of a fleet" in said.stderr


def test_a_rollout_keeps_where_the_keys_are_and_no_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    means = Means(86_400.0, "unix:///x", Path("keys"), (Path("a.key"), Path("b.key")), "file:secret")
    kept = Means.of(means.options())
    assert kept == Means(
        86_400.0, "unix:///x", tmp_path / "keys", (tmp_path / "a.key", tmp_path / "b.key"), f"file:{tmp_path}/secret"
    )
    assert Means.of(kept.options()) == kept
    assert Means(1.0, "", Path(), (), "env:NAME").options()["passphrase"] == "env:NAME"
