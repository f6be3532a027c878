"""How a rollout is shown while it goes on: a live table, plain lines, or lines of JSON; and how it stands, in a few lines."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import click
import msgspec
from rich.console import Console as Rich
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from containers.console import JSON_VERSION, Colour, Console, coloured, table
from containers.fleet.events import Aborted, Event, Finished, Paused, Resumed, Started, Superseded
from containers.fleet.schedule import STOPPED, Schedule, SiteStatus, State
from pipelines.clock import Clock, SystemClock

REFRESH_S = 0.25
LINES_AROUND = 5  # of the terminal that are not rows of the live table
SITES_SHOWN_MAX = 20  # in `text`
LOOKS: dict[State, Colour] = {  # those that need a look come first
    "working": "cyan", "broken": "red", "failed": "red", "pending": "yellow", "skipped": "yellow", "waiting": "yellow",
    "superseded": "yellow", "done": "green", "unchanged": "green",
}  # fmt: skip
_RANK = {state: rank for rank, state in enumerate(LOOKS)}


class Watcher:
    """Is told, by one thread, what happens in a rollout. This one keeps it to itself."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def event(self, event: Event, schedule: Schedule) -> None:
        """Something happened; `schedule` is as it is after it."""

    def phase(self, site: str, phase: str) -> None:
        """An attempt has come to a phase."""

    def refresh(self, schedule: Schedule) -> None:
        """Time went by."""

    def interrupted(self, schedule: Schedule) -> None:
        """The operator pressed Ctrl-C for the first time."""


def watcher(console: Console, rollout: str) -> Watcher:
    """The one that suits who is listening."""
    if console.output == "json":
        return JsonLines(rollout)
    return LiveTable(console.rich(), rollout) if console.rich().is_terminal else Lines(console, rollout)


@dataclass
class Lines(Watcher):
    """A line on stderr for each site that has an outcome, and whenever the rollout as a whole changes."""

    console: Console
    rollout: str
    _begun_s: dict[str, float] = field(default_factory=dict)
    _wave: int = 1
    _stopped: bool = False

    def event(self, event: Event, schedule: Schedule) -> None:
        """See `Watcher.event`."""
        match event:
            case Started(site=site, at_s=at_s):
                self._begun_s[site] = at_s
            case Finished():
                self._finished(event, schedule)
            case Paused() | Resumed() | Aborted():
                self._tell(f"{schedule.status}{f' by {event.who}' if event.who else ''}")
            case Superseded(by=by):
                self._tell(f"{by} is newer and takes over what was not begun")
        if schedule.status == "halted" and not self._stopped:
            self._stopped = True
            self._tell(f"halted, since {_sites(schedule.failures)} failed: nothing more is started", bad=True)
        if schedule.wave != self._wave and schedule.status == "running":
            self._wave = schedule.wave
            self._tell(f"wave {schedule.wave} of {len(schedule.quotas)} begins")

    def interrupted(self, schedule: Schedule) -> None:
        """See `Watcher.interrupted`."""
        self._tell(f"interrupted: waiting for {_sites(schedule.counts['working'])}; Ctrl-C again leaves at once")

    def _finished(self, event: Finished, schedule: Schedule) -> None:
        outcome, seconds = event.outcome, event.at_s - self._begun_s.pop(event.site, event.at_s)
        revision = f", revision {outcome.revision}" if outcome.revision else ""
        message = f": {one_line(outcome.message)}" if outcome.message else ""
        self.console(
            f"{event.site}: {outcome.kind} after {seconds:.0f} s{revision}{message}  [{counts(schedule)}]",
            bad=outcome.kind in ("failed", "broken"),
        )

    def _tell(self, text: str, *, bad: bool = False) -> None:
        self.console(f"rollout {self.rollout}: {text}", bad=bad)


@dataclass
class JsonLines(Watcher):
    """An object a line on stdout for each event and phase."""

    rollout: str

    def event(self, event: Event, schedule: Schedule) -> None:
        """See `Watcher.event`."""
        self._write({**msgspec.to_builtins(event), "status": schedule.status, "wave": schedule.wave})

    def phase(self, site: str, phase: str) -> None:
        """See `Watcher.phase`."""
        self._write({"event": "phase", "site": site, "phase": phase})

    def _write(self, value: dict[str, object]) -> None:
        click.echo(json.dumps({"version": JSON_VERSION, "rollout": self.rollout, **value}))


