"""What a pod may do is what the container may do that Docker is given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from containers.desired import desired
from containers.images import unseen
from containers.profiles import DATA_DIR, HEALTH_PATH, METRICS_PORT, PROBE, PROFILES
from tests.containers.kit import site_of
from tests.kubernetes.kit import IMAGES, SITE, of_kind, rendered, templates, with_text

MIB = {"Mi": 1, "Gi": 1024}


def _docker(folder: Path, service: str, text: str = SITE) -> dict[str, Any]:
    """The body of the engine's call for the same site."""
    site, plan = site_of(folder, text)
    found = {d.service: d for d in desired(site, plan, unseen("python:3.11-slim"), secrets=False)}
    return dict(found[service].container(1, "").config)


def _mib(text: str) -> int:
    return int(text[:-2]) * MIB[text[-2:]]


@pytest.mark.parametrize("service", PROFILES)
def test_rights_and_limits_are_those_of_docker_field_by_field(tmp_path: Path, service: str) -> None:
    text = SITE + f"[services.{service}]\nmemory = '300MiB'\ncpus = 0.5\n"
    docker, pod = _docker(tmp_path, service, text), templates(rendered(tmp_path, text))[service]["spec"]
    host, (container,) = docker["HostConfig"], pod["containers"]
    user = pod["securityContext"]
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == docker["User"]
    assert user["fsGroup"] == user["runAsGroup"]
    assert user["runAsNonRoot"] is (user["runAsUser"] != 0) is True
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    confined = container["securityContext"]
    assert confined["readOnlyRootFilesystem"] is host["ReadonlyRootfs"] is True
    assert confined["capabilities"] == {"drop": host["CapDrop"]} == {"drop": ["ALL"]}
    assert ["no-new-privileges"] * (not confined["allowPrivilegeEscalation"]) == host["SecurityOpt"]
    assert set(confined) == {"readOnlyRootFilesystem", "capabilities", "allowPrivilegeEscalation"}
    limits = container["resources"]["limits"]
    assert _mib(limits["memory"]) * 2**20 == host["Memory"] == 300 * 2**20
    assert int(limits["cpu"].removesuffix("m")) * 10**6 == host["NanoCpus"] == 5 * 10**8
    assert pod["terminationGracePeriodSeconds"] == docker["StopTimeout"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "nodeName"} & set(pod)
    assert not {"command", "args", "env", "envFrom", "lifecycle"} & set(container)


