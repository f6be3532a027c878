"""How devices are shown, for people and for programs: the worst first, and no more than asked for. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from connectors.control.ledger import State as Commanded
from connectors.control.twin import State as Settings
from connectors.firmware.life import AT_RISK, LOST
from containers.console import Colour, age, coloured, table
from containers.devices.seen import FRAMES_BACK_MAX, Device, Reading, Seen
from pipelines.quality import BAD, GOOD, UNCERTAIN

QUALITIES = {GOOD: "GOOD", UNCERTAIN: "UNCERTAIN", BAD: "BAD"}
_COMMAND_BAD = {Commanded.FAILED, Commanded.TIMED_OUT, Commanded.UNKNOWN}
VALUES_CHARS_MAX = 48


@dataclass(frozen=True)
class Limits:
    """`stale_ns`: for streams whose source does not say; `shown_max`: devices."""

    now_ns: int
    stale_ns: int
    shown_max: int


def is_stale(reading: Reading, limits: Limits) -> bool:
    """Whether a device has said nothing for too long."""
    after = limits.stale_ns if reading.stream.stale_ns is None else reading.stream.stale_ns
    return limits.now_ns - reading.time_ns > after


def problems(device: Device, limits: Limits) -> dict[str, int]:
    """What is not well with a device, and how bad: 2, or 1 if it may pass."""
    found: dict[str, int] = {}
    for reading in device.readings.values():
        if is_stale(reading, limits):
            found["stale"] = 2
        if reading.quality not in (None, GOOD):
            found["bad quality"] = 2 if reading.quality == BAD else 1
    if device.twin and device.twin.since_ns:
        found["settings differ"] = 2 if device.twin.state is Settings.DIFFERS else 1
    if device.firmware and device.firmware.state in LOST:
        found["firmware"] = 2
    elif device.firmware and device.firmware.state in AT_RISK:
        found["firmware is being installed"] = 1
    if device.command and device.command.state in _COMMAND_BAD:
        found["command failed"] = 2
    return found


Judged = tuple[Device, dict[str, int]]


def judged(devices: Sequence[Device], limits: Limits, *, bad: bool) -> list[Judged]:
    """Devices with their problems, the worst first; with `bad` only those that have any."""
    found = [(d, problems(d, limits)) for d in devices]
    return sorted(((d, p) for d, p in found if p or not bad), key=lambda j: (-sum(j[1].values()), j[0].name))


def text(found: Sequence[Judged], seen: Seen, stream: str, limits: Limits) -> str:
    """A line that counts, and one for each stream of a device."""
    if not found:
        return f"no devices to show{_beyond(seen)}"
    counts = Counter(name for _, wrong in found for name in wrong)
    well = sum(not wrong for _, wrong in found)
    said = ", ".join([f"{n:,} {name}" for name, n in counts.most_common()] + ([f"{well:,} well"] if well else []))
    shown = found[: limits.shown_max]
    rows = [row for device, _ in shown for row in _rows(device, stream, limits)]
    head = ["DEVICE", "STREAM", "VALUES", "QUALITY", "AGE", "FIRMWARE", "SETTINGS", "LAST COMMAND"]
    more = f"\n… and {len(found) - len(shown):,} more: see --limit, --device, --bad" if len(found) > len(shown) else ""
    return f"{len(found):,} device{'s' * (len(found) > 1)}: {said}\n\n{table(head, rows)}{more}{_beyond(seen)}"


def _beyond(seen: Seen) -> str:
    notes = [f"{len(seen.too_many):,} devices more are not looked at"] if seen.too_many else []
    notes += [f"{seen.unreadable:,} records could not be read"] if seen.unreadable else []
    return f" ({'; '.join(notes)})" if notes else ""


def _rows(device: Device, stream: str, limits: Limits) -> list[list[str]]:
    of_device = [_firmware(device), _settings(device, limits), _command(device, limits)]
    readings = [r for name, r in sorted(device.readings.items()) if stream in ("", name)]
    if not readings:
        return [[device.name, "-", f"none in the newest {FRAMES_BACK_MAX} frames", "-", "-", *of_device]]
    return [
        [device.name, r.stream.name, _values(r), _quality(r), _age(r, limits), *(of_device if not n else ["", "", ""])]
        for n, r in enumerate(readings)
    ]


def _values(reading: Reading) -> str:
    units = {f.name: f" {f.unit}" if f.unit else "" for f in reading.stream.row.fields}
    shown = " ".join(
        f"{n}={v:.5g}{units[n]}" if isinstance(v, float) else f"{n}={v}{units[n]}" for n, v in reading.values.items()
    )
    return shown if len(shown) <= VALUES_CHARS_MAX else shown[: VALUES_CHARS_MAX - 1] + "…"


def _quality(reading: Reading) -> str:
    if reading.quality is None:
        return "-"
    colours: dict[int, Colour] = {GOOD: "green", UNCERTAIN: "yellow", BAD: "red"}
    return coloured(QUALITIES.get(reading.quality, "?"), colours.get(reading.quality, "red"))


def _age(reading: Reading, limits: Limits) -> str:
    shown = age(limits.now_ns - reading.time_ns)
    return coloured(f"{shown} stale", "red") if is_stale(reading, limits) else shown


def _firmware(device: Device) -> str:
    if device.firmware is None:
        return "-"
    state = device.firmware.state
    colour: Colour = "red" if state in LOST else "yellow" if state in AT_RISK else "green"
    return f"{device.firmware.version} {coloured(state.value, colour)}"


def _settings(device: Device, limits: Limits) -> str:
    if device.twin is None:
        return "-"
    colours: dict[Settings, Colour] = {Settings.IN_SYNC: "green", Settings.DIFFERS: "red"}
    since = f" {age(limits.now_ns - device.twin.since_ns)}" if device.twin.since_ns else ""
    return coloured(device.twin.state.value, colours.get(device.twin.state, "yellow")) + since


def _command(device: Device, limits: Limits) -> str:
    if device.command is None:
        return "-"
    state, ago = device.command.state, age(limits.now_ns - device.command.updated_at_ns)
    colour: Colour = "red" if state in _COMMAND_BAD else "green" if state is Commanded.SUCCEEDED else "yellow"
    return f"{device.command.command.verb} {coloured(state.value, colour)} {ago} ago"


def value(found: Sequence[Judged], seen: Seen, limits: Limits) -> dict[str, object]:
    """The same for programs; `total` counts those that are not shown, too."""
    shown = [_of(device, list(wrong), limits) for device, wrong in found[: limits.shown_max]]
    return {
        "total": len(found), "problems": dict(Counter(name for _, wrong in found for name in wrong)), "devices": shown,
        "not_looked_at": len(seen.too_many), "unreadable": seen.unreadable,
    }  # fmt: skip


def _of(device: Device, wrong: list[str], limits: Limits) -> dict[str, object]:
    twin, firmware, command = device.twin, device.firmware, device.command
    return {
        "device": device.name,
        "problems": wrong,
        "readings": [
            {
                "stream": r.stream.name, "time_ns": r.time_ns, "age_s": (limits.now_ns - r.time_ns) / 1e9, "values": r.values,
                "quality": None if r.quality is None else QUALITIES.get(r.quality, str(r.quality)), "stale": is_stale(r, limits),
            }
            for _, r in sorted(device.readings.items())
        ],
        "twin": twin and {"state": twin.state.value, "version": twin.version, "since_ns": twin.since_ns,
                          "difference": {n: {"desired": a, "reported": b} for n, (a, b) in twin.difference.items()}},
        "firmware": firmware and {"version": firmware.version, "state": firmware.state.value, "campaign": firmware.campaign},
        "command": command and {"id": command.command.id, "verb": command.command.verb, "state": command.state.value,
                                "updated_at_ns": command.updated_at_ns, "detail": command.detail},
    }  # fmt: skip