@dataclass
class LiveTable(Watcher):
    """As many sites as the terminal has room for, those that work or failed first; above them how many there are of each."""

    console: Rich
    rollout: str
    clock: Clock = field(default_factory=SystemClock)
    _phases: dict[str, str] = field(default_factory=dict)
    _shown_s: float = 0.0
    _note: str = ""

    def __post_init__(self) -> None:
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def event(self, event: Event, schedule: Schedule) -> None:
        """See `Watcher.event`."""
        if isinstance(event, Finished):
            self._phases.pop(event.site, None)

    def phase(self, site: str, phase: str) -> None:
        """See `Watcher.phase`."""
        self._phases[site] = phase

    def refresh(self, schedule: Schedule) -> None:
        """See `Watcher.refresh`."""
        now_s = self.clock.monotonic_s()
        if now_s - self._shown_s >= REFRESH_S:
            self._shown_s = now_s
            self._live.update(self.picture(schedule), refresh=True)

    def interrupted(self, schedule: Schedule) -> None:
        """See `Watcher.interrupted`."""
        self._note = "interrupted: Ctrl-C again leaves at once"

    def picture(self, schedule: Schedule) -> Group:
        """What is shown now."""
        head = f"rollout {self.rollout}: {schedule.status}, wave {schedule.wave} of {len(schedule.quotas)}"
        rows = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("SITE", "WAVE", "STATE", "PHASE", "SECONDS", "MESSAGE"):
            rows.add_column(
                name, no_wrap=True, overflow="ellipsis", justify="right" if name in ("WAVE", "SECONDS") else "left"
            )
        for site, status in first(schedule, max(1, self.console.height - LINES_AROUND)):
            rows.add_row(*self._row(site, status, schedule.now_s))
        return Group(Text(head), Text(counts(schedule)), Text(self._note, style="yellow"), rows)

    def _row(self, site: str, status: SiteStatus, now_s: float) -> list[Text]:
        working = status.state == "working"
        message = one_line(status.outcome.message) if status.outcome else ""
        return [
            Text(site),
            Text(str(status.wave or "")),
            Text(status.state, style=LOOKS[status.state]),
            Text(one_line(self._phases.get(site, ""))),
            Text(f"{now_s - status.since_s:.0f}" if working else ""),
            Text(message),
        ]


def first(schedule: Schedule, rows_max: int) -> list[tuple[str, SiteStatus]]:
    """The sites to be shown where there is room for so many: what needs a look first, of these the oldest."""
    return heapq.nsmallest(rows_max, schedule.sites.items(), key=lambda s: (_RANK[s[1].state], s[1].since_s))


def counts(schedule: Schedule) -> str:
    """'12 working, 3 failed, 985 waiting'."""
    return count_text({str(state): n for state, n in schedule.counts.items()})


def count_text(of: Mapping[str, int]) -> str:
    """'3 failed, 985 done'."""
    return ", ".join(f"{of[state]:,} {state}" for state in LOOKS if of.get(state))


def text(rollout: str, schedule: Schedule, word: str) -> str:
    """How a rollout stands, for people. `word`: in a word."""
    shown = first(schedule, SITES_SHOWN_MAX)
    lines = [f"rollout {rollout}: {word}; {counts(schedule)}"]
    if len(schedule.quotas) > 1 and schedule.status not in STOPPED:
        lines.append(f"wave {schedule.wave} of {len(schedule.quotas)}")
    lines += ["", table(["SITE", "STATE", "WAVE", "TRIES", "REVISION", "MESSAGE"], list(_cells(shown)))]
    if more := len(schedule.sites) - len(shown):
        lines.append(f"and {more:,} more: -o json lists them all")
    return "\n".join(lines)


def _cells(shown: Iterable[tuple[str, SiteStatus]]) -> Iterable[list[str]]:
    for site, s in shown:
        revision = s.outcome.revision if s.outcome else 0
        message = f"superseded by {s.superseded_by}" if s.state == "superseded" else s.outcome and s.outcome.message
        yield [
            site, coloured(s.state, LOOKS[s.state]), str(s.wave or "-"), str(s.attempts), str(revision or "-"),
            one_line(message or ""),
        ]  # fmt: skip


def value(rollout: str, schedule: Schedule, word: str) -> dict[str, object]:
    """How a rollout stands, for programs."""
    return {
        "rollout": rollout,
        "result": word,
        "status": schedule.status,
        "wave": schedule.wave,
        "waves": len(schedule.quotas),
        "counts": {state: n for state, n in schedule.counts.items() if n},
        "sites": {site: _facts(s) for site, s in schedule.sites.items()},
    }


def _facts(s: SiteStatus) -> dict[str, object]:
    facts: dict[str, object] = {"state": s.state, "wave": s.wave, "attempts": s.attempts}
    if s.outcome is not None:
        facts["outcome"] = msgspec.to_builtins(s.outcome)
    if s.superseded_by:
        facts["superseded_by"] = s.superseded_by
    return facts


def one_line(message: str) -> str:
    """A message without what would move the cursor."""
    return "".join(c if c.isprintable() else " " for c in message).strip()


def _sites(n: int) -> str:
    return "1 site" if n == 1 else f"{n:,} sites"
