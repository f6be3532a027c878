"""What makes a service changed, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from containers.desired import check, contents_of, desired, identity, work_for
from containers.images import Contents
from containers.profiles import CONFIG_DIR, PROFILES, UID
from containers.site import load_site
from containers.wanted import Desired
from pipelines.errors import ConfigError
from pipelines.load import load
from tests.containers.kit import BASE, SITE, process_text, site_of, wanted, with_environment, write_site

ALL = {"collect", "process", "upload", "control"}


def _changed(tmp_path: Path, text: str = SITE, **changes: str) -> set[str]:
    """Services whose fingerprint differs from that of the plain site."""
    before, after = wanted(tmp_path), wanted(tmp_path, text, **changes)
    return {s for s in before if before[s].fingerprint != after[s].fingerprint}


def test_nothing_changes_when_nothing_has(tmp_path: Path) -> None:
    assert _changed(tmp_path) == set()


@pytest.mark.parametrize(
    ("changes", "services"),
    [
        ({"first_lines": "# a comment"}, set()),
        ({"window": "2s"}, {"process"}),
        ({"every": "1m"}, {"upload"}),
        ({"expires": "1m"}, {"control"}),
        ({"mqtt": "mqtt://other"}, {"collect", "control"}),  # commands go to the source's broker by default
        ({"source_options": ", silence='9s'"}, {"collect", "control"}),
        ({"source_options": ", devices={'a', 'b'}"}, {"collect", "control"}),
    ],
)
def test_a_change_of_the_pipeline_replaces_only_those_who_use_that_part(
    tmp_path: Path, changes: dict[str, str], services: set[str]
) -> None:
    assert _changed(tmp_path, **changes) == services


@pytest.mark.parametrize(
    ("lines", "services"),
    [
        ("[services.process]\nmemory = '3GiB'", {"process"}),
        ("[services.process.options]\nstate_bytes_max = '1000'", {"process"}),
        ("[services.collect]\nlog_level = 'DEBUG'", {"collect"}),
        ("partitions = 8", ALL),
        ("[hosts]\nedge = '10.0.0.1'", ALL),
        ("[networks]\not = 'plant'", {"collect", "control"}),
        ("[networks]\nwan = 'uplink'", {"upload"}),
    ],
)
def test_a_change_of_the_site_file_replaces_only_those_whom_it_concerns(
    tmp_path: Path, lines: str, services: set[str]
) -> None:
    assert _changed(tmp_path, SITE + lines) == services


def test_another_store_replaces_upload_alone(tmp_path: Path) -> None:
    assert _changed(tmp_path, SITE.replace("/srv/parquet", "/srv/other")) == {"upload"}


def test_the_reason_of_a_change_is_told_by_part(tmp_path: Path) -> None:
    before, after = wanted(tmp_path)["process"].parts, wanted(tmp_path, window="2s")["process"].parts
    assert {name for name in before if before[name] != after[name]} == {"pipeline"}


FACTS = """
class Machine(Schema):
    device = Key[str]()
    limit = Col[float]()


