"""Gates: whether a new container may stay, by what the engine sees of it and by what it says of its own work. Pure.

A container passes its gate when it is healthy and at work; afterwards, in the soak, it must stay so. Who ends, stands still while
its input goes on, or sends to the dead-letter topic what the version before could use, has failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from containers.rollout import Container
from containers.scrape import Readings
from pipelines import topics

HEALTHY_S_MIN = 1.0  # a service that was healthy for so long without a break is taken for healthy
ILL_S_MAX = 10.0  # how long a service may be unhealthy in the soak: a broker or a link may fail for a moment
STALL_S = 15.0  # input goes on, and for so long none of it is taken or time stands still
ERRORS_MAX = 0.1  # share of a service's records that may become dead letters
ERRORS_MIN = 5  # dead letters: fewer are no sign of anything
WORSE_MAX = 2.0  # times the share of the version before: bad devices are no fault of the new one
OTHER_LAYOUT = "schema"  # the reason of a dead letter that was written under another version of its schema
_NOT_YET = {
    "answers": "starting Kafka",
    "connected": "waiting for Kafka",
    "kafka": "waiting for Kafka",
    "assigned": "waiting for its partitions",
    "restored": "restoring state",
    "schemas": "waiting for a schema",
    "commands": "waiting for the command topic",
    "sources": "waiting for its devices",
    "mqtt": "waiting for its devices",
    "spool": "opening its spool",
}
Verdict = Literal["wait", "passed", "failed"]


@dataclass(frozen=True)
class Figures:
    """What a service says that it has done since its start."""

    taken: float = 0.0  # records of its inputs, heartbeats among them
    data: float = 0.0  # those that hold readings; of collect: readings. Bad ones count, too
    dead: Mapping[str, float] = field(default_factory=dict)  # reason -> dead letters
    waiting: float | None = None  # records of its inputs that it has not taken; None: unknown, or it has a good reason
    watermark: float = 0.0  # sum over all partitions: it moves when any does

    def share(self, since: Figures | None = None, forgiven: str = "") -> tuple[float, float, float]:
        """(dead letters, records, their ratio) after those of `since`, without letters of the reason `forgiven`."""
        then = since or Figures()
        ignored = self.dead.get(forgiven, 0.0) - then.dead.get(forgiven, 0.0)
        dead = sum(self.dead.values()) - sum(then.dead.values()) - ignored
        data = max(self.data - then.data - ignored, dead)
        return dead, data, dead / data if data else 0.0


@dataclass(frozen=True)
class Look:
    """A service at one moment."""

    at_s: float
    ended: str  # how, if it is not up or was restarted
    ill: str  # what it still waits for; empty if it is healthy
    figures: Figures | None  # None: it says nothing of itself


@dataclass(frozen=True)
class Policy:
    """What is demanded of a new container. With `soak_s` it has passed its gate and must stay well for so long."""

    site: str
    patience_s: float  # how long it may be unhealthy
    soak_s: float = 0.0
    errors_max: float = ERRORS_MAX
    forgiven: str = ""  # reason of dead letters that are not its fault
    before: Figures | None = None  # of the version that it replaces, at its end
    work: bool = True  # False: only its health counts


def look(at_s: float, seen: Container, said: Readings | None) -> Look:
    """What there is to see. A service that says nothing is as healthy as its engine finds it."""
    ended = ""
    if seen.state not in ("created", "running") or seen.restarts:
        ended = (
            "ended" if seen.state == "running" else f"ended with code {seen.exit_code}"
        )  # once it runs again, nobody knows
    if said is None:
        return Look(at_s, ended, "" if seen.health == "healthy" else "starting", None)
    missing = [_NOT_YET.get(name, name) for name, holds in said.conditions.items() if not holds]
    return Look(at_s, ended, missing[0] if missing else "", figures(seen.service, said))


def figures(service: str, said: Readings) -> Figures:
    """A service's figures, from its metrics."""
    dead = said.by("reason", "dead_letter_records_total", service=service)
    if service == "collect":
        return Figures(data=said.total("source_records_total") + sum(dead.values()), dead=dead)
    lags = said.values("consumer_lag_records")
    full = service == "upload" and said.total("spool_bytes") > 0  # it takes no more than the store takes from it
    return Figures(
        taken=said.total("consumed_records_total", service=service),
        data=said.total("consumed_records_total", service=service, kind="data"),
        dead=dead,
        waiting=sum(lags) if lags and not full else None,
        watermark=said.total("watermark_timestamp_seconds"),
    )


