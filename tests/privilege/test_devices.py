"""Who may write to devices: asked of a real Mosquitto, with each service's own account."""

from __future__ import annotations

import pytest
from docker.models.containers import Container

from tests.privilege.parts import MQTT_USERS
from tests.privilege.site import LeastSite, Verdict, attempt

TOPICS = {
    "a command": "tiny/d0/cmd",
    "a reading": "tiny/d0/v",
    "an answer": "tiny/d0/ack",
    "an order": "fw/d0/order",
    "something else": "other/d0/v",
}


def publish(site: LeastSite, container: Container, user: str, file: str = "mqtt") -> dict[str, Verdict]:
    """Publish on each topic, with the password in a file."""
    where = (site.edge.address, site.mosquitto.port, user, f"/run/sitestream/secrets/{file}")
    acts = {name: ["mqtt_publish", *where, topic] for name, topic in TOPICS.items()}
    return attempt(container, acts)


@pytest.mark.parametrize(
    ("service", "file", "may"),
    [("collect", "mqtt", set()), ("control", "mqtt", {"a command"}), ("firmware", "mqtt_password", {"an order"})],
)
def test_collect_writes_to_no_device_control_sends_commands_only_and_firmware_orders_only(
    site: LeastSite, service: str, file: str, may: set[str]
) -> None:
    found = publish(site, site.container(service), service, file)
    assert {name for name, (yes, _) in found.items() if yes} == may, found


def test_an_account_with_more_rights_may(site: LeastSite, too_free: Container) -> None:
    found = publish(site, too_free, "device")
    assert {name for name, (yes, _) in found.items() if yes} == set(TOPICS) - {"something else"}, found


def test_a_service_cannot_take_the_account_of_another(site: LeastSite) -> None:
    found = publish(site, site.container("collect"), "control")
    assert not [name for name, (yes, _) in found.items() if yes], found
    assert len(set(MQTT_USERS.values())) == len(MQTT_USERS)
