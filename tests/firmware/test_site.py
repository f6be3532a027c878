"""What a site file says of firmware becomes: a lean image, rights in Kafka, settings, networks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from containers.acls import acls
from containers.desired import check_given, contents_of, services_at
from containers.firmware import reach
from containers.kubernetes.network import endpoints
from containers.profiles import FIRMWARE, PROFILES, UID
from containers.site import load_site
from pipelines import topics
from pipelines.errors import ConfigError
from tests.containers.kit import BASE, SITE, site_of, wanted, write_site

ROOT = '{"signed": {"_type": "root"}}'
TABLE = """
[firmware]
repository = "https://fw.example.com:8443/x"
mqtt = "mqtts://edge"
root = "root.json"
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> None:
    """The root that a site is given."""
    (tmp_path / "root.json").write_text(ROOT)


def test_it_runs_where_the_site_file_says_so_and_only_there(tmp_path: Path) -> None:
    assert [p.service for p in services_at(*site_of(tmp_path))] == list(PROFILES)
    assert [p.service for p in services_at(*site_of(tmp_path, SITE + TABLE))] == ["firmware", *PROFILES]


def test_its_image_has_its_own_code_and_packages_and_nothing_else(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, SITE + TABLE)
    what = contents_of(site, plan, BASE, FIRMWARE)
    paths = [f.path.removeprefix("opt/sitestream/code/") for f in what.files]
    assert "connectors/firmware/service.py" in paths
    ours = ("connectors/", "pipelines/", "sitestream-", "data/")
    assert [p for p in paths if not p.startswith(ours)] == []
    never = (
        "connectors/control",
        "connectors/mqtt",
        "pipelines/__init__",
        "pipelines/dsl",
        "pipelines/task",
        "containers/",
    )
    assert [p for p in paths if p.startswith(never)] == []
    assert [f.path for f in what.files if f.content and b"PRIVATE KEY" in f.content] == []
    names = {pin.partition("==")[0] for pin in what.extra}
    assert {"aiokafka", "aiomqtt", "cryptography", "tuf"} <= names
    assert not names & {"numpy", "pyarrow", "faust-streaming", "docker", "click", "requests", "pynacl"}
    assert len(names) <= 14
    assert sum(f.content.count(b"\n") for f in what.files if f.content) < 3_500
    assert what.packages_tag == what.parent_tag


def test_control_has_nothing_of_firmware_and_firmware_nothing_of_control(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, SITE + TABLE)
    control = contents_of(site, plan, BASE, PROFILES["control"])
    assert [f.path for f in control.files if "firmware" in f.path or f.path.endswith("root.json")] == []
    assert not {pin.partition("==")[0] for pin in (*control.common, *control.extra)} & {
        "tuf",
        "securesystemslib",
        "urllib3",
    }
    names = {f.path: f.content for f in control.files}
    assert not [path for path, content in names.items() if b"connectors.firmware" in content]

    services = wanted(tmp_path, SITE + TABLE)
    assert services["firmware"].secret_names == ["firmware-root.json"]
    assert services["control"].secret_names == []
    assert not {m.source for m in services["control"].mounts} & {m.source for m in services["firmware"].mounts}
    assert not {"repository", "mqtt"} & set(services["control"].settings.options)

    of_control = {topics.commands("hall1"), topics.acks("hall1"), topics.audit("hall1")}
    of_firmware = {of("hall1") for of in (topics.firmware_desired, topics.firmware_status, topics.firmware_audit)}
    rights = {s: {(a.operation, a.name) for a in acls(plan, "hall1", s)} for s in ("control", "firmware")}
    assert {name for does, name in rights["control"] if does != "describe"} & of_firmware == set()
    assert {name for does, name in rights["firmware"] if does != "describe"} & of_control == set()
    assert {name for _, name in rights["control"]} >= of_control  # so the names are those that are used
    assert {name for _, name in rights["firmware"]} >= of_firmware
    assert not [name for does, name in rights["firmware"] if does != "describe" and "control" in name]


def test_another_pipeline_does_not_touch_it(tmp_path: Path) -> None:
    one, other = (wanted(tmp_path, SITE + TABLE, window=window)["firmware"] for window in ("1s", "2s"))
    assert one.fingerprint == other.fingerprint
    assert one.tag == other.tag
    changed = wanted(tmp_path, SITE + TABLE.replace("8443", "9443"))["firmware"]
    assert changed.fingerprint != one.fingerprint
    assert changed.tag == one.tag
    (tmp_path / "root.json").write_text(ROOT + " ")
    assert wanted(tmp_path, SITE + TABLE)["firmware"].fingerprint != one.fingerprint


