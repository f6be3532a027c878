"""Sites that pull, in memory, and one operator: a real repository, real signatures, agents that work on simulated engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from containers.agent.publish import Published, Publisher
from containers.fleet.pulled import PulledAttempt
from containers.repository import artifact
from containers.repository.layout import Folder
from containers.site import SiteFile, load_site
from pipelines.clock import ManualClock
from tests.agent.world import LATER, World
from tests.containers.kit import SITE, write_site
from tests.repository.plant import RELEASE_KEYS, START, at, make_root

AGENT = '[agent]\nrepository = "registry.example/press"\npoll = "60s"\nkey = "{key}"\n'


@dataclass
class Pulling:
    """`number` is the release that files are for now; a turn of a site's agent takes it a minute."""

    folder: Path
    names: Sequence[str]
    number: int = 1
    clock: ManualClock = field(default_factory=lambda: ManualClock(at(START) + LATER * 10**9))
    published: list[tuple[str, int]] = field(default_factory=list)
    asleep: set[str] = field(default_factory=set)
    settled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repo = Folder(self.folder / "repository")
        self.worlds = {
            name: World(self.folder / name, clock=self.clock, site=name, shared=self.repo) for name in self.names
        }
        self.sites = {name: self._site(name) for name in self.names}
        for name in self.names:
            self.publisher(self.sites[name]).publish(self.sites[name], _no(), _no())
            self.worlds[name].agent.start()
            self.turn(name)
        self.published.clear()

    def _site(self, name: str) -> SiteFile:
        (self.folder / f"{name}.files").mkdir()
        text = SITE.replace("hall1", name) + AGENT.format(key=self.worlds[name].identity.public)
        return load_site(write_site(self.folder / f"{name}.files", text))

    def turn(self, name: str) -> None:
        """What a site's agent does in a minute; nothing if it is switched off."""
        if name not in self.asleep:
            self.worlds[name].agent.turn()

    def running(self, number: int) -> list[str]:
        """The sites at which a release runs."""
        return [n for n, w in self.worlds.items() if w.engine.running == w.expected(number)]

    def publisher(self, site: SiteFile) -> Publisher:
        """The operator's."""
        return _Publisher(self.repo, RELEASE_KEYS[:1], [make_root()], _no(), self.clock, 90, set(), self)

    def attempt(self, rollout: str, *, last: Any = lambda: True, what: Any = None) -> PulledAttempt:
        """As `pipeline publish` has it; while it waits, a minute goes by for the site that it waits for."""

        @contextmanager
        def publisher(site: SiteFile) -> Iterator[Publisher]:
            self.now = site.site.site
            yield self.publisher(site)

        def pause(seconds: float) -> None:
            self.clock.advance(60)
            self.turn(self.now)

        def publish(to: Publisher, site: SiteFile) -> None:
            to.publish(site, _no(), _no(), rollout=rollout)

        return PulledAttempt(self.sites, rollout, publisher, what or publish, last, self.clock, pause)


@dataclass
class _Publisher(Publisher):
    """Publishes what the simulated engines can run: the images of the files are not made."""

    of: Any = None

    def publish(self, site: SiteFile, plan: Any, base: Any, *, rollout: str = "", rules: Any = None) -> Published:
        """See `Publisher`."""
        name, fleet = site.site.site, self.of
        version = max(fleet.number, self._newest(artifact.site_name(name)) + 1)
        fleet.worlds[name].publish(fleet.number, version=version, rollout=rollout)
        fleet.published.append((name, fleet.number))
        return Published(name, version, "", (), 0)

    def settle(self, site: SiteFile, *, also: str = "") -> int:
        """See `Publisher`."""
        self.of.settled.append(site.site.site)
        return 0


def _no() -> Any:
    return None
