"""`pipeline publish` and `deploy` in waves over a real registry: agents that poll it, on simulated engines, and a site that is
pushed to; halted, pending, taken up, rolled back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from containers.agent.publish import Published, Publisher
from containers.cli_means import Means
from containers.cli_shared import FLEET_VARIABLE
from containers.fleet import journal
from containers.fleet.events import Outcome
from containers.repository import artifact
from containers.repository.keys import Keys
from containers.repository.registry import Registry
from containers.site import SiteFile
from pipelines.clock import ManualClock, SystemClock
from tests.agent.world import World
from tests.bed.registry import ImageRegistry
from tests.fleet.kit import pipeline, states_in, write_fleet

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
        self.pushed, self.push_fails = list[str](), False
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

    def push(self, name: str, phase: Callable[[str], None]) -> Outcome:
        """What a site that is pushed to has done, without an engine."""
        self.pushed.append(name)
        return Outcome("failed", "it crashed") if self.push_fails else Outcome("done", revision=len(self.pushed))

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
        own["d"] = '[agent]\nrepository = ""\n'
        write_fleet(folder / "fleet", FLEET.format(address=registry.address), **own)
        patch.setattr(Publisher, "publish", lambda self, *words, **more: sites.publish(self, *words, **more))
        patch.setattr("containers.cli_means.Bases.of", lambda *_: None)
        patch.setattr("containers.fleet.pulled.LOOK_S", 0.1)
        patch.setattr("containers.cli_attempt.SiteAttempt.__call__", sites.push)
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


def deploy(folder: Path, *words: str) -> Result:
    return pipeline("deploy", "--keys", str(folder / "keys"), *words)


def states() -> dict[str, str]:
    """The state of each site in the newest rollout."""
    return states_in(pipeline("rollout", "status", "-o", "json").stdout)


def test_one_rollout_brings_both_kinds_forward_and_back_each_by_its_way(fleet: tuple[Path, Sites]) -> None:
    folder, sites = fleet
    sites.number = 3
    said = deploy(folder, "--canary", "2", "--max-failures", "0")
    assert said.exit_code == 0, said.output
    assert states() == dict.fromkeys("abcd", "done")
    assert sites.running() == {"a": 3, "b": 3, "c": 3}
    assert sites.pushed == ["d"]
    begun = [name for line in said.stderr.splitlines() for name in "abcd" if line.startswith(f"{name}: done")]
    assert set(begun[:2]) == {"a", "d"}, "the canary shows both ways"
    said = pipeline("rollback", "--keys", str(folder / "keys"))
    assert said.exit_code == 0, said.output
    assert sites.running() == {"a": 1, "b": 1, "c": 1}
    assert sites.pushed == ["d", "d"]
    assert "the revision before" in pipeline("history").stdout


def test_a_failure_of_either_kind_stops_both(fleet: tuple[Path, Sites]) -> None:
    folder, sites = fleet
    before = sites.running()
    sites.number, sites.push_fails = 4, True
    said = deploy(folder, "--canary", "1", "--max-failures", "0")
    assert said.exit_code == 3, said.output
    assert states() == {"a": "skipped", "b": "skipped", "c": "skipped", "d": "failed"}
    sites.push_fails = False
    for world in sites.worlds.values():
        world.engine.bad.add(world.tag("process", 4))
    said = deploy(folder, "--canary", "2", "--max-failures", "0")
    assert said.exit_code == 3, said.output
    assert states() == {"a": "failed", "b": "skipped", "c": "skipped", "d": "done"}
    assert sites.running() == before


def test_an_unknown_release_is_a_failure_of_its_site_with_the_cure(fleet: tuple[Path, Sites]) -> None:
    said = pipeline("rollback", "77", "--site", "b", "--keys", str(fleet[0] / "keys"))
    assert said.exit_code == 3
    assert "release 77 of site b is not in" in said.stderr
    assert "check out the files that it was made of" in said.stderr


@pytest.mark.parametrize(
    ("words", "edit", "message"),
    [
        (["--keys", "nowhere"], "{}", "nowhere has no keys: make them with  pipeline keys init , or copy the folder"),
        (
            ["--no-rollback"],
            "{}",
            "--no-rollback: a, b, c: an agent there pulls, and goes back by itself: leave it out",
        ),
        ([], '{}push = "127.0.0.1:1/fleet"', "the registry at 127.0.0.1:1 cannot be reached"),
        ([], "[agent]", "site a has no agent.key yet: pipeline agent enrol --site a"),
    ],
)
def test_what_is_missing_where_sites_pull_is_told_before_anything_is_begun(
    words: list[str], edit: str, message: str, fleet: tuple[Path, Sites]
) -> None:
    folder, sites = fleet
    known, pushed = journal.ids(folder / "fleet"), list(sites.pushed)
    file = folder / "fleet" / "sites" / "a.toml"
    text = file.read_text()
    file.write_text(edit.format(text))
    try:
        said = pipeline("deploy", *(words if "--keys" in words else ["--keys", str(folder / "keys"), *words]))
    finally:
        file.write_text(text)
    assert said.exit_code == 1
    assert message in said.stderr
    assert (journal.ids(folder / "fleet"), sites.pushed) == (known, pushed)


def test_sites_that_are_pushed_to_need_no_keys_and_one_that_pulls_later_needs_a_new_rollout(
    fleet: tuple[Path, Sites], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = fleet
    with monkeypatch.context() as patch:
        patch.setattr("containers.cli_attempt.SiteAttempt.__call__", lambda *_: Outcome("offline", "no answer"))
        assert pipeline("deploy", "--site", "d").exit_code == 5
    file = folder / "fleet" / "sites" / "d.toml"
    text = file.read_text()
    file.write_text("")
    said = pipeline("rollout", "resume")
    file.write_text(text)
    assert said.exit_code == 1
    assert "d: an agent there pulls, and none did when rollout " in said.stderr
    assert "so it has no keys to sign with: begin another with  pipeline deploy" in said.stderr
    assert pipeline("rollout", "abort").exit_code == 0


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
