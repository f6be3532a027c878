"""The site file: the example is documentation and schema at once, and every mistake is named with its line and cure."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from containers.profiles import PROFILES
from containers.site import EXAMPLE, AgentSettings, RolloutSettings, Services, Site, load_site
from pipelines.errors import ConfigError
from pipelines.units import size_bytes
from tests.containers.kit import SITE, write_site


def test_the_example_loads_and_shows_secrets_by_reference_only() -> None:
    site = load_site(EXAMPLE).site
    assert site.site == "hall1"
    assert site.services.upload.secrets == {
        "s3_access_key": "file:secrets/s3_access_key",
        "s3_secret_key": "env:PLANT_S3_SECRET_KEY",
    }


def test_the_example_explains_every_setting() -> None:
    text = EXAMPLE.read_text()
    for struct in (Site, RolloutSettings, AgentSettings, *(f.type for f in msgspec.structs.fields(Services))):
        for field in msgspec.structs.fields(struct):
            assert re.search(rf"^#? ?(\[((services\.\w+|agent)\.)?)?{field.name}\b", text, re.MULTILINE), field.name


def test_the_example_tells_the_true_defaults() -> None:
    told = re.search(r"defaults: (.*)$", EXAMPLE.read_text(), re.MULTILINE)
    assert told
    said = dict(part.split() for part in told[1].split(", "))
    assert {name: size_bytes(of) for name, of in said.items()} == {
        p.service: size_bytes(p.memory) for p in PROFILES.values()
    }


def test_paths_are_relative_to_the_site_file(tmp_path: Path) -> None:
    site = load_site(write_site(tmp_path, SITE.replace("tiny.py", "tiny.py:tiny")))
    assert site.pipeline == f"{tmp_path}/tiny.py:tiny"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('brokrs = "kafka:9092"', r":5: .*unknown field `brokrs`: did you mean `brokers`\?"),
        ("partitions = 'many'", r":5: .*Expected `int`, got `str`"),
        ("partitions = 0", r":5: partitions = 0: write a number from 1 to"),
        ("partitions = \nengine = ''", r"is not TOML: .*line 5"),
        ("engine = 'docker'", r":5: engine = 'docker': write 'unix:"),
        ("engine = 'ssh://ops@hall:99999'", r":5: engine = 'ssh://ops@hall:99999': write 'unix:"),
        ("engine = 'ssh://ops@hall:abc'", r":5: engine = 'ssh://ops@hall:abc': write 'unix:"),
        ("engine = 'ssh://-oProxyCommand=id'", r":5: engine = 'ssh://-oProxyCommand=id': write 'unix:"),
        ("engine = 'ssh://-oProxyCommand=id@hall'", r":5: engine = 'ssh://-oProxyCommand=id@hall': write 'unix:"),
        ("engine = 'ssh://hall/run'", r":5: engine = 'ssh://hall/run': write 'unix:"),
        ("engine = 'ssh://me:pw@hall'", r":5: engine holds a password: use a secret"),
        ("engine = 'tcp://hall'", r":5: engine = 'tcp://hall': write .* 'ssh://user@host:2222' or 'tcp://host:2376'"),
        ("engine = 'tcp://hall1:2375'", r":5: .*without TLS whoever reaches this port is root.*add \[engine_tls\]"),
        ("[hosts]\nedge = 'somewhere'", r":6: hosts.edge = 'somewhere': write an IP address, or 'gateway'"),
        ("[hosts]\n'a b' = '10.0.0.1'", r":6: hosts: 'a b' is not a host name"),
        ("[rollout]\nsoak = 'long'", r":6: 'long' is not a duration"),
        ("[rollout]\nerrors_max = 10.0", r":6: rollout.errors_max = 10: write a share from 0 to 1, such as 0.1 for a tenth"),
        ("[agent]\nrepository = 'no such/PLACE'", r":6: agent.repository = 'no such/PLACE': write host:port/folder"),
        ("[agent]\npush = 'ftp://x'", r":6: agent.push = 'ftp://x': write host:port/folder"),
        ("[agent]\npoll = '1ms'", r":6: agent.poll = '1ms': write a time from 1 s to 86400 s, such as '60s'"),
        ("[agent]\nkey = 'abc'", r":6: agent.key is no key of a site: write it as  pipeline agent enrol  says it"),
        ("[agent]\nmemory = 'much'", r":6: 'much' is not a size"),
        ("[agent.secrets]\nuser = 'env:X'", r":6: agent.secrets.user is not known: there are registry_user and"),
        ("[agent.secrets]\nregistry_user = 'me'", r":6: agent.secrets.registry_user is not a reference: write 'file:PATH'"),
        ("[services.proces]\nmemory = '1GiB'", r":5: .*unknown field `proces`.*: did you mean `process`\?"),
        ("[services.process]\nmemry = '1GiB'", r":6: .*unknown field `memry`.*: did you mean `memory`\?"),
        ("[services.collect]\nmemory = '1GiB'\n[services.process]\nmemory = '1 gig'", r":8: '1 gig' is not a size: .*'64MiB'"),
        ("[services.process]\ncpus = -1.0", r":6: services.process.cpus = -1.0: write a number such as 0.5"),
        ("[services.process]\nlog_level = 'LOUD'", r":6: .*log_level = 'LOUD': write DEBUG, INFO"),
        ("[services.process]\ndevices = ['/dev/ttyS0']", r":6: services.process.devices: only collect uses serial ports"),
        ("[services.collect]\ndevices = ['/dev/../etc']", r":6: .*'/dev/../etc' is not a serial port: write .* '/dev/ttyUSB0'"),
        ("[services.collect]\ndevices = ['ttyUSB0']", r":6: services.collect.devices: 'ttyUSB0' is not a serial port"),
        ("[services.collect]\ndevice_group = 0", r":6: services.collect.device_group = 0: .* 20 for dialout; not 0, which"),
        ("[services.upload.options]\ns3_password = 'x'", r":6: .*s3_password looks like a secret.*\[services.upload.secrets\]"),
        ("[services.upload.options]\ns3_endpoint = 'https://me:x@s3'", r":6: .*s3_endpoint holds a password: use a secret"),
        ("[services.upload.secrets]\nkey = 'abc123'", r":6: .*secrets.key is not a reference: write 'file:PATH' or 'env:NAME'"),
        ("[services.upload.secrets]\n'../key' = 'file:x'", r":6: services.upload.secrets: '../key' is not a plain file name"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_cure(tmp_path: Path, line: str, message: str) -> None:
    path = write_site(tmp_path, SITE + line)
    with pytest.raises(ConfigError, match=message) as raised:
        load_site(path)
    assert str(raised.value).startswith(f"{path}:")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"hall1"', '"Hall 1"', r":1: site name 'Hall 1' cannot be used: write lower-case letters"),
        ('"tiny.py"', '""', r":2: pipeline is empty"),
        ('"kafka:9092"', '"kafka"', r":3: brokers: 'kafka' is not an address: write host:port"),
        ('"file:///srv/parquet"', '"s3://me:pw@["', r":4: store holds a password: use a secret"),
        ('"file:///srv/parquet"', '"s3://["', r":4: store = 's3://\[': write 's3://bucket/folder'"),
        ('"file:///srv/parquet"', '"/srv/parquet"', r":4: store = '/srv/parquet': write 's3://bucket/folder'"),
        ('"file:///srv/parquet"', '"s3://me:secret@plant"', r":4: store holds a password: use a secret"),
        ('brokers = "kafka:9092"', "", r":1: there are no `brokers`: write brokers = 'host:port', or"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_cure(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_site(write_site(tmp_path, SITE.replace(old, new)))


def test_a_secret_written_by_mistake_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_site(write_site(tmp_path, SITE + "[services.upload.secrets]\nkey = 'hunter2'"))
    assert "hunter2" not in str(raised.value)


def test_a_site_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such site file: name it with --site FILE, or begin with a copy of"):
        load_site(tmp_path / "nowhere.toml")
