"""The profile of each service, as the engine is given it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from containers.profiles import INTERNAL, PROBE, PROFILES, STOP_S
from pipelines.errors import ConfigError
from pipelines.runtime.service import DRAIN_S_MAX
from tests.containers.kit import SITE, wanted

NETWORKS = {
    "collect": {"bus", "ot"},
    "process": {"bus"},
    "upload": {"bus", "wan"},
    "control": {"bus", "ot"},
}


def _created(tmp_path: Path, service: str, text: str = SITE) -> tuple[dict[str, Any], set[str]]:
    """The body of the engine's call, and all networks."""
    command = wanted(tmp_path, text)[service].container(1, "10.1.2.1")
    config = dict(command.config)
    return config, {*config["NetworkingConfig"]["EndpointsConfig"], *command.networks}


@pytest.mark.parametrize("service", PROFILES)
def test_least_privilege(tmp_path: Path, service: str) -> None:
    config, _ = _created(tmp_path, service)
    host = config["HostConfig"]
    assert config["User"] == "65532:65532"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]  # and nothing that would weaken the default seccomp filter
    assert host["PidsLimit"] == 128
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["NanoCpus"] == 10**9
    assert host["Tmpfs"] == {"/tmp": "noexec,nosuid,nodev,size=16m"}
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {"core": 0, "msgqueue": 0, "nofile": 4096}
    assert config["Healthcheck"]["Test"] == ["CMD", *PROBE]


@pytest.mark.parametrize("service", PROFILES)
def test_nothing_that_would_open_the_box(tmp_path: Path, service: str) -> None:
    config, _ = _created(tmp_path, service)
    assert "docker.sock" not in json.dumps(config)
    for door in (
        "Privileged",
        "CapAdd",
        "Devices",
        "PortBindings",
        "PidMode",
        "UTSMode",
        "UsernsMode",
        "Binds",
        "PublishAllPorts",
    ):
        assert door not in config["HostConfig"], door
    assert config["HostConfig"]["IpcMode"] == "none"
    assert config["HostConfig"]["CgroupnsMode"] == "private"
    assert "Env" not in config
    assert config["HostConfig"]["NetworkMode"].startswith("sitestream-hall1-")


@pytest.mark.parametrize("service", PROFILES)
def test_each_service_is_on_its_own_networks_only(tmp_path: Path, service: str) -> None:
    _, networks = _created(tmp_path, service)
    assert networks == {f"sitestream-hall1-{role}" for role in NETWORKS[service]}


def test_control_sees_the_off_switch_of_the_machine_and_cannot_turn_it(tmp_path: Path) -> None:
    text = SITE + "[services.control.options]\noff_switch = '/srv/press/switch'\n"
    switch = {"Type": "bind", "Source": "/srv/press/switch", "Target": "/srv/press/switch", "ReadOnly": True}
    mounted = {s: _created(tmp_path, s, text)[0]["HostConfig"]["Mounts"] for s in PROFILES}
    assert switch in mounted["control"]
    assert [m["Source"] for s in PROFILES for m in mounted[s] if "switch" in m["Source"]] == ["/srv/press/switch"]
    looks = wanted(tmp_path, text)["control"].settings.options["off_switch"]
    assert looks == switch["Target"]
    assert [m["Target"] for m in mounted["control"] if not m["ReadOnly"]] == ["/data"]
    without = _created(tmp_path, "control")[0]["HostConfig"]["Mounts"]
    assert [m["Target"] for m in without] == [m["Target"] for m in mounted["control"] if m != switch]


@pytest.mark.parametrize("folder", ["switch", "/", "/srv/a:b", "/srv//switch"])
def test_a_switch_is_a_folder_of_the_machine(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigError, match="write a folder of the site's machine, such as '/srv/press/switch'"):
        wanted(tmp_path, SITE + f"[services.control.options]\noff_switch = '{folder}'\n")


def test_only_the_network_of_the_uplink_leads_out() -> None:
    assert INTERNAL == {"ot": True, "bus": True, "wan": False, "ingress": False}


