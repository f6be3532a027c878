"""Brings one site that pulls up to date in a rollout: publishes for it, then reads its reports until they tell how it went.

What is done can be repeated: the document in the repository bears the id of the rollout, so nothing is published twice for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from containers.agent.publish import Publisher, Standing
from containers.agent.report import said_by
from containers.agent.status import SILENT_S, Reported, Status, about, reported
from containers.fleet.events import Outcome
from containers.site import SiteFile
from pipelines.clock import Clock, SystemClock
from pipelines.errors import ConfigError, Unavailable
from pipelines.units import duration_s

LOOK_S = 5.0  # from one look at a site's report to the next
TAKEN_POLLS, TAKEN_S = 3, 60.0  # after so many of its polls and so long a site that is awake has taken a release up


@dataclass
class PulledAttempt:
    """An attempt at any of `sites`, in whatever thread. `publish` puts there what a site is to run, for the rollout of this id.
    `last`: whether no further wave waits for how this one goes."""

    sites: Mapping[str, SiteFile]
    rollout: str
    publisher: Callable[[SiteFile], AbstractContextManager[Publisher]]
    publish: Callable[[Publisher, SiteFile], object]
    last: Callable[[], bool]
    clock: Clock = field(default_factory=SystemClock)
    pause: Callable[[float], None] = time.sleep

    def __call__(self, name: str, phase: Callable[[str], None]) -> Outcome:
        """Publishes, unless that was done for this rollout, and waits for the verdict of the site's agent.

        `Unavailable` if the site is silent, or does not take the release up. While waves are to come nothing is published for a
        site that is silent: it could begin at any time with what the others have shown to be bad.
        """
        if name not in self.sites:
            raise ConfigError(f"site {name} is no longer in the fleet folder")
        site = self.sites[name]
        with self.publisher(site) as publisher:
            mine, away = self._mine(publisher, name), self._away(publisher, site)
            if mine is None:
                if away and not self.last():
                    raise Unavailable(f"{away}: nothing is published for it before the last wave, or until it is back")
                phase("publish")
                mine = self._published(publisher, site)
            if away:
                raise Unavailable(f"{away}: release {mine.version} is there for it")
            return self._followed(publisher, site, mine, phase)

    def _mine(self, publisher: Publisher, name: str) -> Standing | None:
        found = publisher.standing(name)
        return found if found and found.document.rollout == self.rollout else None

    def _away(self, publisher: Publisher, site: SiteFile) -> str:
        """Why a site is not expected to take anything up now; empty if it is."""
        try:
            said = self._said(publisher, site)
        except Unavailable as e:
            return str(e)
        return f"its agent reported last {about(said.age_s)} ago" if said.silent else ""

    def _said(self, publisher: Publisher, site: SiteFile) -> Reported:
        return reported(said_by(publisher.repo, site), self.clock.now_ns() / 1e9)

    def _published(self, publisher: Publisher, site: SiteFile) -> Standing:
        name = site.site.site
        self.publish(publisher, site)
        found = self._mine(publisher, name)
        if found is None:
            raise Unavailable(f"another operator published for {name} at the same time: see  pipeline history")
        return found

    def _followed(self, publisher: Publisher, site: SiteFile, mine: Standing, phase: Callable[[str], None]) -> Outcome:
        begun_s, said = self.clock.monotonic_s(), None
        while True:
            try:
                said = self._said(publisher, site)
            except Unavailable:
                phase("the repository does not answer")  # the site waits for it just as we do
            if said and said.status and (found := verdict(said.status, mine.version)):
                if found.kind == "done":
                    publisher.settle(site)
                return found
            if found := overdue(said, mine, duration_s(site.site.agent.poll), self.clock.monotonic_s() - begun_s):
                return found
            taken = said and said.status and said.status.newest >= mine.version
            phase(f"its agent {'is at work' if taken else 'has not looked yet'}")
            self.pause(LOOK_S)


def verdict(said: Status, version: int) -> Outcome | None:
    """What a site has to say of a release; None if it has not come to an end with it. One that is newer counts for it, too."""
    revision = said.actual.revision
    if said.running >= version:
        newer = f"release {said.running}, which is newer, runs" if said.running > version else ""
        return Outcome("done", newer, revision)
    if said.failed < version:
        return None
    ill = any(c.trouble for c in said.actual.current.values())
    return Outcome("broken" if ill else "failed", said.trouble or f"release {said.failed} failed", revision)


def overdue(said: Reported | None, mine: Standing, poll_s: float, spent_s: float) -> Outcome | None:
    """Whether a release for which we have waited so long counts as failed; `Unavailable` if the site counts as away."""
    version, status = mine.version, said.status if said else None
    taken_s = TAKEN_POLLS * poll_s + TAKEN_S
    if status is None or status.newest < version:
        if spent_s < taken_s:
            return None
        if status and status.trouble and status.at_s > datetime.fromisoformat(mine.document.at).timestamp():
            return Outcome("failed", f"it does not take release {version}: {status.trouble}", status.actual.revision)
        raise Unavailable(f"it has not taken release {version} up within {about(taken_s)}, which is there for it")
    rules = mine.document.rules
    whole_s = taken_s + SILENT_S + len(mine.document.services) * rules.health_timeout_s + rules.soak_s
    if spent_s < whole_s:
        return None
    why = f"release {version} does not run after {about(spent_s)}"
    if said is None or said.silent:
        raise Unavailable(f"{why}, and its agent is silent")
    return Outcome("failed", f"{why}: {status.trouble or 'its agent is still at work'}", status.actual.revision)
