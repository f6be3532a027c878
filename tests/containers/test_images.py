"""Images as values: what their tags depend on, and what is in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from containers import images
from containers.images import Base
from containers.packages import Python, own_version
from containers.profiles import PROFILES
from tests.containers.kit import BASE, wanted


def test_a_tag_says_what_is_inside(tmp_path: Path) -> None:
    one, same, other = wanted(tmp_path), wanted(tmp_path), wanted(tmp_path, first_lines="# a comment")
    for service in one:
        assert one[service].image.tag == same[service].image.tag
        assert one[service].image.tag != other[service].image.tag
        assert one[service].contents.parent_tag == other[service].contents.parent_tag  # packages are not built again


def test_all_services_share_the_packages_that_all_need(tmp_path: Path) -> None:
    contents = {s: d.contents for s, d in wanted(tmp_path).items()}
    assert len({c.packages_tag for c in contents.values()}) == 1
    assert contents["process"].parent_tag == contents["collect"].parent_tag == contents["process"].packages_tag
    assert contents["upload"].parent_tag.startswith("sitestream/packages-upload:")
    assert contents["control"].parent_tag.startswith("sitestream/packages-control:")


def test_packages_are_built_again_for_another_base_or_another_choice_of_packages(tmp_path: Path) -> None:
    have = wanted(tmp_path)["upload"].contents
    other_base = replace(have, base=Base("sha256:other", BASE.python))
    other_pins = replace(have, common=(*have.common, "more==1"))
    assert len({have.packages_tag, other_base.packages_tag, other_pins.packages_tag}) == 3
    assert len({have.parent_tag, other_base.parent_tag, other_pins.parent_tag}) == 3


def test_dockerfiles_fetch_nothing_and_run_as_nobody(tmp_path: Path) -> None:
    for d in wanted(tmp_path).values():
        lines = d.image.dockerfile.splitlines()
        assert {line.split()[0] for line in lines} <= {"FROM", "COPY", "WORKDIR", "USER", "ENTRYPOINT"}
        assert "USER 65532:65532" in lines
        assert json.loads(lines[-1].removeprefix("ENTRYPOINT "))[:4] == ["python3", "-P", "-m", d.profile.module]


def test_only_those_who_keep_something_have_a_place_for_it(tmp_path: Path) -> None:
    for d in wanted(tmp_path).values():
        assert ("COPY --chown=65532:65532 data /data" in d.image.dockerfile) is d.profile.keeps


def test_an_image_has_the_pipeline_and_knows_its_version(tmp_path: Path) -> None:
    files = {f.path: f.content for f in wanted(tmp_path)["process"].image.files}
    assert files["opt/sitestream/pipeline/tiny.py"] == (tmp_path / "tiny.py").read_bytes()
    about = files[f"opt/sitestream/code/sitestream-{own_version()}.dist-info/METADATA"]
    assert isinstance(about, bytes)
    assert f"Version: {own_version()}".encode() in about


def test_the_pipelines_place_keeps_its_variable() -> None:
    assert images.pipeline_in_image("plant/press.py:press", "/x") == "/x/press.py:press"
    assert images.pipeline_in_image("press.py", "/x") == "/x/press.py"


def test_a_connectors_extra_is_taken_if_it_has_one(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    python = Python((3, 11), "x86_64", "2.36")
    made = images.contents(
        PROFILES["collect"], str(tmp_path / "a.py"), ["connectors.mqtt.reader:MqttReader"], Base("b", python)
    )
    assert made.extras == ("mqtt",)
