"""The manifests against the published schemas of Kubernetes, unknown fields refused; and the text they become."""

from __future__ import annotations

import copy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from containers.kubernetes.text import dump
from tests.kubernetes.kit import SITE, of_kind, rendered

OLDEST = "1.29"  # the fields that are used exist since then
VERSIONS = [OLDEST, kubernetes_validate.latest_version()]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(tmp_path: Path, version: str) -> None:
    for found in rendered(tmp_path).objects:
        assert version.startswith(kubernetes_validate.validate(found, version, strict=True))


def test_the_schemas_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    wrong = copy.deepcopy(of_kind(rendered(tmp_path), "Deployment")["process"])
    wrong["spec"]["template"]["spec"]["securityContext"]["runAsRooot"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="runAsRooot"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_each_kind_is_there_for_whom_it_is_meant(tmp_path: Path) -> None:
    made = rendered(tmp_path)
    services = ["upload", "control", "process", "collect"]
    assert list(of_kind(made, "Deployment")) == services
    assert list(of_kind(made, "NetworkPolicy")) == ["default-deny", *services]
    assert [name.rpartition("-")[0] for name in of_kind(made, "ConfigMap")] == services
    assert list(of_kind(made, "PersistentVolumeClaim")) == ["upload-data", "control-data"]
    assert list(of_kind(made, "HorizontalPodAutoscaler")) == list(of_kind(made, "PodDisruptionBudget")) == ["process"]
    assert list(of_kind(made, "Namespace")) == ["sitestream-hall1"]
    assert list(of_kind(made, "ServiceAccount")) == ["sitestream"]
    assert of_kind(made, "Secret") == {}


def test_all_belongs_to_the_namespace(tmp_path: Path) -> None:
    namespace, *others = rendered(tmp_path, namespace="plant-7").objects
    assert (namespace["kind"], namespace["metadata"]["name"]) == ("Namespace", "plant-7")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {o["metadata"]["namespace"] for o in others} == {"plant-7"}


def test_the_text_is_the_same_each_time_and_reads_back_as_the_same_objects(tmp_path: Path) -> None:
    made = rendered(tmp_path)
    assert dump(made.objects) == dump(rendered(tmp_path).objects)
    assert list(yaml.safe_load_all(dump(made.objects))) == made.objects
    assert "&" not in dump(made.objects)  # no anchors: the same labels stand where they belong


@pytest.mark.parametrize(
    "value", ["1234567890e1", "123456789012", "1e3", ".5", "1.", "true", "null", "2026-01-01", "a\nb\n", " \n"]
)
def test_texts_that_look_like_something_else_stay_texts(value: str) -> None:
    """By YAML 1.2, too, as kubectl reads it: a fingerprint of digits and an 'e' is a number there unless it has quotes."""
    text = dump([{"v": value}])
    assert list(yaml.safe_load_all(text)) == [{"v": value}]
    assert text.partition("v: ")[2][0] in "'\"|"


def test_settings_are_readable_and_those_that_docker_would_give(tmp_path: Path) -> None:
    made = rendered(tmp_path, SITE + "[services.process.options]\nstate_bytes_max = '1000'")
    assert '  settings.json: |-\n    {\n      "site": "hall1",\n' in dump(made.objects)
    (name,) = (n for n in of_kind(made, "ConfigMap") if n.startswith("process-"))
    process = of_kind(made, "ConfigMap")[name]
    assert process["immutable"] is True
    assert '"state_bytes_max": "1000"' in process["data"]["settings.json"]
