"""How a site's devices stand, as it is on record in Kafka for others to read."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from connectors.firmware.life import Entry
from connectors.firmware.roster import Standing
from pipelines import topics
from pipelines.errors import StateError
from pipelines.runtime.account import newest

SITE_KEY = b"site"
REFUSED_CHARS_MAX = 500


class Known(msgspec.Struct, frozen=True):
    """A campaign as the plan has it that a site obeys."""

    state: str
    stage: int
    version: str
    reason: str


class SiteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a site as a whole stands, on record under `SITE_KEY`: it obeys the plan `counter`, or a later one."""

    counter: int
    held: str = ""  # why nothing is offered or granted
    refused: str = ""  # why what the mirror has now is not believed; what was signed before goes on to count
    known: dict[str, Known] = {}  # campaigns in which the site has a part, by id
    campaigns: dict[str, Standing] = {}


def device_key(device: str) -> bytes:
    """Under which a device's entry is on record."""
    return f"device/{device}".encode()


async def read(brokers: str, site: str) -> tuple[SiteStatus | None, list[Entry]]:
    """The site and its devices, by name; None if it has never said. `Unavailable` without a broker."""
    at = topics.firmware_status(site)
    return decode(await newest(brokers, at), at)


def decode(records: Mapping[bytes, bytes], at: str) -> tuple[SiteStatus | None, list[Entry]]:
    """From the newest records of topic `at`; `StateError` if one is neither."""
    try:
        whole = msgspec.json.decode(records[SITE_KEY], type=SiteStatus) if SITE_KEY in records else None
        devices = [msgspec.json.decode(v, type=Entry) for k, v in records.items() if k != SITE_KEY]
    except msgspec.DecodeError as e:
        raise StateError(f"{at} holds what is no device's entry ({e}): delete that record") from e
    return whole, sorted(devices, key=lambda d: d.device)
