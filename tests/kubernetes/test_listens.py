"""What is spoken to over HTTP: the port of the pod, the Service before it, the way in, and the secrets that it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from containers.kubernetes.render import Rendering
from containers.profiles import METRICS_PORT
from tests.kubernetes.kit import SITE, of_kind, rendered, templates
from tests.kubernetes.test_schemas import VERSIONS

PUSH = """
from connectors import http
from connectors.secrets import secret


class Meter(Schema):
    meter = Key[str]()
    kw = Col[float]()


tiny.read(http.push(Meter, path='/meters', tokens=secret('t')))
"""
COLLECT = "[services.collect]\nsecrets = {t = 'env:PATH'}\n"
CONTROL = """\
[services.control]
listen = "0.0.0.0:8443"
secrets = {api_tokens = "file:t", api_certificate = "file:c", api_private_key = "file:k"}
"""


def reached(made: Rendering, service: str) -> dict[int, int]:
    """The ports of a Service, which lead to its pods' own, and the ways in that these have: each must be there, and no other."""
    spec, template = of_kind(made, "Service")[service]["spec"], templates(made)[service]
    (container,) = template["spec"]["containers"]
    assert set(spec) == {"selector", "ports"}  # no type: ClusterIP
    assert spec["selector"].items() <= template["metadata"]["labels"].items()
    inside = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert inside.pop("metrics") == METRICS_PORT
    assert {p["name"]: p["targetPort"] for p in spec["ports"]} == inside
    assert all(len(name) <= 15 for name in inside)
    _, *ways = of_kind(made, "NetworkPolicy")[service]["spec"]["ingress"]
    assert ways == [{"ports": [{"protocol": "TCP", "port": port} for port in inside.values()]}]
    return {p["port"]: p["targetPort"] for p in spec["ports"]}


def settings(made: Rendering, service: str) -> Any:
    (found,) = (o for name, o in of_kind(made, "ConfigMap").items() if name.startswith(f"{service}-"))
    return json.loads(found["data"]["settings.json"])


def test_control_takes_commands_over_http_with_tokens_and_tls(tmp_path: Path) -> None:
    made = rendered(tmp_path, SITE + CONTROL)
    assert list(of_kind(made, "Service")) == ["control"]
    assert reached(made, "control") == {8443: 9471}
    assert settings(made, "control")["options"]["listen"] == "0.0.0.0:9471"
    sources = templates(made)["control"]["spec"]["volumes"][0]["projected"]["sources"]
    (items,) = (s["secret"]["items"] for s in sources if "secret" in s)
    assert {i["path"].rpartition("/")[2] for i in items} == {"api_tokens", "api_certificate", "api_private_key"}
    assert "--from-file=api_certificate=" in made.secrets["control"]


def test_collect_is_posted_to_and_listen_gives_its_service_another_port(tmp_path: Path) -> None:
    assert reached(rendered(tmp_path, SITE + COLLECT, more=PUSH), "collect") == {9470: 9470}
    other = rendered(tmp_path, SITE + COLLECT + "listen = '0.0.0.0:443'\n", more=PUSH)
    assert reached(other, "collect") == {443: 9470}


def test_who_is_not_spoken_to_has_no_port(tmp_path: Path) -> None:
    made = rendered(tmp_path, SITE + CONTROL + COLLECT, more=PUSH)
    assert list(of_kind(made, "Service")) == ["control", "collect"]
    for service in ("process", "upload"):
        (container,) = templates(made)[service]["spec"]["containers"]
        assert [p["name"] for p in container["ports"]] == ["metrics"]
        assert len(of_kind(made, "NetworkPolicy")[service]["spec"]["ingress"]) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_all_of_it_is_valid(tmp_path: Path, version: str) -> None:
    for found in rendered(tmp_path, SITE + CONTROL + COLLECT + "listen = '[::]:443'\n", more=PUSH).objects:
        assert version.startswith(kubernetes_validate.validate(found, version, strict=True))
