"""The one port that a site may publish: for collect, if devices post readings to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from containers import drift, show_plan
from containers.agent.document import Service
from containers.broker import everything
from containers.commands import CreateNetwork
from containers.deployer import Deployer, Deployment
from containers.desired import contents_of, desired
from containers.profiles import PROFILES, Port
from containers.rollout import Actual
from containers.site import load_site
from pipelines.errors import ConfigError
from tests.containers.kit import BASE, SITE, site_of, wanted
from tests.kubernetes.kit import SITE as CLUSTER
from tests.kubernetes.kit import of_kind, rendered

PUSH = """
from connectors import http
from connectors.secrets import secret
class Meter(Schema):
    device = Key[str]()
    power = Col[float]('W')
tiny.read(http.push(Meter, path='/meters', tokens=secret('t'){more}))
"""
LISTEN = "[services.collect]\nlisten = '0.0.0.0:8443'\n"
TOKENS = "[services.collect.secrets]\nt = 'env:PATH'\n"


def push(more: str = "") -> str:
    return PUSH.replace("{more}", more)


def config(folder: Path, service: str) -> dict[str, Any]:
    command = wanted(folder, SITE + LISTEN + TOKENS, more=push())[service].container(1, "")
    return dict(command.config) | {
        "networks": {*command.config["NetworkingConfig"]["EndpointsConfig"], *command.networks}
    }


def test_collect_has_the_port_that_the_site_file_names_and_nobody_else_has_one(tmp_path: Path) -> None:
    body = config(tmp_path, "collect")
    assert body["HostConfig"]["PortBindings"] == {"9470/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8443"}]}
    assert body["ExposedPorts"] == {"9470/tcp": {}}
    assert body["networks"] == {f"sitestream-hall1-{role}" for role in ("bus", "ot", "ingress")}
    assert body["HostConfig"]["Dns"] == ["127.0.0.1"]  # still nobody to be asked
    assert "Privileged" not in body["HostConfig"]
    for service in set(PROFILES) - {"collect"}:
        other = config(tmp_path, service)
        assert not {"PortBindings", "ExposedPorts"} & {*other, *other["HostConfig"]}
        assert "sitestream-hall1-ingress" not in other["networks"]


def test_another_port_replaces_collect_alone(tmp_path: Path) -> None:
    before = wanted(tmp_path, SITE + LISTEN + TOKENS, more=push())
    after = wanted(tmp_path, (SITE + LISTEN + TOKENS).replace("8443", "8444"), more=push())
    assert [s for s in before if before[s].fingerprint != after[s].fingerprint] == ["collect"]


def test_it_stands_in_the_plan_and_in_what_an_agent_is_sent(tmp_path: Path) -> None:
    (collect,) = (d for d in wanted(tmp_path, SITE + LISTEN + TOKENS, more=push()).values() if d.service == "collect")
    todo = Deployment((collect,), Actual((), (), ()))
    assert "listens: 0.0.0.0:8443 → 9470, published on the site's machine" in show_plan.text("hall1", todo)
    services: Any = show_plan.value("hall1", todo)["services"]
    assert services[0]["listens"] == "0.0.0.0:8443 → 9470"
    assert {f.name for f in msgspec.structs.fields(Service)} >= {"port"}


def test_a_port_that_somebody_publishes_by_hand_is_drift() -> None:
    told: dict[str, Any] = {"PortBindings": {"9470/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8443"}]}}
    now = {"PortBindings": {**told["PortBindings"], "22/tcp": [{"HostIp": "", "HostPort": "22"}]}}
    (found,) = drift._compared("collect", "published ports", now["PortBindings"], told["PortBindings"])
    assert "22/tcp" in found.now
    assert not list(drift._compared("collect", "published ports", told["PortBindings"], told["PortBindings"]))


def test_the_network_of_the_port_gives_nobody_who_goes_out_an_address(tmp_path: Path) -> None:
    class Here(Deployer):
        name = "hall1"

    made = Here()._things_of([wanted(tmp_path, SITE + LISTEN + TOKENS, more=push())["collect"]])
    networks = {c.name.rpartition("-")[2]: (c.internal, c.masquerade) for c in made if isinstance(c, CreateNetwork)}
    assert networks == {"bus": (True, True), "ot": (True, True), "ingress": (False, False)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8443", "write an IP address of the site's machine and a port, such as '0.0.0.0:8443'"),
        ("0.0.0.0:0", "write an IP address"),
        ("0.0.0.0:70000", "write an IP address"),
        ("plant.example:443", "write an IP address"),
        ("::1:443", "write an IP address"),
        ("[10.0.0.1]:443", "write an IP address"),
    ],
)
def test_an_address_that_is_none(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SITE + f"[services.collect]\nlisten = '{text}'\n")
    with pytest.raises(ConfigError, match=rf"site.toml:6: services.collect.listen = .*{says}"):
        load_site(file)


def test_only_collect_listens(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SITE + "[services.process]\nlisten = '0.0.0.0:80'\n")
    with pytest.raises(
        ConfigError, match=r"services.process.listen: only collect and control listen: leave it out here"
    ):
        load_site(file)
    file.write_text(SITE + "[services.collect]\nlisten = '[::]:8443'\n")
    assert load_site(file).site.services.collect.listen == "[::]:8443"
    assert str(Port("::", 8443, 9470)) == "[::]:8443 → 9470"


@pytest.mark.parametrize(
    ("site", "more", "says"),
    [
        (LISTEN, "", "the pipeline has no source to which anything is posted: leave it out"),
        ("[networks]\not = 'plant-ot'\n" + LISTEN, push(), "networks.ot = 'plant-ot' is a network of your own"),
        (
            LISTEN,
            push() + "tiny.read(http.push(Meter, stream='b', path='/meters', tokens=secret('t')))",
            "streams meter and b are both posted to /meters: give each a path of its own",
        ),
        (LISTEN, push(", listen='127.0.0.1:9470'"), "can be reached from within its container alone"),
        (
            LISTEN,
            push() + "tiny.read(http.push(Meter, stream='b', path='/b', tokens=secret('t'), listen='0.0.0.0:9471'))",
            "one port is published, and the pipeline's sources listen on several: give them the same",
        ),
    ],
)
def test_what_does_not_fit(tmp_path: Path, site: str, more: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        wanted(tmp_path, SITE + site + TOKENS, more=more)


def test_devices_that_reach_nobody(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"the stream meter is posted to collect, and nobody .*  listen = '0.0.0.0:8443'"
    ):
        everything(*site_of(tmp_path, SITE + TOKENS, more=push()), BASE)
    own = site_of(tmp_path, SITE + "[networks]\not = 'plant-ot'\n" + TOKENS, more=push())
    (collect,) = (d for d in everything(*own, BASE) if d.service == "collect")
    assert collect.port is None  # devices of that network reach it there
    assert desired(*own, BASE)


def test_a_cluster_has_a_service_instead(tmp_path: Path) -> None:
    made = rendered(tmp_path, CLUSTER + TOKENS, more=push())
    (service,) = of_kind(made, "Service").values()
    assert service["spec"]["ports"] == [{"name": "http-9470", "port": 9470, "targetPort": 9470}]
    policy = of_kind(made, "NetworkPolicy")["collect"]["spec"]
    assert service["spec"]["selector"] == policy["podSelector"]["matchLabels"]
    assert policy["ingress"][1:] == [{"ports": [{"protocol": "TCP", "port": 9470}]}]
    assert all(len(of_kind(made, "NetworkPolicy")[s]["spec"]["ingress"]) == 1 for s in ("process", "upload", "control"))
    of_a_machine = LISTEN.replace("0.0.0.0", "10.1.1.1")
    with pytest.raises(
        ConfigError, match=r"listen = '10.1.1.1:8443': a pod has no address of a machine: write '0.0.0.0:8443'"
    ):
        rendered(tmp_path, CLUSTER + of_a_machine + TOKENS, more=push())


def test_a_cluster_lets_collect_reach_what_it_polls(tmp_path: Path) -> None:
    poll = push().replace(
        "http.push(Meter, path='/meters', tokens=secret('t')", "http.poll(Meter, url='https://10.7.7.7/api'"
    )
    policy = of_kind(rendered(tmp_path, CLUSTER, more=poll), "NetworkPolicy")["collect"]["spec"]
    assert {"ports": [{"protocol": "TCP", "port": 443}], "to": [{"ipBlock": {"cidr": "10.7.7.7/32"}}]} in policy[
        "egress"
    ]


def test_an_image_of_collect_has_what_its_source_needs_and_no_more(tmp_path: Path) -> None:
    collect = wanted(tmp_path, SITE + LISTEN + TOKENS, more=push())["collect"]
    assert {"connectors/http/listener.py", "connectors/http/door.py"} <= code(tmp_path, push())
    assert not {"connectors/http/client.py", "connectors/http/poller.py"} & code(tmp_path, push())
    poll = push().replace(
        "http.push(Meter, path='/meters', tokens=secret('t')", "http.poll(Meter, url='https://edge/api'"
    )
    assert not {"connectors/http/door.py", "connectors/http/route.py"} & code(tmp_path, poll)
    assert any(pin.startswith("aiohttp==") for layer in collect.pins for pin in layer)


def code(folder: Path, more: str) -> set[str]:
    site, plan = site_of(folder, SITE, more=more)
    files = contents_of(site, plan, BASE, PROFILES["collect"]).files
    return {f.path.partition("/code/")[2] for f in files}
