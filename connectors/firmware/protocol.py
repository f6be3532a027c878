"""What travels between the site and a device over MQTT. Bytes <-> values; docs/firmware.md is the contract for devices.

    fw/{device}/report   device -> site, retained, QoS 1: JSON `Report`; its last will is the same with state OFFLINE
    fw/{device}/order    site -> device, QoS 1: JSON `Order`
    fw/{device}/chunk    site -> device, QoS 0: 8 bytes of the image's sha256, offset (u64), crc32 of the rest (u32), bytes

A report with state DOWNLOADING, an offset and `want` > 0 asks for so many chunks from there on. A device that hears nothing asks
again; nobody else keeps count.
"""

from __future__ import annotations

import enum
import re
import struct
import zlib

import msgspec

from connectors.firmware.life import Event
from connectors.firmware.manifest import Device
from pipelines.errors import BadData

PREFIX = "fw"
CHUNK_BYTES_MAX = 64 * 2**10
CHUNKS_MAX = 8  # that one report may ask for
REPORT_BYTES_MAX = 16 * 2**10
_HEAD = struct.Struct(">8sQI")
_DEVICE = re.compile(r"[^/+#\x00-\x1f]{1,128}")  # one level of an MQTT topic


class Said(enum.StrEnum):
    """What a device may say of itself."""

    IDLE = "IDLE"
    OFFLINE = "OFFLINE"
    DOWNLOADING = "DOWNLOADING"
    VERIFIED = "VERIFIED"
    INSTALLING = "INSTALLING"
    REBOOTING = "REBOOTING"
    CONFIRMING = "CONFIRMING"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"
    FAILED = "FAILED"


EVENTS = {
    Said.DOWNLOADING: Event.DOWNLOAD, Said.VERIFIED: Event.VERIFY, Said.REBOOTING: Event.REBOOT,
    Said.CONFIRMING: Event.CONFIRM, Said.COMMITTED: Event.COMMIT, Said.ROLLED_BACK: Event.ROLL_BACK, Said.FAILED: Event.FAIL,
}  # fmt: skip


class Report(Device, frozen=True, kw_only=True):
    """What a device says. `campaign` is that of the order it speaks of, `boot` how often it has been started."""

    state: Said
    boot: int
    campaign: str = ""
    offset: int = 0  # bytes of the image that it has
    want: int = 0  # chunks that it asks for
    detail: str = ""


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a device is told. `do`: 'download' (and verify), 'install' (and restart), 'cancel' (forget the image)."""

    do: str
    campaign: str
    boot: int = 0  # of 'install': permission for this life of the device only; one that has restarted asks again
    path: str = ""
    length: int = 0
    sha256: str = ""
    chunk_bytes: int = 0
    url: str = ""  # where the image is to be had over HTTP, with Range; empty: over MQTT only
    token: str = ""  # for it: `Authorization: Bearer TOKEN`
    roots: tuple[str, ...] = ()  # those that follow the one that the device trusts
    metadata: tuple[str, ...] = ()  # signed TUF metadata: targets, and that of the model; the device verifies both

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


def topic(device: str, kind: str) -> str:
    """`kind` is report, order or chunk; device '+' stands for all."""
    return f"{PREFIX}/{device}/{kind}"


def decode_report(at: str, raw: bytes) -> Report:
    """The report in a message on topic `at`; `BadData` if it is none, or another device's."""
    if len(raw) > REPORT_BYTES_MAX:
        raise BadData(f"a report has at most {REPORT_BYTES_MAX} bytes, this one {len(raw)}", reason="size")
    try:
        report = msgspec.json.decode(raw, type=Report)
    except (msgspec.DecodeError, ValueError) as e:
        raise BadData(f"not a device's report: {e}", reason="report") from e
    if at != topic(report.device, "report") or not _DEVICE.fullmatch(report.device):
        raise BadData(f"a report of device {report.device!r} came on topic {at}", reason="report")
    if report.offset < 0 or not 0 <= report.want <= CHUNKS_MAX:
        raise BadData(f"device {report.device}: offset from 0, want from 0 to {CHUNKS_MAX}", reason="report")
    return report


def pack(sha256: str, offset: int, data: bytes) -> bytes:
    """A chunk of an image."""
    return _HEAD.pack(bytes.fromhex(sha256)[:8], offset, zlib.crc32(data)) + data


def unpack(raw: bytes, sha256: str) -> tuple[int, bytes]:
    """Offset and bytes; `BadData` if the chunk is damaged or of another image. Here for devices written in Python."""
    if len(raw) <= _HEAD.size:
        raise BadData("a chunk is cut off", reason="chunk")
    image, offset, crc = _HEAD.unpack_from(raw)
    data = raw[_HEAD.size :]
    if image != bytes.fromhex(sha256)[:8] or zlib.crc32(data) != crc:
        raise BadData(f"the chunk at {offset} is damaged, or of another image", reason="chunk")
    return offset, data
