"""Firmware of devices: what is signed becomes what runs, on few devices first, and never on more than may be lost.

Authority comes from a TUF repository alone: images and the plan of campaigns are its targets. Kafka can hold an update back, and
never begin one. docs/firmware.md has the whole, with the contract for devices.
"""

from __future__ import annotations

from pipelines import topics

SERVICE = "firmware"
AUDIT_BYTES = 64 * 2**20  # that are kept of the audit


def topics_of(site: str) -> list[topics.Topic]:
    """Every Kafka topic that the service needs on a site."""
    return [
        topics.compacted(topics.firmware_desired(site), 1),
        topics.compacted(topics.firmware_status(site), 1),
        topics.data(topics.firmware_audit(site), 1, retention_bytes=AUDIT_BYTES),
        topics.data(topics.dead(site), 1),
    ]
