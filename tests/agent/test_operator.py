"""What an operator does and sees: keys noted in site files, what is refused, how sites that pull are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from containers import modules
from containers.agent import config, enrol, identity, profile, status
from containers.agent.document import Document, Rules, encode
from containers.agent.profile import ALIVE_FILE
from containers.agent.publish import Publisher, Standing
from containers.cli import main
from containers.cli_attempt import rules_of
from containers.fleet import show
from containers.oci import Image
from containers.profiles import CONFIG_DIR
from containers.repository import artifact
from containers.repository.auth import Credentials
from containers.repository.layout import Folder
from containers.repository.statement import sign
from containers.rollout import Actual, Record
from containers.site import load_site
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError, Unavailable
from tests.containers.kit import BASE, SITE, found, site_of, write_site
from tests.repository.plant import RELEASE_KEYS, START, THIEVES, at, make_root

KEY, OTHER = (identity.generate().public for _ in range(2))
AGENT = '[agent]\nrepository = "registry.example/press"\n'


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize("more", ["", AGENT, AGENT + '[hosts]\nkafka = "10.0.0.1"\n', "  [agent]  # pulls\n"])
def test_a_sites_key_is_noted_in_its_file_once(more: str, tmp_path: Path) -> None:
    path = write_site(tmp_path, SITE + more)
    assert enrol.note_key(load_site(path), KEY)
    site = load_site(path)
    assert site.site.agent.key == KEY
    assert site.site.agent.repository == ("registry.example/press" if "repository" in more else "")
    assert site.site.hosts == ({"kafka": "10.0.0.1"} if "hosts" in more else {})
    before = path.read_text()
    assert not enrol.note_key(site, KEY)
    with pytest.raises(
        ConfigError, match=r"site.toml: agent.key is that of another agent; if this one is right, write instead"
    ):
        enrol.note_key(site, OTHER)
    assert path.read_text() == before
    assert enrol.note_key(site, OTHER, replace=True)
    assert load_site(path).site.agent.key == OTHER


def test_where_nobody_pulls_nothing_is_published(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    for words in (["publish"], ["agent", "enrol"]):
        said = run(*words, "--site", str(path))
        assert said.exit_code == 1
        assert "hall1: no agent there pulls anything: bring them up to date with  pipeline deploy" in said.stderr


def test_a_site_that_was_not_enrolled_is_refused(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, SITE + AGENT)
    publisher = Publisher(Folder(tmp_path / "r"), RELEASE_KEYS[:1], [make_root()], _no_store(), ManualClock(), 90)
    with pytest.raises(ConfigError, match=r"site hall1 has no agent.key yet: pipeline agent enrol --site hall1"):
        publisher.publish(site, plan, BASE)
    said = run("status", "--site", str(site.path))
    assert said.exit_code == 1
    assert "site hall1 has no agent.key yet" in said.stderr


def _no_store() -> Any:
    return None


def test_versions_go_on_from_what_we_signed_and_from_nothing_else(tmp_path: Path) -> None:
    repo, clock, path = Folder(tmp_path / "r"), ManualClock(at(START)), "site/hall1"
    publisher = Publisher(repo, RELEASE_KEYS[:1], [make_root()], _no_store(), clock, 90)
    now_s = int(START.timestamp())

    def lies(version: int, by: Any) -> None:
        artifact.put_document(repo, path, artifact.DESIRED, b"{}", "x", sign(b"{}", path, version, START, by))

    assert publisher._newest(path) == 0
    lies(now_s + 500, RELEASE_KEYS[:1])  # somebody whose clock is ahead, and which has expired
    assert publisher._newest(path) == now_s + 500
    lies(2**60, THIEVES[:1])
    assert publisher._newest(path) == 0


def test_what_is_published_is_what_we_signed_whole_and_can_read(tmp_path: Path) -> None:
    repo, path = Folder(tmp_path / "r"), "site/hall1"
    publisher = Publisher(repo, RELEASE_KEYS[:1], [make_root()], _no_store(), ManualClock(at(START)), 90)
    made = Document("hall1", "tiny 1", "me", "2026-06-02", Rules(1.0, 0.0, 0.1), {}, ())
    good = encode(made)

    def lies(content: bytes, stated: bytes, by: Any = RELEASE_KEYS[:1]) -> None:
        artifact.put_document(repo, path, artifact.DESIRED, content, "x", sign(stated, path, 7, START, by))

    assert publisher.standing("hall1") is None
    lies(good, good)
    assert publisher.standing("hall1") == Standing(7, made)
    other = encode(msgspec.structs.replace(made, rights="more"))
    newer = encode(msgspec.structs.replace(made, format=2))
    for content, stated, by in (
        (other, good, RELEASE_KEYS[:1]),
        (good, good, THIEVES[:1]),
        (newer, newer, RELEASE_KEYS[:1]),
    ):
        lies(content, stated, by)
        assert publisher.standing("hall1") is None


def test_a_release_names_the_agent_that_is_to_run_unless_the_site_does_not_want_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, images = identity.generate(), (Image("sitestream/p:1", "{}", ()), Image("sitestream/agent:2", "{}", ()))
    monkeypatch.setattr("containers.agent.publish.broker.everything", lambda *_, **__: [])
    monkeypatch.setattr("containers.agent.publish.agent_images", lambda *_: images)
    monkeypatch.setattr("containers.agent.publish.release.whole", lambda image, _: image)
    monkeypatch.setattr(Publisher, "_push", lambda *_: None)
    publisher = Publisher(
        Folder(tmp_path / "r"), RELEASE_KEYS[:1], [make_root()], _no_store(), ManualClock(at(START)), 90
    )

    def published(more: str = "") -> tuple[str, tuple[str, ...]]:
        (folder := tmp_path / f"files{more[:4]}").mkdir(exist_ok=True)
        site, plan = site_of(folder, f'{SITE}{AGENT}key = "{me.public}"\n{more}')
        said, found = publisher.publish(site, plan, BASE), publisher.standing("hall1")
        assert found
        assert {*found.document.agent} == {*found.document.images}
        return said.agent, found.document.agent

    tags = ("sitestream/p:1", "sitestream/agent:2")
    assert published() == ("unknown", tags)
    for has, word in (("", "unknown"), ("sitestream/agent:1", "is exchanged"), ("sitestream/agent:2", "stays")):
        content = status.encode(status.Status("hall1", 0.0, "0", 1, 1, "", "", Actual(), agent_image=has), me)
        artifact.put_document(publisher.repo, status.path("hall1"), status.TAG, content, status.MEDIA_TYPE)
        assert published() == (word, tags)
    assert published("exchange = false\n") == ("stays", ())


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ({}, Rules(60.0, 600.0, 0.2)),
        ({"soak": "5.0", "health_timeout": "9.0"}, Rules(9.0, 5.0, 0.2)),
        ({"action": "rollback"}, Rules(60.0, 0.0, 0.2)),  # what ran before needs no soak
    ],
)
def test_when_containers_may_stay_says_the_command_or_else_the_site(
    options: dict[str, str], rules: Rules, tmp_path: Path
) -> None:
    own = '[rollout]\nhealth_timeout = "60s"\nsoak = "10m"\nerrors_max = 0.2\n'
    assert rules_of(options, load_site(write_site(tmp_path, SITE + own))) == rules


def reading(age_s: float = 30.0, **changes: Any) -> status.Reported:
    actual = Actual((found(),), (Record(3, {"process": found().name}, "2026"),))
    usual = {"running": 4, "newest": 4, "trouble": ""}
    said = status.Status("hall1", 0.0, "0.1.0", what="tiny 1", actual=actual, **{**usual, **changes})
    return status.reported(said, age_s)


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (reading(), "healthy"),
        (reading(newest=5), "updating: release 5"),
        (reading(newest=5, trouble="release 5 failed"), "held back: release 5 failed"),
        (reading(trouble="the registry is away"), "trouble: the registry is away"),
        (reading(3 * 86_400), "silent: its agent reported last 3 days ago"),
        (reading(status.SILENT_S + 1, newest=5), "silent: its agent reported last 45 minutes ago"),
        (replace(reading(), containers=(found(health="unhealthy"),)), "unhealthy: process is unhealthy"),
    ],
)  # fmt: skip
def test_how_a_site_that_pulls_is_shown(seen: status.Reported, state: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    sites = [load_site(write_site(tmp_path, SITE + AGENT)), load_site(write_site(tmp_path / "b"))]
    lines = click.unstyle(show.fleet_text(sites, [seen, Unavailable("away")])).splitlines()
    assert lines[3].split(maxsplit=4)[1] == "3"
    assert lines[3].partition("1 of 1")[2].strip() == state or "0 of 1" in lines[3]
    value = show.fleet_value(sites, [seen, Unavailable("away")])
    assert seen.status
    one: Any = value["sites"]
    assert (one[0]["release"], one[0]["state"]) == (4, state.partition(":")[0])


def test_the_agents_container_has_the_frame_of_every_service_and_the_socket() -> None:
    frame = config.Frame(network="net", volume="volume", socket="/var/run/docker.sock", group=108, memory_bytes=2**28)
    made = profile.container("hall1", ("p:1", "agent:2"), frame, "t0ken")
    host = made.config["HostConfig"]
    assert made.config["Image"] == "agent:2"
    assert host["GroupAdd"] == ["108"]
    assert host["Mounts"] == [
        {"Type": "volume", "Source": "volume", "Target": CONFIG_DIR, "ReadOnly": True},
        {"Type": "volume", "Source": "sitestream-hall1-agent-data", "Target": "/data", "ReadOnly": False},
        {"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/run/docker.sock", "ReadOnly": True},
    ]
    assert made.config["Labels"] == {
        "sitestream.agent": "hall1", "sitestream.agent-token": "t0ken", "sitestream.images": '["agent:2", "p:1"]',
    }  # fmt: skip
    assert "SITESTREAM_AGENT=t0ken" in made.config["Env"]
    assert (host["NetworkMode"], host["Memory"]) == ("net", 2**28)
    second = profile.container("hall1", ("p:1", "agent:3"), frame, "other", profile.NEXT)
    assert (made.name, second.name) == ("sitestream-hall1-agent", "sitestream-hall1-agent-next")
    assert str(ALIVE_FILE) in made.config["Healthcheck"]["Test"][-1]
    compile(made.config["Healthcheck"]["Test"][-1], "probe", "exec")


def test_how_the_agent_reaches_its_repository(tmp_path: Path) -> None:
    told = config.Config(site="hall1", repository="registry.example/press", poll_s=60.0)
    with config.registry(told, tmp_path) as plain:
        assert plain.where == "registry.example/press"
    (tmp_path / "secrets").mkdir()
    (tmp_path / config.USER_FILE).write_text("hall1\n")
    (tmp_path / config.PASSWORD_FILE).write_text("secret\n")
    (tmp_path / config.CA_FILE).write_text("")
    with config.registry(told, tmp_path) as known:
        assert known._link._credentials == Credentials("hall1", "secret")
        assert known._link._verify == str(tmp_path / config.CA_FILE)
    with pytest.raises(
        ConfigError, match=r"settings.json: cannot be read .*: set the agent up with  pipeline agent enrol"
    ):
        config.load(tmp_path / "settings.json")
    with pytest.raises(ConfigError, match="is plain http"):
        config.registry(config.Config(site="hall1", repository="http://10.0.0.1/press", poll_s=60.0), tmp_path)


def test_the_agents_image_has_nothing_that_computes() -> None:
    names = modules.closure(["containers.agent.__main__"], modules.of_agent)
    ours = {n for n in names if n.startswith("connectors")}
    assert ours == {
        "connectors",
        *(f"connectors.firmware{part}" for part in ("", ".options", ".windows")),
    }  # of site files
    assert not names.keys() & {
        "containers.desired",
        "containers.deploy",
        "containers.images",
        "containers.packages",
        "pipelines.dsl",
    }
    assert names["pipelines"].read_text().strip().startswith('"""'), "an empty package"
    imported = {i.partition(".")[0] for n, p in names.items() for i in modules.imports(p, n)}
    assert not imported & {"numpy", "pyarrow", "aiokafka", "click", "rich", "cryptography"}
