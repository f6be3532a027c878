"""The lock of a site: who may change it, until when. The protocol as values; no I/O.

The lock is on the site's engine, for operators work from several machines. Volumes are all that an engine keeps and creates
atomically by name: creating one that exists gives the existing one, whose label says whose it is. A volume cannot be changed, so
each taking, renewal and release makes the next number N + 1 and then removes what is below. The highest number is never removed
(but by `destroy`), so whoever makes it has it: it is the fencing token. What an owner does is only done after a look that showed
the highest number to be its own.

Only the engine's clock counts, never that of an operator's machine. A lock that says it is valid for longer than a lease,
since the engine's clock went back, is not valid at all.

Each talk with the engine is a generator: it yields a `Step` and is sent what was `Seen` after it. `hold` has it with an engine,
tests with a simulated one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias, TypeVar

import msgspec

from containers import names
from containers.commands import Command, CreateVolume, RemoveVolume

LEASE_S = (
    60.0  # renewed each third, so a crash leaves 40 s: longer than its last command, a stop, takes (profiles.STOP_S)
)
BACK_S_MAX = 5.0  # by so much the engine's clock may be put back and locks stay valid
T = TypeVar("T")


@dataclass(frozen=True)
class Lock:
    """Whose the site is. Times are seconds since the epoch by the engine's clock."""

    number: int
    token: str = ""  # of the owner; no secret
    by: str = "somebody"  # user@host (process)
    purpose: str = "changed"  # the site is being …
    since_s: float = 0.0
    until_s: float = 0.0  # 0: released
    lease_s: float = 0.0

    def left_s(self, now_s: float) -> float:
        """How long it is still valid; 0 if it is not."""
        left = self.until_s - now_s
        return left if 0 < left <= self.lease_s + BACK_S_MAX else 0.0


@dataclass(frozen=True)
class Claim:
    """Who wants the lock, and what for."""

    token: str
    by: str
    purpose: str
    lease_s: float = LEASE_S

    @property
    def renew_s(self) -> float:
        """How often it is renewed."""
        return self.lease_s / 3

    @property
    def margin_s(self) -> float:
        """For so long it must be valid yet when a command is sent."""
        return self.lease_s / 6

    def lock(self, number: int, now_s: float, since_s: float) -> Lock:
        """A lock of ours with a full lease."""
        return Lock(number, self.token, self.by, self.purpose, since_s, now_s + self.lease_s, self.lease_s)


@dataclass(frozen=True)
class Seen:
    """What a look at the engine showed: its time, and the locks of the site by number (mostly one)."""

    now_s: float
    locks: tuple[Lock, ...] = ()

    @property
    def newest(self) -> Lock | None:
        """The lock that counts."""
        return self.locks[-1] if self.locks else None

    def valid(self, *but: str) -> list[Lock]:
        """Those that are valid and of others than these tokens'."""
        return [lock for lock in self.locks if lock.token not in but and lock.left_s(self.now_s)]


@dataclass(frozen=True)
class Make:
    """Make this lock, unless one of its number is there."""

    lock: Lock


@dataclass(frozen=True)
class Drop:
    """Remove locks."""

    numbers: tuple[int, ...]


Step: TypeAlias = Make | Drop | None  # None: only look
Talk: TypeAlias = Generator[Step, Seen, T]


def take(me: Claim, over: str = "") -> Talk[Lock]:
    """Get the lock if it is free, expired or of `over`, a token whose owner is known to have gone.

    Gives ours, or another's that is in the way.
    """
    seen = yield None
    if others := seen.valid(me.token, over):
        return others[-1]
    mine = me.lock(seen.newest.number + 1 if seen.newest else 1, seen.now_s, seen.now_s)
    after = yield Make(mine)
    others = after.valid(me.token, over)  # made since we looked; after a `destroy` even below ours
    if others or after.newest != mine:
        yield from _withdraw(mine, after)
        return (others or after.locks or (Lock(mine.number),))[-1]
    yield from _tidy(mine, after)
    return mine


def keep(me: Claim, least_s: float) -> Talk[Lock | None]:
    """Renew the lock unless it is valid for `least_s` yet. Gives ours, or what took its place."""
    seen = yield None
    have = seen.newest
    if have is None or have.token != me.token or have.left_s(seen.now_s) - 1 >= least_s:  # the time is in whole seconds
        return have
    mine = me.lock(have.number + 1, seen.now_s, have.since_s)
    after = yield Make(mine)
    if after.newest == mine and have in after.locks:  # if it has gone, another had the lock, and destroyed the site
        yield from _tidy(mine, after)
        return mine
    yield from _withdraw(mine, after)
    return after.newest if after.newest != mine else None


def release(me: Claim, *, last: bool = False) -> Talk[None]:
    """Let others have it; with `last` nothing is left of it. Does nothing if it is not ours any more."""
    seen = yield None
    have = seen.newest
    if have is None or have.token != me.token:
        return
    if last:
        yield Drop(tuple(lock.number for lock in seen.locks))
        return
    yield Make(Lock(have.number + 1, me.token, me.by, me.purpose, have.since_s))
    yield Drop(tuple(lock.number for lock in seen.locks))


def _tidy(mine: Lock, seen: Seen) -> Talk[None]:
    if below := tuple(lock.number for lock in seen.locks if lock.number < mine.number):
        yield Drop(below)


def _withdraw(mine: Lock, seen: Seen) -> Talk[None]:
    if mine in seen.locks:
        yield Drop((mine.number,))


def commands(site: str, step: Step) -> list[Command]:
    """What a step does to the engine."""
    if isinstance(step, Make):
        label = msgspec.json.encode(step.lock).decode()
        return [CreateVolume(names.lock(site, step.lock.number), {names.SITE: site, names.LOCK: label})]
    return [RemoveVolume(names.lock(site, number)) for number in step.numbers] if step else []


def seen(site: str, now_s: float, volumes: Mapping[str, Mapping[str, str]]) -> Seen:
    """What the engine's volumes (labels by name) say of the lock. One that cannot be read is an expired one."""
    before = names.lock(site, "")
    numbers = sorted(
        int(n) for name in volumes if name.startswith(before) and (n := name.removeprefix(before)).isdigit()
    )
    return Seen(now_s, tuple(_read(n, volumes[names.lock(site, n)].get(names.LOCK, "")) for n in numbers))


def _read(number: int, label: str) -> Lock:
    try:
        return msgspec.json.decode(label, type=Lock)
    except msgspec.DecodeError:
        return Lock(number)


def busy(site: str, lock: Lock, now_s: float) -> str:
    """Why somebody has to wait."""
    return (
        f"site {site} is being {lock.purpose} by {lock.by} since {_clock(lock.since_s)} (expires in "
        f"{lock.left_s(now_s):.0f} s unless renewed)"
    )


def lost(site: str, now: Lock | None) -> str:
    """Why somebody has to stop, and what to do."""
    cure = "it may be half-way: deploy again, which begins by mending it"
    if now is None:
        return f"the lock of site {site} was removed while we were at work: the site may have been destroyed; {cure}"
    return (
        f"the lock of site {site} was lost to {now.by}, who took it at {_clock(now.since_s)} after ours had expired: "
        f"stopping before the next command; {cure}"
    )


def _clock(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%H:%M} UTC"
