"""URLs as options and site files give them. Pure."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

BROKER_PORTS = {"mqtt": 1883, "mqtts": 8883}
BROKER_CURE = "write 'mqtt://host:1883' or 'mqtts://host:8883', and username= and password= apart"


def broker_of(url: str) -> SplitResult | None:
    """Of the URL of an MQTT broker, as `parts_of`; None, with `BROKER_CURE`, if it is none."""
    parts = parts_of(url, *BROKER_PORTS)
    return parts if parts and not parts.path.strip("/") else None


def parts_of(url: str, *schemes: str) -> SplitResult | None:
    """Of a URL with one of these schemes, a host, a port that can be if any, and no account; None if it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    apart = parts.username or parts.password
    return parts if parts.scheme in schemes and parts.hostname and port != 0 and not apart else None


def masked(url: str) -> str:
    """For messages: without the account that stands in it."""
    return re.sub(r"^([^:/@]*://)?.*@", r"\1…@", url)
