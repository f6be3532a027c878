"""`pipeline render kubernetes`: what it says, where, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from containers.cli import main
from containers.kubernetes.text import dump
from pipelines.errors import ConfigError
from tests.containers.kit import process_text, write_site
from tests.kubernetes.kit import IMAGES, SITE, rendered, with_text

RENDER = ("render", "kubernetes", "--images", IMAGES)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pipeline(*words: str) -> Result:
    """Run the command as a user does."""
    return CliRunner().invoke(main, list(words))


def test_manifests_go_to_stdout_and_the_command_for_secrets_to_stderr(tmp_path: Path) -> None:
    write_site(tmp_path, with_text("store =", "engine = 'unix:///nowhere.sock'\nstore ="))
    said = pipeline("--site", "site.toml", *RENDER)
    assert said.exit_code == 0
    assert [o["kind"] for o in yaml.safe_load_all(said.stdout)][:2] == ["Namespace", "ServiceAccount"]
    assert said.stderr.startswith("secrets, once: kubectl create secret generic upload-secrets ")
    assert pipeline("--site", "site.toml", *RENDER).stdout == said.stdout


def test_a_file_for_each_service_and_the_namespace_first(tmp_path: Path) -> None:
    write_site(tmp_path, SITE)
    said = pipeline(*RENDER, "--out", "k8s/hall1", "--namespace", "plant-7")
    assert said.exit_code == 0
    names = sorted(p.name for p in Path("k8s/hall1").iterdir())
    assert names == ["00-namespace.yaml", "collect.yaml", "control.yaml", "process.yaml", "upload.yaml"]
    assert said.stdout.splitlines()[0] == "k8s/hall1/00-namespace.yaml"
    assert "kubectl create secret generic upload-secrets --namespace plant-7" in said.stdout
    found = [o for name in names for o in yaml.safe_load_all(Path("k8s/hall1", name).read_text())]
    made = rendered(tmp_path, namespace="plant-7").objects
    assert sorted(map(repr, found)) == sorted(map(repr, made))


def test_json_for_programs(tmp_path: Path) -> None:
    write_site(tmp_path, SITE)
    said = json.loads(pipeline(*RENDER, "-o", "json").stdout)
    made = rendered(tmp_path)
    assert (said["version"], said["site"], said["namespace"]) == (1, "hall1", "sitestream-hall1")
    assert (said["images"], said["objects"]) == (dict(made.images), made.objects)
    assert list(yaml.safe_load_all(dump(said["objects"]))) == made.objects
    written = json.loads(pipeline(*RENDER, "-o", "json", "--out", "k8s").stdout)
    assert written["files"][0] == "k8s/00-namespace.yaml"
    assert "objects" not in written


def test_help_teaches_with_an_example() -> None:
    said = pipeline("render", "kubernetes", "--help").stdout
    assert "Examples:" in said
    assert "pipeline render kubernetes --site hall1.toml --images registry.example/plant" in said
    assert "  render " in pipeline("--help").stdout


def test_the_place_of_the_images_must_be_given() -> None:
    said = pipeline("render", "kubernetes")
    assert said.exit_code == 64
    assert "Missing option '--images'" in said.stderr


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    write_site(tmp_path, SITE)
    said = pipeline(*RENDER, "--out", "site.toml")
    assert said.exit_code == 1
    assert said.stderr == "error: --out site.toml: cannot be written (File exists): name another folder\n"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "s3://plant/press",
            "file:///srv/parquet",
            r"site.toml: store = 'file:///srv/parquet' is a folder of one machine, .* write a store .* 's3://bucket/folder'",
        ),
        (
            '"10.0.0.9"',
            '"gateway"',
            r"site.toml: hosts.edge = 'gateway': a pod has no machine of its site's own: write an IP address, or leave",
        ),
        (
            "[hosts]",
            "[networks]\not = 'plant'\n[hosts]",
            r"site.toml: networks.ot = 'plant' is a network of Docker: leave it",
        ),
        (
            "[hosts]",
            "[services.collect]\ndevices = ['/dev/ttyS0']\n[hosts]",
            r"site.toml: services.collect.devices: a pod gets no serial port without being privileged: read it through a gateway",
        ),
        (
            "[hosts]",
            "[services.control.options]\noff_switch = '/srv/switch'\n[hosts]",
            r"site.toml: services.control.options.off_switch = '/srv/switch' is a folder of one machine, .*: leave it out;",
        ),
        (
            "[hosts]",
            "[services.control]\nlisten = '127.0.0.1:9471'\nsecrets.api_tokens = 'env:PATH'\n[hosts]",
            r"site.toml: services.control.listen = '127.0.0.1:9471': a pod has no address of a machine: write '0.0.0.0:9471'",
        ),
        (
            "[hosts]",
            "[services.control]\noptions.listen = '0.0.0.0:9471'\nsecrets.api_tokens = 'env:PATH'\n[hosts]",
            r"services.control.options.listen = '0.0.0.0:9471': nobody would find the pod: write it as services.control.listen",
        ),
        ("hall1", "hall_1", r"'sitestream-hall_1' cannot be the name of a namespace: give another with --namespace"),
    ],
)
def test_what_kubernetes_cannot_give_is_named_with_its_cure(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rendered(tmp_path, with_text(before, after))


def test_a_site_whose_name_is_no_namespace_can_have_another(tmp_path: Path) -> None:
    assert rendered(tmp_path, with_text("hall1", "hall_1"), namespace="hall-1").namespace == "hall-1"
    with pytest.raises(ConfigError, match=r"'Hall 1' cannot be the name of a namespace"):
        rendered(tmp_path, namespace="Hall 1")


@pytest.mark.parametrize(
    ("source", "files"), [('source(Reading, "old/*.csv")', "old/*.csv"), ('folder(Reading, "/in")', "/in")]
)
def test_files_that_no_pod_has_are_named_with_the_cure(tmp_path: Path, source: str, files: str) -> None:
    write_site(tmp_path, SITE)
    Path("tiny.py").write_text(process_text(f"replay.{source}", first_lines="from connectors import replay"))
    said = pipeline(*RENDER)
    assert said.exit_code == 1
    assert f"error: stream reading: reads the files {files!r}, and no pod has them: read from a broker" in said.stderr


@pytest.mark.parametrize("images", ["registry.example/", "Registry", "registry.example/plant:1", "a b", "https://r"])
def test_a_wrong_place_of_images(tmp_path: Path, images: str) -> None:
    write_site(tmp_path, SITE)
    said = pipeline("render", "kubernetes", "--images", images)
    assert said.exit_code == 1
    assert f"--images {images!r} is not the place of images: write REGISTRY/PREFIX, such as" in said.stderr
