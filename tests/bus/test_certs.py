"""The fleet's authority, and certificates on their way into the containers."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from containers import bus, show_plan
from containers.certs import DAYS, Authority
from containers.cli import main
from containers.deployer import Deployment
from containers.desired import desired
from containers.kubernetes import fit
from containers.profiles import UID
from containers.rollout import Actual
from containers.wanted import Desired
from pipelines.clock import ManualClock, SystemClock
from pipelines.errors import ConfigError
from pipelines.runtime.identity import CA_FILE, CERT_FILE, KEY_FILE
from tests.containers.kit import BASE, SITE, contents, site_of, write_site

MTLS = SITE + '[kafka]\nsecurity = "mtls"\n'
DAY_NS = 86_400 * 10**9


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SystemClock().now_ns())


@pytest.fixture
def ours(tmp_path: Path, clock: ManualClock) -> Authority:
    made = Authority(tmp_path / "certs", clock)
    made.init()
    return made


def wanted(tmp_path: Path, clock: ManualClock, *, renew: bool) -> dict[str, Desired]:
    site, plan = site_of(tmp_path, MTLS)
    services = ["collect", "process", "upload", "control"]
    return {d.service: d for d in desired(site, plan, BASE, bus.identity_files(site, services, clock, renew=renew))}


def test_private_keys_are_for_their_owner_only(ours: Authority) -> None:
    ours.issue("hall1-process")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in ours.folder.iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "hall1-process.pem": 0o600}


def test_a_second_authority_is_not_made_over_the_first(ours: Authority) -> None:
    with pytest.raises(ConfigError, match=r"has an authority already: to begin anew, move the folder away"):
        ours.init()


def test_a_fleet_without_an_authority(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(
        ConfigError, match=r"certs/ca\.pem cannot be read .*: make the fleet's authority with  pipeline certs init"
    ):
        wanted(tmp_path, clock, renew=True)


def test_a_certificate_is_renewed_when_a_third_of_its_time_remains(ours: Authority, clock: ManualClock) -> None:
    first = ours.issue("hall1-process")
    clock.advance((DAYS * 2 / 3) * 86_400 - 60)
    assert ours.find("hall1-process") == first
    clock.advance(120)
    assert ours.find("hall1-process") is None
    again = ours.issue("hall1-process")
    assert again.key != first.key
    assert again.left(clock) > timedelta(days=DAYS - 1)


def test_a_certificate_of_another_authority_does_not_count(ours: Authority, tmp_path: Path, clock: ManualClock) -> None:
    other = Authority(tmp_path / "other", clock)
    other.init()
    other.issue("hall1-process")
    (tmp_path / "other" / "hall1-process.pem").rename(ours.folder / "hall1-process.pem")
    assert ours.find("hall1-process") is None


def test_a_damaged_certificate(ours: Authority) -> None:
    (ours.folder / "hall1-process.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"hall1-process\.pem is damaged \(.*\): delete it, and it is issued anew"):
        ours.find("hall1-process")


def test_each_service_gets_its_own_files_readable_by_itself_only(
    ours: Authority, tmp_path: Path, clock: ManualClock
) -> None:
    found = wanted(tmp_path, clock, renew=True)
    keys = set()
    for d in found.values():
        files = {Path(f.path).name: f for f in d.config_files}
        for name in (CA_FILE, CERT_FILE, KEY_FILE):
            assert (files[name].mode, files[name].uid) == (0o400, UID)
        assert files[CA_FILE].content == ours.certificate
        keys.add(files[KEY_FILE].content)
    assert len(keys) == len(found) == 4


def test_only_the_service_whose_certificate_is_new_is_replaced(
    ours: Authority, tmp_path: Path, clock: ManualClock
) -> None:
    before = wanted(tmp_path, clock, renew=True)
    assert {s: d.fingerprint for s, d in wanted(tmp_path, clock, renew=True).items()} == {
        s: d.fingerprint for s, d in before.items()
    }
    ours.issue("hall1-process")
    after = wanted(tmp_path, clock, renew=True)
    assert {s for s in after if after[s].fingerprint != before[s].fingerprint} == {"process"}


def test_a_plan_issues_nothing_and_says_what_is_due(ours: Authority, tmp_path: Path, clock: ManualClock) -> None:
    wanted(tmp_path, clock, renew=True)
    (ours.folder / "hall1-upload.pem").unlink()
    before = sorted(ours.folder.iterdir())
    due = {s for s, d in wanted(tmp_path, clock, renew=False).items() if d.parts["certificate"] == "due"}
    assert due == {"upload"}
    assert sorted(ours.folder.iterdir()) == before


def test_no_key_is_in_labels_environment_image_or_plan(ours: Authority, tmp_path: Path, clock: ManualClock) -> None:
    found = wanted(tmp_path, clock, renew=True)
    todo, held = Deployment(tuple(found.values()), Actual()), contents(tmp_path, MTLS)
    for d in found.values():
        (key,) = [f.content for f in d.config_files if f.path.endswith(KEY_FILE)]
        assert isinstance(key, bytes)
        secret_lines = key.decode().splitlines()[1:-1]
        image = b"".join(f.content for f in held[d.service].files)
        said = [
            json.dumps(d.container(1, "10.0.0.1").config), image.decode(errors="replace"), repr(d),
            repr(d.config_files), show_plan.text("hall1", todo), json.dumps(show_plan.value("hall1", todo), default=str),
        ]  # fmt: skip
        assert secret_lines
        assert not [line for line in secret_lines for text in said if line in text]


def test_without_mtls_nothing_of_it_is_there(tmp_path: Path, clock: ManualClock) -> None:
    site, plan = site_of(tmp_path)
    assert bus.identity_files(site, ["collect"], clock, renew=True) == {}
    assert bus.grant(site, plan, ["collect"], clock, revoke=True) == (0, 0)
    assert not (tmp_path / "certs").exists()


def test_a_cluster_is_not_given_manifests_without_the_certificates_that_they_need(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, MTLS.replace("file:///srv/parquet", "s3://bucket"))
    with pytest.raises(
        ConfigError, match=r"site\.toml: kafka\.security = 'mtls': certificates are brought to Docker engines"
    ):
        fit.check(site, plan, "plant", "registry.example/plant")


def test_the_commands(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        said = CliRunner().invoke(main, ["--site", str(write_site(tmp_path, MTLS)), *words])
        assert said.exit_code == 0, said.stderr
        return said.stdout

    assert run("certs", "init").startswith("made ")
    assert "ssl.keystore.type=PEM" in run("certs", "broker", "kafka", "192.168.10.2")
    Authority(tmp_path / "certs", SystemClock()).issue("hall1-process")
    text = run("certs", "show").splitlines()
    assert text[0].split() == ["NAME", "PRINCIPAL", "EXPIRES", "DAYS", "LEFT"]
    assert [line.split()[:2] for line in text[1:]] == [
        ["broker", "User:CN=broker"], ["ca", "-"], ["hall1-process", "User:CN=hall1-process"],
    ]  # fmt: skip
    found = json.loads(run("certs", "show", "-o", "json"))["certificates"]
    assert [(c["name"], c["days_left"]) for c in found] == [("broker", 89), ("ca", 3649), ("hall1-process", 89)]


def test_the_colour_of_a_certificate_near_its_end(tmp_path: Path) -> None:
    site = write_site(tmp_path, MTLS)
    for name, days in {"fresh": 0, "old": 70, "expired": 91}.items():
        then = Authority(tmp_path / "certs", ManualClock(SystemClock().now_ns() - days * DAY_NS))
        if name == "fresh":
            then.init()
        then.issue(name)
    said = CliRunner().invoke(main, ["--site", str(site), "certs", "show"], color=True).stdout
    colours = {line.split()[0]: line for line in said.splitlines()}
    assert "\x1b[32m" in colours["fresh"]
    assert "\x1b[33m" in colours["old"]
    assert "\x1b[31m-" in colours["expired"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('security = "tls"', r"site\.toml:6: Invalid enum value 'tls'"),
        ('admin = "nowhere"', r"site\.toml:6: kafka\.admin: 'nowhere' is not an address: write host:port"),
        ('certificates = "x"', r"unknown field `certificates`"),
    ],
)
def test_a_mistake_in_the_site_file_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        site_of(tmp_path, f"{SITE}[kafka]\n{line}\n")