def test_who_has_no_way_out_asks_nobody_for_names_but_on_networks_that_we_do_not_know(tmp_path: Path) -> None:
    asks = {s: _created(tmp_path, s)[0]["HostConfig"]["Dns"] for s in PROFILES}
    assert asks == {"upload": [], "control": ["127.0.0.1"], "process": ["127.0.0.1"], "collect": ["127.0.0.1"]}
    config, _ = _created(tmp_path, "collect", SITE + "[networks]\not = 'plant-ot'")
    assert config["HostConfig"]["Dns"] == []


def test_an_existing_network_takes_the_place_of_ours(tmp_path: Path) -> None:
    _, networks = _created(tmp_path, "collect", SITE + "[networks]\not = 'plant-ot'")
    assert networks == {"sitestream-hall1-bus", "plant-ot"}


def test_configuration_is_read_only_and_only_data_can_be_written(tmp_path: Path) -> None:
    for service in PROFILES:
        config, _ = _created(tmp_path, service)
        for mount in config["HostConfig"]["Mounts"]:
            assert mount["ReadOnly"] is (mount["Target"] == "/run/sitestream")


def test_limits_come_from_the_site_file(tmp_path: Path) -> None:
    config, _ = _created(tmp_path, "process", SITE + "[services.process]\nmemory = '3GiB'\ncpus = 0.5")
    assert config["HostConfig"]["Memory"] == 3 * 2**30
    assert config["HostConfig"]["NanoCpus"] == 5 * 10**8


def test_the_gateway_becomes_an_address(tmp_path: Path) -> None:
    config, _ = _created(tmp_path, "process", SITE + "[hosts]\nkafka = 'gateway'\nedge = '10.0.0.9'")
    assert config["HostConfig"]["ExtraHosts"] == ["edge:10.0.0.9", "kafka:10.1.2.1"]


def test_a_service_has_time_to_drain() -> None:
    assert STOP_S > DRAIN_S_MAX


def test_collect_may_use_the_serial_ports_that_the_site_file_names_and_no_other(tmp_path: Path) -> None:
    text = SITE + "[services.collect]\ndevices = ['/dev/ttyUSB0', '/dev/serial/by-id/usb-x']\ndevice_group = 986"
    host = _created(tmp_path, "collect", text)[0]["HostConfig"]
    assert host["Devices"] == [
        {
            "PathOnHost": path,
            "PathInContainer": path,
            "CgroupPermissions": "rw",
        }  # without m: no other device can be made
        for path in ("/dev/ttyUSB0", "/dev/serial/by-id/usb-x")
    ]
    assert host["GroupAdd"] == ["986"]
    assert "Privileged" not in host
    assert host["CapDrop"] == ["ALL"]
    for service in set(PROFILES) - {"collect"}:
        assert not {"Devices", "GroupAdd"} & set(_created(tmp_path, service, text)[0]["HostConfig"])


def test_another_serial_port_replaces_collect_alone(tmp_path: Path) -> None:
    before = wanted(tmp_path, SITE)
    after = wanted(tmp_path, SITE + "[services.collect]\ndevices = ['/dev/ttyUSB0']")
    other = wanted(tmp_path, SITE + "[services.collect]\ndevices = ['/dev/ttyUSB0']\ndevice_group = 5")
    assert [s for s in before if before[s].fingerprint != after[s].fingerprint] == ["collect"]
    assert [s for s in before if after[s].fingerprint != other[s].fingerprint] == ["collect"]


def test_a_serial_port_that_the_pipeline_needs_must_be_in_the_site_file(tmp_path: Path) -> None:
    more = (
        "from connectors import modbus\n"
        "class Meter(Schema):\n    device = Key[str]()\n    power = Col[float]('W')\n"
        "tiny.read(modbus.source(Meter, devices={'m': 'modbus+serial:///dev/ttyUSB1?unit=7'}, "
        "registers={Meter.power: modbus.holding(0)}))"
    )
    with pytest.raises(
        ConfigError, match=r'meter is read from the serial port /dev/ttyUSB1, .*  devices = \["/dev/ttyUSB1"\]'
    ):
        wanted(tmp_path, SITE, more=more)
    wanted(tmp_path, SITE + "[services.collect]\ndevices = ['/dev/ttyUSB1']", more=more)