second.join(tiny.dimension(Machine, "facts/machines.csv"), how="inner").where(Second.mean > Machine.limit)
"""


def test_a_dimension_travels_with_process_and_replaces_it_alone_when_it_changes(tmp_path: Path) -> None:
    def with_facts(text: str) -> dict[str, Desired]:
        (tmp_path / "facts").mkdir(exist_ok=True)
        (tmp_path / "facts/machines.csv").write_text(text)
        write_site(tmp_path)
        with (tmp_path / "tiny.py").open("a") as file:
            file.write(FACTS)
        site = load_site(tmp_path / "site.toml")
        return {d.service: d for d in desired(site, load(site.pipeline).plan(), BASE)}

    before, after = with_facts("device,limit\na,1\n"), with_facts("device,limit\na,2\n")
    assert {s for s in before if before[s].fingerprint != after[s].fingerprint} == {"process"}
    old, new = before["process"].parts, after["process"].parts
    assert {name for name in old if old[name] != new[name]} == {"dimensions"}
    path = "opt/sitestream/pipeline/facts/machines.csv"
    assert path in {f.path for f in _contents(tmp_path, "process").files}
    assert path not in {f.path for f in _contents(tmp_path, "collect").files}
    with pytest.raises(ConfigError, match=r"facts/machines.csv:2: 'limit' is 'much': a number is needed"):
        with_facts("device,limit\na,much\n")


def _contents(folder: Path, service: str) -> Contents:
    site = load_site(folder / "site.toml")
    return contents_of(site, load(site.pipeline).plan(), BASE, PROFILES[service])


def test_a_new_secret_replaces_those_who_have_it(tmp_path: Path) -> None:
    text = SITE + "[services.collect.secrets]\nedge = 'file:edge.key'"
    (tmp_path / "edge.key").write_text("one")
    before = wanted(tmp_path, text)
    (tmp_path / "edge.key").write_text("two")
    after = wanted(tmp_path, text)
    assert {s for s in before if before[s].fingerprint != after[s].fingerprint} == {"collect"}


PRINT_FINGERPRINTS = """
import sys
from pathlib import Path
from tests.containers.kit import wanted
print({s: d.fingerprint for s, d in wanted(Path(sys.argv[1]), source_options=", devices={'a', 'b', 'c'}").items()})
"""


def test_fingerprints_are_the_same_in_every_process(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PRINT_FINGERPRINTS, str(tmp_path)]
    seeds = [with_environment(PYTHONHASHSEED=seed) for seed in ("1", "2")]
    assert len({subprocess.run(words, env=env, capture_output=True, check=True).stdout for env in seeds}) == 1


def test_secrets_are_files_that_only_the_service_can_read_and_stand_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "edge.key").write_text("hunter2")
    d = wanted(tmp_path, SITE + "[services.collect.secrets]\nedge = 'file:edge.key'")["collect"]
    (file,) = d.secrets
    assert (file.path, file.mode, file.uid, file.content) == ("secrets/edge", 0o400, UID, b"hunter2")
    assert d.settings.secrets_dir == f"{CONFIG_DIR}/secrets"
    assert "hunter2" not in repr(d) + json.dumps(d.container(1, "").config)
    assert not [f for f in _contents(tmp_path, "collect").files if b"hunter2" in f.content]


def test_a_secret_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SITE + "[services.collect.secrets]\nedge = 'env:EDGE_KEY'"
    with pytest.raises(
        ConfigError, match=r"collect.secrets.edge: the environment variable EDGE_KEY is not set: export it"
    ):
        wanted(tmp_path, text)
    monkeypatch.setenv("EDGE_KEY", "hunter2")
    assert wanted(tmp_path, text)["collect"].secrets[0].content == b"hunter2"


def test_a_secret_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    text = SITE + "[services.collect.secrets]\nedge = 'file:edge.key'"
    with pytest.raises(
        ConfigError, match=r"secrets.edge: the file .*edge.key cannot be read \(No such file or directory\): put"
    ):
        wanted(tmp_path, text)
    (tmp_path / "edge.key").write_text("\n")
    with pytest.raises(ConfigError, match=r"file:edge.key is empty"):
        wanted(tmp_path, text)


def test_what_the_pipeline_needs_and_the_site_lacks_is_found_without_any_secret(tmp_path: Path) -> None:
    options = "\nfrom connectors.secrets import secret"
    source = ", username='me', password=secret('edge-mqtt')"
    with pytest.raises(ConfigError, match=r"collect needs the secret 'edge-mqtt'|control needs the secret 'edge-mqtt'"):
        check(*site_of(tmp_path, first_lines=options, source_options=source))
    with pytest.raises(
        ConfigError,
        match=r"upload needs the secret 's3_access_key' for the store s3://plant: add under",
    ):
        check(*site_of(tmp_path, SITE.replace("file:///srv/parquet", "s3://plant")))
    with pytest.raises(ConfigError, match=r"writes Parquet tables and there is no `store`: add store"):
        check(*site_of(tmp_path, SITE.replace('store = "file:///srv/parquet"', "")))


def test_settings_say_what_the_container_sees(tmp_path: Path) -> None:
    services = wanted(tmp_path, SITE + "[services.process.options]\nstate_bytes_max = '1000'")
    process, upload = services["process"].settings, services["upload"].settings
    assert (process.pipeline, process.data_dir) == ("/opt/sitestream/pipeline/tiny.py", "/data")
    assert (process.options, upload.options) == ({"state_bytes_max": "1000"}, {})
    assert (process.store, upload.store) == ("", "file:///srv/parquet")  # who does not need it is not told


def test_a_store_in_a_folder_is_mounted_into_upload_alone(tmp_path: Path) -> None:
    mounted = {s: {m.source for m in d.mounts} for s, d in wanted(tmp_path).items()}
    assert mounted == {
        "upload": {"sitestream-hall1-upload-data", "/srv/parquet"},
        "control": {"sitestream-hall1-control-data"},
        "process": set(),
        "collect": set(),
    }


def test_a_folder_that_is_watched_is_mounted_into_collect_alone(tmp_path: Path) -> None:
    more = "\nfrom connectors import replay\ntiny.read(replay.folder(Reading, '/plant/in', stream='files'))"
    mounted = {s: {m.source: m.read_only for m in d.mounts} for s, d in wanted(tmp_path, more=more).items()}
    assert mounted["collect"] == {"/plant/in": False}
    assert [s for s, mounts in mounted.items() if "/plant/in" in mounts] == ["collect"]


def test_only_services_with_work_run(tmp_path: Path) -> None:
    path = tmp_path / "tiny.py"
    site, _ = site_of(tmp_path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "control.command" not in line))
    from containers.desired import work_for
    from pipelines.load import load

    assert [p.service for p in work_for(load(site.pipeline).plan())] == ["upload", "process", "collect"]


def test_identity_tells_apart_what_a_description_tells_apart() -> None:
    assert identity({"b": 1, "a": {3, 2}}) == identity({"a": {2, 3}, "b": 1})
    assert identity(1) != identity("1")
    assert identity(None) != identity("None")


def test_process_alone_reads_a_topic_of_others_and_is_replaced_when_that_is_read_otherwise(tmp_path: Path) -> None:
    site = load_site(write_site(tmp_path))
    found = []
    for unit in ("ms", "s"):
        source = f'kafka.source(Reading, topic="others", time_unit="{unit}")'
        (tmp_path / "tiny.py").write_text(process_text(source))
        plan = load(site.pipeline).plan()
        assert [p.service for p in work_for(plan)] == ["process"]
        (process,) = desired(site, plan, BASE)
        shipped = {f.path.partition("/connectors/")[2] for f in _contents(tmp_path, "process").files}
        assert {"kafka/codec.py", "payloads.py"} <= shipped
        found.append(process)
    assert found[0].fingerprint != found[1].fingerprint
    assert found[0].parts["pipeline"] != found[1].parts["pipeline"]
