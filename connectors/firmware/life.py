"""The life of one device's update: a table (state, event) -> state, and what time does to it. Pure.

    IDLE ─ASSIGN─> ASSIGNED ─> DOWNLOADING ─> VERIFIED ─> WAITING_WINDOW ─GRANT─> INSTALLING ─> REBOOTING ─> CONFIRMING
     └<─RELEASE────────┴─────────────┴───────────┴────────────┘                                                  │
                                     from any: FAILED, ROLLED_BACK; after a time without progress: STALLED       └─> COMMITTED

Only COMMITTED, said by the device after its self-test, is success. INSTALLING is on record before the device may install, so
whatever can still break a device is on record as such: `AT_RISK`.
"""

from __future__ import annotations

import enum

import msgspec

from connectors.firmware.manifest import Device

SECOND_NS = 10**9
RESTARTS_MAX = 8  # a device that begins its download again more often fails
DETAIL_CHARS_MAX = 300


class State(enum.StrEnum):
    """Where a device stands."""

    IDLE = "IDLE"
    ASSIGNED = "ASSIGNED"
    DOWNLOADING = "DOWNLOADING"
    VERIFIED = "VERIFIED"
    WAITING_WINDOW = "WAITING_WINDOW"
    INSTALLING = "INSTALLING"
    REBOOTING = "REBOOTING"
    CONFIRMING = "CONFIRMING"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"
    FAILED = "FAILED"
    STALLED = "STALLED"


class Event(enum.StrEnum):
    """What happens to it."""

    ASSIGN = "assign"
    DOWNLOAD = "download"
    VERIFY = "verify"
    WAIT = "wait"
    GRANT = "grant"
    REBOOT = "reboot"
    CONFIRM = "confirm"
    COMMIT = "commit"
    ROLL_BACK = "roll back"
    FAIL = "fail"
    TIME_OUT = "time out"
    RELEASE = "release"


READY = frozenset({State.VERIFIED, State.WAITING_WINDOW})
AT_RISK = frozenset({State.INSTALLING, State.REBOOTING, State.CONFIRMING})
BEFORE_RISK = frozenset({State.ASSIGNED, State.DOWNLOADING}) | READY
OPEN = BEFORE_RISK | AT_RISK
LOST = frozenset({State.FAILED, State.ROLLED_BACK, State.STALLED})  # what counts against a campaign
ENDED = LOST | {State.COMMITTED}
_FORGET = (Event.DOWNLOAD, Event.VERIFY, Event.ASSIGN)  # what a device says that has no permission (any more)
_HEARD = (*OPEN, State.STALLED)  # a device that was given up may still speak
TRANSITIONS: dict[tuple[State, Event], State] = {
    **{(state, Event.ASSIGN): State.ASSIGNED for state in (State.IDLE, *ENDED)},
    **{(state, Event.DOWNLOAD): State.DOWNLOADING for state in (*BEFORE_RISK, State.INSTALLING, State.STALLED)},
    **{(s, Event.VERIFY): State.VERIFIED for s in (State.ASSIGNED, State.DOWNLOADING, State.INSTALLING, State.STALLED)},
    (State.VERIFIED, Event.WAIT): State.WAITING_WINDOW,
    **{(state, Event.GRANT): State.INSTALLING for state in READY},
    **{(state, Event.REBOOT): State.REBOOTING for state in (State.INSTALLING, State.STALLED)},
    **{(s, Event.CONFIRM): State.CONFIRMING for s in (State.INSTALLING, State.REBOOTING, State.STALLED)},
    **{(state, Event.COMMIT): State.COMMITTED for state in _HEARD},
    **{(state, Event.ROLL_BACK): State.ROLLED_BACK for state in _HEARD},
    **{(state, Event.FAIL): State.FAILED for state in _HEARD},
    **{(state, Event.TIME_OUT): State.STALLED for state in OPEN},
    **{(state, Event.RELEASE): State.IDLE for state in BEFORE_RISK},
}


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """After how many seconds without progress a device counts as stalled, by state."""

    answer_s: float = 300.0  # from the offer to the device's first word
    download_s: float = 3600.0
    install_s: float = 1800.0
    reboot_s: float = 900.0
    confirm_s: float = 1800.0

    def of(self, state: State) -> float | None:
        """None: it may wait for ever."""
        return {
            State.ASSIGNED: self.answer_s, State.DOWNLOADING: self.download_s, State.INSTALLING: self.install_s,
            State.REBOOTING: self.reboot_s, State.CONFIRMING: self.confirm_s,
        }.get(state)  # fmt: skip


class Entry(Device, frozen=True, kw_only=True):
    """One device as it stands on record."""

    state: State = State.IDLE
    campaign: str = ""
    since_ns: int = 0  # of the last progress
    offered_ns: int = 0  # 0: it has not been offered the update, and does not count
    offset: int = 0  # bytes that it has
    restarts: int = 0
    boot: int = 0  # how often the device had been started when it was last heard
    granted: bool = False  # it may install in the life that has this `boot`
    detail: str = ""

    def after(self, event: Event, now_ns: int, detail: str = "") -> Entry | None:
        """The entry after an event; None if the event means nothing in this state."""
        state = TRANSITIONS.get((self.state, event))
        if state is None or state is self.state:
            return None
        restarts = self.restarts + (event is Event.DOWNLOAD and self.state is not State.ASSIGNED)
        if restarts > RESTARTS_MAX:
            state, detail = State.FAILED, f"it began its download again {restarts} times"
        return msgspec.structs.replace(
            self, state=state, since_ns=now_ns, restarts=restarts, detail=detail[:DETAIL_CHARS_MAX],
            granted=event is Event.GRANT or (self.granted and event not in _FORGET),
        )  # fmt: skip

    def assigned(self, campaign: str, now_ns: int) -> Entry | None:
        """The entry as part of another campaign; None while its device is at risk in the one before."""
        fresh = self.after(Event.ASSIGN, now_ns)
        return fresh and msgspec.structs.replace(fresh, campaign=campaign, offered_ns=0, offset=0, restarts=0)

    def overdue(self, timeouts: Timeouts, now_ns: int) -> bool:
        """Whether it has gone without progress for too long."""
        if self.state is State.ASSIGNED and not self.offered_ns:
            return False
        limit_s = timeouts.of(self.state)
        return limit_s is not None and now_ns - self.since_ns > limit_s * SECOND_NS
