"""What is in each service's image, and what the tags of images depend on."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from containers import images, oci, packages
from containers.images import Base
from containers.oci import LayerStore
from containers.packages import own_version
from containers.profiles import PROFILES, UID
from containers.python import Python
from tests.containers.kit import BASE, contents, wanted

FOUND = replace(BASE, image=oci.Base((oci.Layer("sha256:of-the-base"),), "x86_64", {"Env": ["PATH=/bin"]}))


def test_a_tag_says_what_is_inside(tmp_path: Path) -> None:
    one, same, other = wanted(tmp_path), wanted(tmp_path), wanted(tmp_path, first_lines="# a comment")
    for service in one:
        assert one[service].tag == same[service].tag
        assert one[service].tag != other[service].tag
        assert one[service].tags[:-1] == other[service].tags[:-1]  # packages are not shipped again


def test_all_services_share_the_packages_that_all_need(tmp_path: Path) -> None:
    tags = {s: d.tags for s, d in wanted(tmp_path).items()}
    assert len({t[0] for t in tags.values()}) == 1
    layers = {s: [tag.partition(":")[0].removeprefix("sitestream/") for tag in has] for s, has in tags.items()}
    assert layers == {
        "process": ["packages", "parquet", "process"],  # a dimension may be a Parquet file
        "collect": ["packages", "packages-mqtt", "collect"],
        "upload": ["packages", "parquet", "packages-upload", "upload"],
        "control": ["packages", "packages-control", "control"],
    }
    assert tags["process"][:2] == tags["upload"][:2]


def test_packages_are_others_for_another_base_or_another_choice_of_packages(tmp_path: Path) -> None:
    have = contents(tmp_path)["upload"]
    other_base = replace(have, base=Base("sha256:other", BASE.python))
    other_pins = replace(have, common=(*have.common, "more==1"))
    assert len({have.packages_tag, other_base.packages_tag, other_pins.packages_tag}) == 3
    assert len({have.parent_tag, other_base.parent_tag, other_pins.parent_tag}) == 3


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Layers of packages that hold a single file: fetching the true ones takes its time, and has tests of its own."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "six.py").write_text("")
    monkeypatch.setattr(packages, "installed", lambda *_: folder)


def made(folder: Path, service: str, store: LayerStore) -> tuple[oci.Image, ...]:
    what = contents(folder)[service]
    return images.made(PROFILES[service], replace(what, base=FOUND), store, fetch=True)


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize("service", list(PROFILES))
def test_an_image_runs_its_service_as_nobody_and_the_same_inputs_make_the_same(tmp_path: Path, service: str) -> None:
    one, same = (made(tmp_path, service, LayerStore(tmp_path / name)) for name in ("a", "b"))
    assert one == same
    config = json.loads(one[-1].config)
    assert config["config"]["Entrypoint"][:4] == ["python3", "-P", "-m", PROFILES[service].module]
    assert config["config"]["User"] == f"{UID}:{UID}"
    assert "PATH=/bin" in config["config"]["Env"]
    assert config["architecture"] == "amd64"
    assert config["rootfs"]["diff_ids"][0] == "sha256:of-the-base"
    assert [i.diff_ids for i in one] == [one[-1].diff_ids[: 2 + n] for n in range(len(one))]


@pytest.mark.usefixtures("no_packages")
def test_a_layer_is_no_older_than_its_content_and_belongs_to_root(tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "store")
    for service, profile in PROFILES.items():
        layer = made(tmp_path, service, store)[-1].layers[-1]
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(store.path(layer).read_bytes()))) as tar:
            members = {m.name: m for m in tar}
            pipeline = tar.extractfile("opt/sitestream/pipeline/tiny.py")
            assert pipeline is not None
            assert pipeline.read() == (tmp_path / "tiny.py").read_bytes()
            about = tar.extractfile(f"opt/sitestream/code/sitestream-{own_version()}.dist-info/METADATA")
            assert about is not None
            assert f"Version: {own_version()}".encode() in about.read()
        assert {m.mtime for m in members.values()} == {0}
        assert [m.name for m in members.values() if m.uid] == (["data"] if profile.keeps else [])
        assert [m.name for m in members.values() if m.mode & 0o022] == []


def test_without_fetching_there_are_only_names(tmp_path: Path) -> None:
    assert images.made(PROFILES["process"], contents(tmp_path)["process"], LayerStore(tmp_path), fetch=True) == ()
    what = replace(contents(tmp_path)["process"], base=FOUND)
    assert images.made(PROFILES["process"], what, LayerStore(tmp_path), fetch=False) == ()


def test_the_pipelines_place_keeps_its_variable() -> None:
    assert images.pipeline_in_image("plant/press.py:press", "/x") == "/x/press.py:press"
    assert images.pipeline_in_image("press.py", "/x") == "/x/press.py"


def test_a_connectors_extra_is_taken_if_it_has_one(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    python = Python((3, 11), "x86_64", "2.36")
    what = images.contents(
        PROFILES["collect"], str(tmp_path / "a.py"), ["connectors.mqtt.reader:MqttReader"], Base("b", python)
    )
    assert what.extras == ("mqtt",)
