"""Network policies: the networks of the profiles, and nothing besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from containers.profiles import METRICS_PORT, PROFILES
from pipelines.errors import ConfigError
from tests.kubernetes.kit import SITE, of_kind, rendered, templates, with_text

DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


def _policies(folder: Path, text: str = SITE, **changes: str) -> dict[str, Any]:
    return {name: o["spec"] for name, o in of_kind(rendered(folder, text, **changes), "NetworkPolicy").items()}


def _ways(spec: Any) -> set[tuple[int, str]]:
    """(port, where to) of all ways out but DNS; 'any' if only the port counts."""
    rules = [r for r in spec["egress"] if r.get("to") != [DNS]]
    assert len(rules) == len(spec["egress"]) - 1
    return {(p["port"], _place(rule)) for rule in rules for p in rule["ports"] if p["protocol"] == "TCP"}


def _place(rule: Any) -> str:
    if "to" not in rule:
        return "any"
    (to,) = rule["to"]
    return str(to["ipBlock"]["cidr"] if "ipBlock" in to else to["namespaceSelector"]["matchLabels"].popitem()[1])


def test_nothing_goes_in_or_out_by_default(tmp_path: Path) -> None:
    assert _policies(tmp_path)["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("service", PROFILES)
def test_only_metrics_can_be_reached_and_only_from_within_the_cluster(tmp_path: Path, service: str) -> None:
    spec = _policies(tmp_path)[service]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [
        {"ports": [{"protocol": "TCP", "port": METRICS_PORT}], "from": [{"namespaceSelector": {}}]}
    ]
    assert spec["egress"][0] == {
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
        "to": [DNS],
    }
    labels = templates(rendered(tmp_path))[service]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()


def test_each_service_goes_where_its_networks_lead(tmp_path: Path) -> None:
    found = {s: _ways(spec) for s, spec in _policies(tmp_path).items() if s in PROFILES}
    bus, devices = (9092, "any"), (1883, "10.0.0.9/32")
    assert found == {
        "collect": {bus, devices},
        "control": {bus, devices},
        "upload": {bus, (443, "any")},
        "process": {bus},  # neither devices nor the world
    }


def test_process_reaches_no_device_whatever_its_port(tmp_path: Path) -> None:
    found = _policies(tmp_path, mqtt="mqtt://edge:18830")
    assert {s: 18830 in {port for port, _ in _ways(found[s])} for s in PROFILES} == {
        "collect": True,
        "control": True,
        "upload": False,
        "process": False,
    }


@pytest.mark.parametrize(
    ("brokers", "ways"),
    [
        ("10.1.2.3:9092", {(9092, "10.1.2.3/32")}),
        ("[fd00::1]:9092", {(9092, "fd00::1/128")}),
        ("edge:9094", {(9094, "10.0.0.9/32")}),  # the site file's hosts know it
        ("k1.plant:9092, k2.plant:9093", {(9092, "any"), (9093, "any")}),
        ("kafka.bus.svc:9092", {(9092, "bus")}),
        ("k-0.kafka.bus.svc.cluster.local:9092,k-1.kafka.bus.svc.cluster.local:9092", {(9092, "bus")}),
    ],
)
def test_brokers_are_allowed_as_closely_as_can_be_said(
    tmp_path: Path, brokers: str, ways: set[tuple[int, str]]
) -> None:
    assert _ways(_policies(tmp_path, with_text("kafka:9092", brokers))["process"]) == ways


@pytest.mark.parametrize(
    ("endpoint", "way"),
    [
        ("https://s3.plant.example", (443, "any")),
        ("https://s3.plant.example:9000", (9000, "any")),
        ("http://10.7.7.7", (80, "10.7.7.7/32")),
        ("http://minio.storage.svc:9000", (9000, "storage")),
    ],
)
def test_the_store_is_where_its_endpoint_says(tmp_path: Path, endpoint: str, way: tuple[int, str]) -> None:
    found = _policies(tmp_path, SITE + f"[services.upload.options]\ns3_endpoint = '{endpoint}'")
    assert _ways(found["upload"]) == {(9092, "any"), way}
    assert _ways(found["process"]) == {(9092, "any")}


def test_tls_has_its_own_port_and_the_sites_option_overrides_where_commands_go(tmp_path: Path) -> None:
    text = SITE + "[services.control.options]\nmqtt = 'mqtt://10.9.9.9'"
    found = _policies(tmp_path, text, mqtt="mqtts://edge")
    assert _ways(found["collect"]) == {(9092, "any"), (8883, "10.0.0.9/32")}
    assert _ways(found["control"]) == {(9092, "any"), (1883, "10.9.9.9/32")}


def test_an_opcua_server_is_reached_by_who_collects(tmp_path: Path) -> None:
    more = """
from connectors import opcua, topic


class Tag(Schema):
    device = Key[str]()
    x = Col[float]()


for host in ("edge", "10.2.2.2:4841"):
    name = "tag" + host[:2]
    described = opcua.source(Tag, server=f"opc.tcp://{host}/plant", nodes={Tag.x: "Objects/{device}/X"}, stream=name)
    tiny.read(described).where(Tag.x > 0).to(topic.results(), name=f"{name}-rows")
"""
    found = _policies(tmp_path, more=more)
    assert _ways(found["collect"]) >= {(4840, "10.0.0.9/32"), (4841, "10.2.2.2/32")}
    assert not _ways(found["process"]) & {(4840, "10.0.0.9/32"), (4841, "10.2.2.2/32")}


def test_control_reaches_the_devices_that_it_writes_to(tmp_path: Path) -> None:
    (tmp_path / "devices.toml").write_text("""
[profiles.drive]
devices = ["d1"]
modbus = "tcp://10.3.3.3:5020"
[profiles.drive.verbs.start]
write = {to = "coil", address = 2, value = 1}
[profiles.mixer]
devices = ["m1"]
opcua = {server = "opc.tcp://10.4.4.4"}
[profiles.mixer.verbs.start]
set = {node = "Objects/Mixer/Run", type = "Boolean", value = true}
""")
    text = SITE.replace("[hosts]", 'devices = "devices.toml"\n[hosts]')
    broker = {(9092, "any"), (1883, "10.0.0.9/32")}
    found = _policies(tmp_path, text)
    assert _ways(found["control"]) == broker | {(5020, "10.3.3.3/32"), (4840, "10.4.4.4/32")}
    assert _ways(found["collect"]) == broker


def test_an_address_that_is_none_is_named_with_its_cure(tmp_path: Path) -> None:
    text = SITE + "[services.upload.options]\ns3_endpoint = 's3.plant:9000'"
    with pytest.raises(ConfigError, match=r"'s3.plant:9000' is not an address: write one such as 'https://host:9000'"):
        rendered(tmp_path, text)
