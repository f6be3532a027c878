"""The twin of a device: what its settings are to be (desired), and what it says that they are (reported). Pure.

    set ──> Desired, version + 1 ──told, again and again──> device ──says what it has──> Reported ──┐
                 └───────────────────────────── until they agree <──────────────────────────────────┘

Versions count what is desired. A device ignores what is older than it has heard, and does the same again if it hears it again: so
what is told twice, late or by a process that was replaced does no harm, and what was changed at the device is set back. A report
that names the newest version and its very values means that they agree; an old report that comes late can only make control tell
once more. As the ledger, `Twins` proposes what is then put on record.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping

import msgspec

from connectors.control.commands import DETAIL_CHARS_MAX, Command, Value
from pipelines.errors import BadData, LimitExceeded

VERSION_MAX = 2**53 - 2  # JSON numbers are exact up to here
TWINS_MAX = 10_000
REPORT_BYTES_MAX = 16 * 2**10
_SAME = 1e-6  # relative: a device with 32-bit numbers has about 7 digits


class State(enum.StrEnum):
    """How a device stands."""

    IN_SYNC = "IN_SYNC"
    PENDING = "PENDING"  # it has not said that it has what is desired now
    DIFFERS = "DIFFERS"  # it has heard what is desired, and says that its settings are otherwise
    REPORTED = "REPORTED"  # nothing is desired of it


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings of a device are to be; a record of `{site}.twin.desired`. Times are nanoseconds since the epoch."""

    device: str
    version: int
    values: dict[str, Value]
    at_ns: int
    by: str  # whose signature made it so
    command: str  # id of the command that did
    since_ns: int  # since when there has been a difference


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of its settings; a record of `{site}.twin.reported`, written when that changes."""

    device: str
    version: int  # counts the changes
    values: dict[str, Value]
    applied: int  # the newest version of what is desired that it has heard
    at_ns: int
    since_ns: int  # since when there has been a difference; 0: there was none
    detail: str = ""


class Report(msgspec.Struct, frozen=True):
    """What a device publishes: the version that it has, and its settings, or some of them; null: it has no such setting."""

    version: int
    values: dict[str, Value] = {}
    detail: str = ""


class Twin(msgspec.Struct, frozen=True):
    """Both sides of a device."""

    desired: Desired | None = None
    reported: Reported | None = None

    @property
    def version(self) -> int:
        """Of what is desired; 0: nothing ever was."""
        return self.desired.version if self.desired else 0

    @property
    def difference(self) -> dict[str, tuple[Value, Value]]:
        """Settings that are otherwise than desired: (desired, reported)."""
        want = self.desired.values if self.desired else {}
        have = self.reported.values if self.reported else {}
        return {name: (v, have.get(name)) for name, v in want.items() if not _same(v, have.get(name))}

    @property
    def state(self) -> State:
        """See `State`."""
        if self.desired is None:
            return State.REPORTED
        if self.reported is None or self.reported.applied != self.desired.version:
            return State.PENDING
        return State.DIFFERS if self.difference else State.IN_SYNC

    @property
    def since_ns(self) -> int:
        """Since when there is a difference; 0 if there is none."""
        if self.state in (State.IN_SYNC, State.REPORTED):
            return 0
        return max(side.since_ns for side in (self.desired, self.reported) if side)

    def having(self, side: Desired | Reported) -> Twin:
        """The twin with a new side."""
        return Twin(side, self.reported) if isinstance(side, Desired) else Twin(self.desired, side)


def _same(a: Value, b: Value) -> bool:
    if isinstance(a, (bool, str)) or isinstance(b, (bool, str)) or a is None or b is None:
        return type(a) is type(b) and a == b
    return math.isclose(a, b, rel_tol=_SAME)


class Twins:
    """By device. Every method but `record` only says what should be on record."""

    def __init__(self, sides: Iterable[Desired | Reported] = ()) -> None:
        self._twins: dict[str, Twin] = {}
        self.different: dict[str, int] = {}  # since when, ns, by device
        for side in sides:
            self.record(side)

    def __getitem__(self, device: str) -> Twin:
        return self._twins.get(device, Twin())

    def record(self, side: Desired | Reported) -> None:
        """Take note of a side that Kafka has acknowledged."""
        twin = self._twins[side.device] = self[side.device].having(side)
        self.different.pop(side.device, None)
        if since := twin.since_ns:
            self.different[side.device] = since

    @property
    def oldest_ns(self) -> int:
        """Since when the oldest difference is; 0 if there is none. Takes 0.4 ms if all `TWINS_MAX` differ."""
        return min(self.different.values(), default=0)

    def full(self, device: str) -> bool:
        """Whether there is no room for a twin of a device that has none."""
        return device not in self._twins and len(self._twins) >= TWINS_MAX

    @property
    def devices(self) -> list[str]:
        """All that have a twin."""
        return list(self._twins)

    def desired(self) -> list[Desired]:
        """What is desired of each device."""
        return [t.desired for t in self._twins.values() if t.desired]

    def unexpected(self, command: Command) -> str:
        """Why a command that was meant for another version of the twin may not be carried out; empty if it may."""
        expected, version = command.expected_twin_version, self[command.device].version
        if expected is msgspec.UNSET or expected == version:
            return ""
        return (
            f"the twin of {command.device} is at version {version}, not {expected}: "
            f"somebody changed it; look at it with `pipeline device twin {command.device}`"
        )

    def set(self, command: Command, now_ns: int) -> Desired | None:
        """What is desired after a command, whose arguments are settings (None: no longer desired); None if that changes nothing.

        `LimitExceeded` at `TWINS_MAX` devices.
        """
        twin = self[command.device]
        if self.full(command.device):
            raise LimitExceeded(f"{command.device}: {TWINS_MAX} devices have a twin (TWINS_MAX)")
        before = twin.desired.values if twin.desired else {}
        after: dict[str, Value] = {name: v for name, v in (before | command.args).items() if v is not None}
        if before == after and list(map(type, before.values())) == list(map(type, after.values())):
            return None
        applied = (
            twin.reported.applied if twin.reported else 0
        )  # it must hear of a version that is newer than all it has heard
        return Desired(
            device=command.device, version=max(twin.version, applied) + 1, values=after, at_ns=now_ns, by=command.issuer,
            command=command.id, since_ns=twin.since_ns or now_ns,
        )  # fmt: skip

    def hear(self, device: str, report: Report, now_ns: int) -> list[Desired | Reported]:
        """What changes with a report. A device that has heard of a version yet to come gets a newer one: it heeds no other."""
        twin = self[device]
        old: Reported = twin.reported or Reported(device=device, version=0, values={}, applied=0, at_ns=0, since_ns=0)
        values = {name: v for name, v in (old.values | report.values).items() if v is not None}
        desired = twin.desired
        if desired and report.version > twin.version:
            desired = msgspec.structs.replace(desired, version=report.version + 1, since_ns=twin.since_ns or now_ns)
        changed: list[Desired | Reported] = [desired] if desired and desired is not twin.desired else []
        new = msgspec.structs.replace(
            old, version=old.version + 1, values=values, applied=report.version, detail=report.detail[:DETAIL_CHARS_MAX],
            at_ns=now_ns,
        )  # fmt: skip
        if (new.values, new.applied, new.detail) != (old.values, old.applied, old.detail) or not old.version:
            agree = Twin(desired, new).state in (State.IN_SYNC, State.REPORTED)
            new = msgspec.structs.replace(new, since_ns=0 if agree else twin.since_ns or now_ns)
            changed.append(new)
        return changed


def decode_report(raw: bytes, settings: Mapping[str, object]) -> Report:
    """The report in an MQTT payload, of the settings that the profile has; `BadData` if it is none."""
    if len(raw) > REPORT_BYTES_MAX:
        raise BadData(f"a report has at most {REPORT_BYTES_MAX} bytes, this one {len(raw)}", reason="size")
    try:
        report = msgspec.json.decode(raw, type=Report)
    except (msgspec.DecodeError, ValueError) as e:
        raise BadData(f"not a report of settings: {e}", reason="report") from e
    if not 0 <= report.version < VERSION_MAX:
        raise BadData(f"version {report.version}: a report has the version it has heard, 0 if none", reason="report")
    return msgspec.structs.replace(report, values={n: v for n, v in report.values.items() if n in settings})


def for_device(desired: Desired) -> bytes:
    """The JSON that a device hears."""
    return msgspec.json.encode({"version": desired.version, "values": desired.values})
