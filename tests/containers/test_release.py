"""Releases on a real engine and a real registry: made twice, pushed, saved, signed, carried to where no network leads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from containers import packages, profiles
from containers.cli import main
from containers.cli_release import one_of_each
from containers.fetch import cache_dir
from containers.release import Release
from containers.repository import artifact
from containers.repository.layout import Tar
from containers.repository.registry import Registry
from containers.site import load_site
from tests.bed.engine import Engine
from tests.bed.registry import ImageRegistry
from tests.containers.kit import SITE, write_site

CODE_BYTES_MAX = 5_000_000


@pytest.fixture(scope="module")
def site(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    return write_site(folder, f'{SITE}engine = "{engine.url}"\nbase_image = "{engine.base_image}"\n')


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    assert run("keys", "init", "--keys", str(folder)).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def saved(site: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "release.tar"
    said = run("build", "--site", str(site), "--save", str(file), "--keys", str(keys))
    assert said.exit_code == 0, said.output
    return file


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Another machine: an empty cache, and no package index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "_pip", lambda *_: pytest.fail("the package index was asked"))
    return cache_dir()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def released(repo: Any) -> Release:
    (name,) = repo.tags(artifact.RELEASE)
    found = artifact.get_document(repo, artifact.RELEASE, name)
    assert found
    assert found.statement
    return msgspec.json.decode(found.content, type=Release)


def test_a_release_says_what_it_is_made_of(saved: Path) -> None:
    with Tar(saved) as repo:
        made = released(repo)
        assert set(made.services) == set(profiles.PROFILES)
        for service, image in made.services.items():
            manifest = json.loads(repo.manifest("images", image.manifest).content)
            assert sum(layer["size"] for layer in manifest["layers"]) == image.bytes
            assert image.code_bytes < CODE_BYTES_MAX
            tag = image.tag.rpartition("/")[2].replace(":", "-")
            bill = artifact.get_document(repo, "documents", f"{tag}-sbom")
            papers = artifact.get_document(repo, "documents", f"{tag}-licences")
            assert bill
            assert papers
            names = {c["name"] for c in json.loads(bill.content)["components"]}
            assert {"sitestream", "numpy", "python"} <= names
            assert ("obstore" in names) is (service == "upload")  # only where a service needs it
            assert b"numpy" in papers.content
        assert made.metrics["sitestream_consumer_lag_records"]
        assert "store" in json.dumps(made.site_schema)
        layers = [json.loads(repo.manifest("images", i.manifest).content)["layers"] for i in made.services.values()]
        shared = [{below[n]["digest"] for below in layers} for n in (0, 1)]
        assert [len(s) for s in shared] == [1, 1]  # the base, and what all need


def test_the_same_inputs_make_the_same_release_wherever_it_goes(
    saved: Path, site: Path, keys: Path, registry: ImageRegistry, engine: Engine, unique: str
) -> None:
    address = f"{registry.address}/{unique}"
    said = run("build", "--site", str(site), "--push", address, "--keys", str(keys), "-o", "json")
    assert said.exit_code == 0, said.output
    with Tar(saved) as file, Registry(address) as pushed:
        one, other = released(file), released(pushed)
        assert one == other
        image = one.services["process"]
        pulled = engine.client.images.pull(pushed.image("images", image.manifest))
    assert pulled.id == image.id


def test_where_no_network_leads_a_release_is_loaded_and_the_base_image_comes_with_it(
    saved: Path, site: Path, keys: Path, engine: Engine, elsewhere: Path
) -> None:
    said = run("load", str(saved), "--root", str(keys / "1.root.json"))
    assert said.exit_code == 0, said.output
    assert re.search(r"release \w{12} of tiny \w+ is in the cache", said.stdout)
    there = site.with_name("far.toml")
    there.write_text(site.read_text().replace('"hall1"', '"far"'))
    said = run("build", "--site", str(there))
    assert said.exit_code == 0, said.output
    assert elsewhere.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "whom to believe? give the fleet's root with --root keys/1.root.json, or say --unsigned"),
        (["--root", "OTHER"], "root 1 does not know that key for this"),
    ],
)
def test_a_release_of_somebody_else_is_not_believed(
    saved: Path, words: list[str], message: str, elsewhere: Path, tmp_path: Path
) -> None:
    assert run("keys", "init", "--keys", str(tmp_path / "keys")).exit_code == 0
    given = [str(tmp_path / "keys" / "1.root.json") if word == "OTHER" else word for word in words]
    said = run("load", str(saved), *given)
    assert said.exit_code == 1
    assert message in said.stderr
    assert not (elsewhere / "layers").exists()


def test_sites_with_the_same_pipeline_and_base_image_share_a_release(tmp_path: Path) -> None:
    bases = ("base:1", "base:1", "base:1-arm64")
    first, second, arm = (load_site(write_site(tmp_path, f'{SITE}base_image = "{base}"\n')) for base in bases)
    assert one_of_each([first, second, arm]) == [first, arm]


def test_without_keys_a_release_says_so(site: Path, tmp_path: Path) -> None:
    said = run("build", "--site", str(site), "--save", str(tmp_path / "a.tar"), "--keys", str(tmp_path / "none"))
    assert said.exit_code == 1
    assert "pipeline keys init" in said.stderr
    assert not (tmp_path / "a.tar").exists()
