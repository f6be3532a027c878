"""Brings one site of a rollout up to date: what `drive.Driver` has its threads do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from containers.deploy import Operator
from containers.engine import Engine
from containers.fleet.events import Kind, Outcome
from containers.rollout import State
from containers.site import SiteFile
from containers.walk import Rollout
from pipelines.errors import ConfigError

KINDS: Mapping[State, Kind] = {"done": "done", "refused": "failed", "rolled back": "failed", "broken": "broken"}
Begin = Callable[[Operator], Rollout | None]
"""Makes the rollout of one site; None if there is nothing to do. Called while nobody else may change the site."""


@dataclass
class SiteReport:
    """What is done to a site, to a file."""

    path: Path

    def __call__(self, text: str, *, bad: bool = False) -> None:
        """One line, or several of a log."""
        with self.path.open("a") as file:
            file.write(text + "\n")


@dataclass
class SiteAttempt:
    """An attempt at any of `sites`, in whatever thread. `logs` is the folder for what is reported of each."""

    sites: Mapping[str, SiteFile]
    begin: Begin
    finish: Callable[[Operator], None]  # after it went well
    purpose: str  # 'deployed', 'rolled back': what others are told who find the site locked
    lock_timeout_s: float
    logs: Path

    def __call__(self, name: str, phase: Callable[[str], None]) -> Outcome:
        """Connects, takes the site's lock, and has done what is to be done."""
        if name not in self.sites:
            raise ConfigError(f"site {name} is no longer in the fleet folder")
        site = self.sites[name]
        report = SiteReport(self.logs / f"{name}.log")
        with closing(Engine(site.site.engine, site.site.engine_tls, site.folder)) as engine:
            operator = Operator(site, engine, report)
            with operator.alone(self.purpose, wait_s=self.lock_timeout_s):
                return self._carried_out(operator, phase)

    def _carried_out(self, operator: Operator, phase: Callable[[str], None]) -> Outcome:
        todo = self.begin(operator)
        if todo:
            todo.progress = phase
        state: State = todo.run() if todo else "done"
        if todo and state != "broken":
            operator.prune()
        if state == "done":
            self.finish(operator)
        kind: Kind = KINDS[state] if todo else "unchanged"
        revision = operator.engine.actual(operator.name).revision
        return Outcome(kind, todo.why if todo else "", revision, operator.shipped_bytes)
