"""The page about MQTT says what the functions take."""

from __future__ import annotations

from connectors import mqtt
from tests.connectors.options_table import PAGE, check

MQTT = PAGE.parent / "connectors" / "mqtt.md"


def test_the_page_says_what_the_functions_take() -> None:
    check("mqtt.source", mqtt.source, MQTT)
    check("mqtt.sparkplug", mqtt.sparkplug, MQTT)