def judge(service: str, looks: Sequence[Look], policy: Policy) -> tuple[Verdict, str]:
    """Whether a container may stay, given all looks at it since it was started (or since the soak began), and if not why."""
    last, since = looks[-1], looks[0].at_s
    when = f"in the soak, after {last.at_s - since:.0f} s" if policy.soak_s else "while starting"
    if last.ended:
        return "failed", f"{service} {last.ended} {when}"
    if policy.work and (wrong := _errors(service, looks, policy) or _stalled(service, looks)):
        return "failed", wrong
    ill_s = last.at_s - max((n.at_s for n in looks if not n.ill), default=since)
    well_s = last.at_s - next((n.at_s for n in _spell(looks)), last.at_s)
    waits = last.ill or (_unproven(service, last, well_s) if policy.work and not policy.soak_s else "")
    if not waits and well_s >= HEALTHY_S_MIN and last.at_s - since >= policy.soak_s:
        return "passed", ""
    if ill_s >= policy.patience_s or last.at_s - since >= policy.soak_s + policy.patience_s:
        in_time = f"was not healthy within {policy.patience_s:g} s"
        was = f"was unhealthy for {ill_s:.0f} s in the soak" if policy.soak_s else in_time
        return "failed", f"{service} {was}" + (f": {waits}" if waits else "")
    return "wait", waits or "healthy"


def recent(looks: Sequence[Look], policy: Policy) -> list[Look]:
    """The looks that can still count for a verdict: the first, and those of the last while."""
    span_s = max(STALL_S, HEALTHY_S_MIN, policy.patience_s)
    old = sum(n.at_s <= looks[-1].at_s - span_s for n in looks) - 1  # the newest of them still begins a span
    return [*looks[:1], *looks[max(old, 1) :]]


def _spell(looks: Sequence[Look]) -> Sequence[Look]:
    """The looks since when it has been healthy without a break."""
    ill = max((i for i, n in enumerate(looks) if n.ill), default=-1)
    return looks[ill + 1 :]


def _unproven(service: str, last: Look, well_s: float) -> str:
    """Process has to show that it works: a record that it took, or that none waits."""
    f = last.figures
    if service != "process" or f is None or f.taken or f.waiting == 0 or well_s >= STALL_S:
        return ""
    return "looking for input" if f.waiting is None else f"{f.waiting:,.0f} records wait and none is taken yet"


def _errors(service: str, looks: Sequence[Look], policy: Policy) -> str:
    now, then = looks[-1].figures, looks[0].figures if policy.soak_s else None
    if now is None:
        return ""
    dead, data, share = now.share(then, policy.forgiven)
    before = policy.before.share()[2] if policy.before else 0.0
    limit = max(policy.errors_max, WORSE_MAX * before)
    if dead < ERRORS_MIN or share <= limit:
        return ""
    counts = {
        why: n - (then.dead.get(why, 0.0) if then else 0.0) for why, n in now.dead.items() if why != policy.forgiven
    }
    reasons = ", ".join(f"{n:,.0f} {why}" for why, n in sorted(counts.items()) if n)
    return (
        f"{service}: {dead:,.0f} of {data:,.0f} records since {'the soak began' if policy.soak_s else 'its start'} went to the "
        f"dead-letter topic {topics.dead(policy.site)} ({reasons}); {limit:.0%} may, the version before had {before:.0%}: "
        "each letter's header `message` says why, and so does the log"
    )


def _stalled(service: str, looks: Sequence[Look]) -> str:
    """What stands still; nothing if that cannot be told yet."""
    last = looks[-1]
    then, half = _figures_at(looks, last.at_s - STALL_S), _figures_at(looks, last.at_s - STALL_S / 2)
    now = last.figures
    if now is None or then is None or half is None:
        return ""
    if then.waiting is not None and now.waiting is not None and then.waiting < now.waiting and now.taken == then.taken:
        return (
            f"{service} stands still: none of {now.waiting:,.0f} records was taken for {STALL_S:g} s, and more came in"
        )
    if now.watermark == then.watermark > 0 and then.data < half.data < now.data:
        return (
            f"{service}: time stands still: its watermark did not move for {STALL_S:g} s, while {now.data - then.data:,.0f} "
            "records came in: are the devices' clocks right?"
        )
    return ""


def _figures_at(looks: Sequence[Look], at_s: float) -> Figures | None:
    """What it said last at a time; None if it was not looked at, did not answer or was not healthy."""
    before = [n for n in looks if n.at_s <= at_s]
    return before[-1].figures if before and not before[-1].ill else None
