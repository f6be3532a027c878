"""What a site needs for the schemas of foreign topics: extras, files, secrets, and a network that leads to the registry."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from containers import show_plan
from containers.deployer import Deployment
from containers.desired import check, check_given, check_reached, contents_of, desired, work_for
from containers.kubernetes.network import Endpoint, endpoints
from containers.rollout import Actual
from containers.schemas import check_files
from containers.site import SiteFile, load_site
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.plan import Plan
from pipelines.runtime.worker import job_of
from pipelines.settings import Settings
from tests.containers.kit import BASE, SITE, process_text

OF_REGISTRY = 'kafka.Avro(registry=kafka.Registry(url="https://schemas:8081", token=secret("schemas")))'
OF_FILE = 'kafka.Avro(file="reading.avsc")'
SCHEMA = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "device", "type": "string"}, {"name": "value", "type": "double"}],
}
SECRET = '[services.process.secrets]\nschemas = "file:token"\n'
GATEWAY = '[hosts]\nschemas = "gateway"\n'


def site_of(folder: Path, payload: str, text: str = SITE) -> tuple[SiteFile, Plan]:
    source = f'kafka.source(Reading, topic="others", time=None, payload={payload})'
    (folder / "tiny.py").write_text(process_text(source, first_lines="from connectors.secrets import secret"))
    (folder / "reading.avsc").write_text(json.dumps(SCHEMA))
    (folder / "token").write_text("t")
    (folder / "site.toml").write_text(text)
    site = load_site(folder / "site.toml")
    return site, load(site.pipeline).plan()


@pytest.mark.parametrize(
    ("payload", "extras"),
    [
        ('"json"', ()),
        (OF_FILE, ("avro",)),
        ('kafka.Protobuf(registry=kafka.Registry(url="https://schemas:8081"))', ("protobuf",)),
    ],
)
def test_an_image_has_the_packages_of_its_payloads_alone(tmp_path: Path, payload: str, extras: tuple[str, ...]) -> None:
    site, plan = site_of(tmp_path, payload)
    (process,) = work_for(plan)
    what = contents_of(site, plan, BASE, process)
    assert what.extras == extras
    packages = {p.partition("==")[0] for p in what.extra}
    assert packages == {"avro": {"fastavro", "urllib3"}, "protobuf": {"protobuf", "urllib3"}}.get(
        "".join(extras), set()
    )
    shipped = {f.path.partition("/pipeline/")[2] for f in what.files} - {""}
    assert shipped == ({"tiny.py", "reading.avsc"} if payload == OF_FILE else {"tiny.py"})


def test_another_schema_in_the_file_replaces_process(tmp_path: Path) -> None:
    before, plan = site_of(tmp_path, OF_FILE)
    one = desired(before, plan, BASE)
    (tmp_path / "reading.avsc").write_text(json.dumps(SCHEMA | {"doc": "another"}))
    two = desired(before, plan, BASE)
    assert {n for n, of in one[0].parts.items() if two[0].parts[n] != of} == {"schemas"}


def test_a_file_that_is_no_schema_is_found_before_anything_is_built(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, OF_FILE)
    (tmp_path / "reading.avsc").write_text(json.dumps(SCHEMA).replace('"value"', '"rms"'))
    with pytest.raises(
        ConfigError, match=r"stream reading: value is not there in reading\.avsc: R has device, rms: corr"
    ):
        check(site, plan)


def test_what_reads_the_schema_must_be_installed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, plan = site_of(tmp_path, OF_FILE)
    monkeypatch.setitem(sys.modules, "connectors.kafka.avro", None)
    with pytest.raises(
        ConfigError, match=r"stream reading: its decoder connectors\.kafka\.avro:decoder cannot be loaded .*install"
    ):
        check_files(plan, site.pipeline)


def test_the_service_ends_at_once_if_a_schema_is_not_well(tmp_path: Path) -> None:
    site, _ = site_of(tmp_path, OF_FILE)
    (tmp_path / "reading.avsc").write_text("{}")
    with pytest.raises(ConfigError, match=r"reading\.avsc is no schema of Avro"):
        job_of(Settings(site="hall1", brokers="b", pipeline=site.pipeline))


def test_the_secret_of_the_registry_is_asked_for(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, OF_REGISTRY)
    with pytest.raises(
        ConfigError, match=r"process needs the secret 'schemas' which the pipeline file names: add under \["
    ):
        check_given(site, plan)


@pytest.mark.parametrize("text", [SITE, SITE + '[hosts]\nschemas = "10.0.0.7"\n'])
def test_a_registry_out_of_reach_is_refused_with_both_cures(tmp_path: Path, text: str) -> None:
    site, plan = site_of(tmp_path, OF_REGISTRY, text + SECRET)
    says = (
        r"site\.toml: the stream reading needs the schema registry https://schemas:8081, and process, which is on the network "
        r"bus alone, does not reach schemas: if it runs on the site's own machine, write  schemas = 'gateway'  under \[hosts\]; "
        r"else name under \[networks\] a bus that leads to it and to the brokers"
    )
    with pytest.raises(ConfigError, match=says):
        check_reached(site, plan)


@pytest.mark.parametrize("reach", [GATEWAY, '[networks]\nbus = "plant-bus"\n'])
def test_a_registry_within_reach_is_shown_in_the_plan(tmp_path: Path, reach: str) -> None:
    site, plan = site_of(tmp_path, OF_REGISTRY, SITE + reach + SECRET)
    check_reached(site, plan)
    (process,) = desired(site, plan, BASE)
    shown = show_plan.text("hall1", Deployment((process,), Actual()))
    assert f"asks: the schema registry https://schemas:8081, on the network {process.networks[0]}" in shown
    assert endpoints("bus", process, plan) == [Endpoint("kafka", 9092), Endpoint("schemas", 8081)]
