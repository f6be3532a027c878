"""The port of control's HTTP API: only where the site file names one, and never in plain text to others."""

from __future__ import annotations

from pathlib import Path

import pytest

from containers import show_plan
from containers.deployer import Deployment
from containers.profiles import PROFILES
from containers.rollout import Actual
from pipelines.errors import ConfigError
from tests.containers.kit import SITE, site_of, wanted

LISTEN = "[services.control]\nlisten = '0.0.0.0:9999'\n"
SECRETS = "secrets = {api_tokens = 'env:PATH', api_certificate = 'env:PATH', api_private_key = 'env:PATH'}\n"
TOKENS = "secrets = {api_tokens = 'env:PATH'}\n"


def test_control_has_the_port_that_the_site_file_names_and_nobody_else_has_one(tmp_path: Path) -> None:
    services = wanted(tmp_path, SITE + LISTEN + SECRETS)
    bodies = {s: services[s].container(1, "") for s in PROFILES}
    control = bodies["control"]
    assert control.config["HostConfig"]["PortBindings"] == {"9471/tcp": [{"HostIp": "0.0.0.0", "HostPort": "9999"}]}
    assert services["control"].settings.options == {"listen": "0.0.0.0:9471"}
    assert control.config["HostConfig"]["Dns"] == ["127.0.0.1"]  # still nobody to be asked
    assert "sitestream-hall1-ingress" in control.networks
    for service in set(PROFILES) - {"control"}:
        assert "PortBindings" not in bodies[service].config["HostConfig"]
        assert "listen" not in services[service].settings.options
        assert "sitestream-hall1-ingress" not in bodies[service].networks
    todo = Deployment((services["control"],), Actual((), (), ()))
    assert "listens: 0.0.0.0:9999 → 9471, published on the site's machine" in show_plan.text("hall1", todo)
    without = wanted(tmp_path)
    assert without["control"].port is None
    assert [s for s in PROFILES if without[s].fingerprint != services[s].fingerprint] == ["control"]


def test_on_this_machine_alone_it_may_be_plain(tmp_path: Path) -> None:
    text = SITE + LISTEN.replace("0.0.0.0", "127.0.0.1") + TOKENS
    assert str(wanted(tmp_path, text)["control"].port) == "127.0.0.1:9999 → 9471"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LISTEN, r"listen = '0.0.0.0:9999' needs the secret 'api_tokens': add under \[services.control.secrets\]"),
        (LISTEN + TOKENS, r"needs the secret 'api_certificate': .*; without TLS only this machine may be listened to"),
        (
            LISTEN.replace("0.0.0.0", "127.0.0.1") + SECRETS.replace("api_private_key", "other"),
            "needs the secret 'api_private_key'",
        ),
        (LISTEN + SECRETS + "[networks]\not = 'plant-ot'\n", "network of your own, where control is reached at its own"),
        (LISTEN.replace("0.0.0.0:9999", "9999") + SECRETS, "services.control.listen = '9999': write an IP address"),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        wanted(tmp_path, SITE + text)


def test_a_site_without_control_has_no_port_for_it(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, SITE + LISTEN + SECRETS)
    from containers import control_port

    with pytest.raises(
        ConfigError, match=r"the site has no control, for no pipeline commands and there is no devices.toml"
    ):
        control_port.check(site, has_control=False)
    assert plan.pipeline == "tiny"