@pytest.mark.parametrize("service", PROFILES)
def test_a_pod_sees_the_same_folders_with_the_same_rights(tmp_path: Path, service: str) -> None:
    host = _docker(tmp_path, service)["HostConfig"]
    pod = templates(rendered(tmp_path))[service]["spec"]
    mounted = {m["mountPath"]: m["readOnly"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounted == {m["Target"]: m["ReadOnly"] for m in host["Mounts"]} | dict.fromkeys(host["Tmpfs"], False)
    volumes = {v["name"]: v for v in pod["volumes"]}
    assert {m["name"] for m in pod["containers"][0]["volumeMounts"]} == set(volumes)
    (tmp,) = host["Tmpfs"].values()
    size = re.search(r"size=(\d+)m", tmp)
    assert size is not None
    assert volumes["tmp"]["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{size[1]}Mi"}
    assert ("data" in volumes) is PROFILES[service].keeps is (DATA_DIR in mounted)
    assert "hostPath" not in repr(pod)


@pytest.mark.parametrize("service", PROFILES)
def test_probes_ask_what_docker_asks_as_often(tmp_path: Path, service: str) -> None:
    check = _docker(tmp_path, service)["Healthcheck"]
    (container,) = templates(rendered(tmp_path))[service]["spec"]["containers"]
    ready = container["readinessProbe"]
    assert ready["periodSeconds"] * 10**9 == check["Interval"]
    assert ready["timeoutSeconds"] * 10**9 == check["Timeout"]
    assert ready["failureThreshold"] == check["Retries"]
    assert ready["httpGet"] == {"path": HEALTH_PATH, "port": "metrics"}
    assert f"GET {HEALTH_PATH} " in PROBE[-1]
    assert container["ports"] == [{"name": "metrics", "containerPort": METRICS_PORT}]
    assert f"{METRICS_PORT})" in PROBE[-1]
    for probe in ("livenessProbe", "startupProbe"):  # a broker that is away makes a pod unready, and does not end it
        assert container[probe]["httpGet"]["path"] == "/metrics"
    assert container["startupProbe"]["failureThreshold"] * 10 >= 30


def test_no_pod_has_a_token(tmp_path: Path) -> None:
    made = rendered(tmp_path)
    (account,) = of_kind(made, "ServiceAccount").values()
    assert account["automountServiceAccountToken"] is False
    for template in templates(made).values():
        assert template["spec"]["automountServiceAccountToken"] is False
        assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_selectors_find_their_own_pods_only(tmp_path: Path) -> None:
    made = rendered(tmp_path)
    pods = {s: t["metadata"]["labels"] for s, t in templates(made).items()}
    selectors = {n: o["spec"]["selector"]["matchLabels"] for n, o in of_kind(made, "Deployment").items()}
    selectors |= {n: o["spec"]["selector"]["matchLabels"] for n, o in of_kind(made, "PodDisruptionBudget").items()}
    for service, wanted in selectors.items():
        assert [s for s, labels in pods.items() if wanted.items() <= labels.items()] == [service]


def test_old_pods_end_before_new_ones_start_and_only_process_may_have_several(tmp_path: Path) -> None:
    specs = {n: o["spec"] for n, o in of_kind(rendered(tmp_path), "Deployment").items()}
    assert {s["strategy"]["type"] for s in specs.values()} == {"Recreate"}
    assert {n: s.get("replicas") for n, s in specs.items()} == {
        "upload": 1,
        "control": 1,
        "collect": 1,
        "process": None,
    }


def test_process_scales_by_its_own_lag_up_to_the_partitions(tmp_path: Path) -> None:
    made = rendered(tmp_path, with_text("[hosts]", "partitions = 12\n[hosts]"))
    spec = of_kind(made, "HorizontalPodAutoscaler")["process"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 12)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "process"}
    (metric,) = spec["metrics"]
    assert metric["pods"]["metric"]["name"] == "sitestream_consumer_lag_records"


def test_the_claim_of_upload_holds_its_spool(tmp_path: Path) -> None:
    def size(text: str) -> int:
        claims = of_kind(rendered(tmp_path, text), "PersistentVolumeClaim")
        return _mib(claims["upload-data"]["spec"]["resources"]["requests"]["storage"])

    assert size(SITE) == 5 * 1024  # 4 GiB are a spool's default
    assert size(SITE + "[services.upload.options]\nspool_bytes_max = '40GiB'") == 50 * 1024


def test_hosts_of_the_site_file_are_known_to_pods(tmp_path: Path) -> None:
    text = with_text('edge = "10.0.0.9"', 'edge = "10.0.0.9"\nbroker2 = "10.0.0.9"\nsix = "fd00::1"')
    for template in templates(rendered(tmp_path, text)).values():
        assert template["spec"]["hostAliases"] == [
            {"ip": "10.0.0.9", "hostnames": ["broker2", "edge"]},
            {"ip": "fd00::1", "hostnames": ["six"]},
        ]
    assert "hostAliases" not in templates(rendered(tmp_path, with_text('edge = "10.0.0.9"', "")))["process"]["spec"]


def _changed(folder: Path, text: str = SITE, **changes: str) -> set[str]:
    """Services whose pods would be replaced, compared with the plain site."""
    before, after = templates(rendered(folder)), templates(rendered(folder, text, **changes))
    return {s for s in before if before[s] != after[s]}


@pytest.mark.parametrize(
    ("changes", "services"),
    [
        ({}, set()),
        ({"first_lines": "# a comment"}, set()),
        ({"window": "2s"}, {"process"}),
        ({"every": "1m"}, {"upload"}),
        ({"expires": "1m"}, {"control"}),
    ],
)
def test_a_change_of_the_pipeline_replaces_only_the_pods_that_use_that_part(
    tmp_path: Path, changes: dict[str, str], services: set[str]
) -> None:
    assert _changed(tmp_path, **changes) == services


def test_another_setting_makes_another_map_and_needs_no_other_image(tmp_path: Path) -> None:
    text = SITE + "[services.collect]\nlog_level = 'DEBUG'"
    assert _changed(tmp_path, text) == {"collect"}
    before, after = rendered(tmp_path), rendered(tmp_path, text)
    assert before.images == after.images
    assert len(set(of_kind(before, "ConfigMap")) ^ set(of_kind(after, "ConfigMap"))) == 2


def test_images_stand_under_the_prefix_and_are_called_after_their_edition(tmp_path: Path) -> None:
    made = rendered(tmp_path)
    for service, template in templates(made).items():
        (container,) = template["spec"]["containers"]
        assert container["image"] == made.images[service]
        assert re.fullmatch(rf"{IMAGES}/{service}:[0-9a-f]{{12}}", container["image"])


def test_only_those_images_are_new_whose_service_finds_something_else_in_them(tmp_path: Path) -> None:
    """The pipeline file is in all of them: by their content, all would be new."""
    before, after = rendered(tmp_path).images, rendered(tmp_path, window="2s").images
    assert {s for s in before if before[s] != after[s]} == {"process"}
    after = rendered(tmp_path, with_text("store =", "base_image = 'python@sha256:0123'\nstore =")).images
    assert all(before[s] != after[s] for s in before)


def test_secrets_are_named_and_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = rendered(tmp_path)  # neither the file nor the variable is there
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/access key").write_text("hunter2")
    monkeypatch.setenv("PLANT_S3_SECRET_KEY", "hunter3")
    made = rendered(tmp_path)
    assert made == without
    assert not re.search("hunter", msgspec.json.encode([made.objects, made.secrets]).decode())
    (projected,) = (v["projected"] for v in templates(made)["upload"]["spec"]["volumes"] if "projected" in v)
    (secret,) = (s["secret"] for s in projected["sources"] if "secret" in s)
    assert secret["name"] == "upload-secrets"
    assert {(i["path"], i["mode"]) for i in secret["items"]} == {
        ("secrets/s3_access_key", 0o400),
        ("secrets/s3_secret_key", 0o400),
    }
    assert "secret" not in repr([v for v in templates(made)["process"]["spec"]["volumes"] if "projected" in v])


def test_the_command_for_secrets_has_references_and_no_values(tmp_path: Path) -> None:
    made = rendered(tmp_path)
    assert made.secrets == {
        "upload": "kubectl create secret generic upload-secrets --namespace sitestream-hall1 "
        f"--from-file=s3_access_key='{tmp_path}/secrets/access key' "
        '--from-file=s3_secret_key=<(printf %s "${PLANT_S3_SECRET_KEY}") --dry-run=client -o yaml | kubectl apply -f -'
    }