def test_its_settings_root_networks_and_volume(tmp_path: Path) -> None:
    d = wanted(tmp_path, SITE + TABLE + "window = '22:00-04:00'")["firmware"]
    assert d.settings.pipeline == ""
    assert d.settings.options == {
        "repository": "https://fw.example.com:8443/x", "mqtt": "mqtts://edge", "window": "22:00-04:00", "refresh": "5m",
        "jitter": "10m", "images_max": "2GiB",
    }  # fmt: skip
    (file,) = d.secrets
    assert (file.path, file.content, file.mode, file.uid) == ("secrets/firmware-root.json", ROOT.encode(), 0o400, UID)
    assert d.networks == ("sitestream-hall1-bus", "sitestream-hall1-ot", "sitestream-hall1-wan")
    assert [(m.target, m.read_only) for m in d.mounts] == [("/data", False)]
    config = d.container(1, "").config["HostConfig"]
    assert config["CapDrop"] == ["ALL"]
    assert "Devices" not in config
    assert config["ReadonlyRootfs"]
    _, plan = site_of(tmp_path, SITE + TABLE)
    assert [(e.host, e.port) for role in ("ot", "wan") for e in endpoints(role, d, plan)] == [
        ("edge", 8883), ("fw.example.com", 8443),
    ]  # fmt: skip


def test_its_rights_in_kafka_are_its_hints_and_its_account(tmp_path: Path) -> None:
    _, plan = site_of(tmp_path, SITE + TABLE)
    rights = {(a.operation, a.kind, a.name, a.prefixed) for a in acls(plan, "hall1", "firmware")}
    assert rights == {
        ("describe", "topic", "hall1.", True), ("write", "topic", topics.dead("hall1"), False),
        ("read", "topic", "hall1.fw.desired", False), ("read", "topic", "hall1.fw.status", False),
        ("write", "topic", "hall1.fw.status", False), ("write", "topic", "hall1.fw.audit", False),
        ("write", "transactional id", "hall1.firmware", False),
    }  # fmt: skip
    for service in PROFILES:
        assert not [a for a in acls(plan, "hall1", service) if ".fw." in a.name or a.name == "hall1.firmware"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("repository = 'ftp://x'", "write 'http://host' or 'https://host'"),
        ("mqtt = 'edge'", "write 'mqtt://host' or 'mqtts://host'"),
        ("window = 'always'", "maintenance window 'always'"),
        ("jitter = 'soon'", "soon"),
        ("http_url = 'https://x'", "write 'http://host'"),
        ("wimdow = ''", "did you mean `window`"),
        ("repository = 'https://a:b@x'", "holds a password"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, change: str, why: str) -> None:
    name = change.partition(" ")[0]
    lines = [line for line in TABLE.splitlines() if not line.startswith(f"{name} ")]
    path = write_site(tmp_path, SITE + "\n".join([*lines, change]))
    with pytest.raises(ConfigError, match=r"site\.toml:\d+: .*" + why.replace("?", r"\?")):
        load_site(path)


def test_a_root_or_password_that_is_missing_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text('{"private": 1}')
    with pytest.raises(ConfigError, match="is no signed root"):
        wanted(tmp_path, SITE + TABLE)
    (tmp_path / "root.json").unlink()
    with pytest.raises(ConfigError, match=r"root.json cannot be read .*1\.root\.json"):
        wanted(tmp_path, SITE + TABLE)
    with pytest.raises(ConfigError, match="needs the secret 'mqtt_password' of the MQTT user fw"):
        check_given(*site_of(tmp_path, SITE + TABLE + "mqtt_username = 'fw'"))


def test_the_service_imports_neither_numpy_nor_what_signs(tmp_path: Path) -> None:
    """Run from its image's files alone."""
    import subprocess

    site, plan = site_of(tmp_path, SITE + TABLE)
    for file in contents_of(site, plan, BASE, FIRMWARE).files:
        place = tmp_path / "root" / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not file.path.endswith("/"):
            place.write_bytes(file.content or b"")
    program = "import sys, connectors.firmware.service as s; print(s.__file__, *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "root/opt/sitestream/code")},
    )  # fmt: skip
    where, *loaded = done.stdout.split()
    assert where.startswith(str(tmp_path))
    assert not {"numpy", "pyarrow", "faust", "docker", "containers", "pipelines.dsl", "subprocess_shell"} & set(loaded)


def test_a_site_whose_own_brokers_engine_is_away_says_so(tmp_path: Path) -> None:
    text = SITE.replace('brokers = "kafka:9092"', "") + '[kafka]\nbroker = "container"\ndisk = "20GiB"\n'
    site = load_site(write_site(tmp_path, "engine = 'unix:///none.sock'\n" + text))
    found, away = reach.statuses([site])
    assert not found
    assert (
        f"People reach the broker of site {site.site.site}, a container, through that engine alone"
        in away[site.site.site]
    )
    assert reach.hint([site], 1) == away
