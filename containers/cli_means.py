"""What it takes to bring sites up to date that pull: keys that sign, an engine with the base image, for how long it is good."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import click

from containers import bases
from containers.agent.publish import Publisher
from containers.agent.report import registry_of, require_key
from containers.cli_keys import key_options, keys_of
from containers.cli_shared import Duration
from containers.console import Console
from containers.deploy import Operator
from containers.desired import layer_store
from containers.engine import Engine
from containers.fleet.tables import listed
from containers.images import Base
from containers.repository import artifact
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, Unavailable

GOOD_FOR = "90d"
LOCAL_ENGINE = "unix:///var/run/docker.sock"
DAY_S = 86_400
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Means:
    """What publishing takes besides the sites, as the options say it."""

    good_for_s: float
    engine: str
    keys: Path
    extra: tuple[Path, ...]
    passphrase: str

    def options(self) -> dict[str, str]:
        """As a rollout keeps them, so that it can be taken up from another folder. No passphrase: where it is."""
        kind, _, where = self.passphrase.partition(":")
        named = f"file:{Path(where).absolute()}" if kind == "file" else self.passphrase
        extra = "\n".join(str(path.absolute()) for path in self.extra)
        return {
            "good_for": str(self.good_for_s), "engine": self.engine, "keys": str(self.keys.absolute()), "extra": extra,
            "passphrase": named,
        }  # fmt: skip

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Means | None:
        """What `options` gave; None if no site of the rollout pulled when it was begun."""
        if "keys" not in options:
            return None
        extra = tuple(Path(path) for path in options["extra"].splitlines())
        return cls(float(options["good_for"]), options["engine"], Path(options["keys"]), extra, options["passphrase"])


engine_option = click.option(
    "--engine", default=LOCAL_ENGINE, show_default=True,
    help="For sites that pull: an engine that has the base image, if the cache here has not.",
)  # fmt: skip


def means_options(command: F) -> F:
    """Gives a command the options that say these, as one argument `means`; and those that all have."""

    @functools.wraps(command)
    def with_means(
        *args: Any, good_for: float, engine: str, folder: Path, extra: Any, passphrase: str, **more: Any
    ) -> Any:
        return command(*args, means=Means(good_for, engine, folder, extra, passphrase), **more)

    good_for = click.option(
        "--good-for", type=Duration(), default=GOOD_FOR, show_default=True,
        help="For sites that pull: after that they do not begin with it any more; what runs goes on.",
    )  # fmt: skip
    made: Any = good_for(engine_option(key_options(with_means)))
    return made  # type: ignore[no-any-return]  # a decorator gives what it was given


@dataclass
class Bases:
    """Base images with their layers, from whatever thread: each is looked for once, in the cache, else on an engine that need not
    be the site's."""

    engine: str
    console: Console
    _found: dict[str, Base] = field(default_factory=dict)
    _looking: Lock = field(default_factory=Lock)

    def of(self, site: SiteFile) -> Base:
        """That of a site."""
        name = site.site.base_image
        with self._looking:
            if name not in self._found:
                self._found[name] = self._look(site, name)
            return self._found[name]

    def _look(self, site: SiteFile, name: str) -> Base:
        if known := bases.recall(layer_store().folder / bases.FOLDER, name):
            return known
        try:
            with closing(Engine(self.engine)) as at:
                return Operator(site, at, self.console).whole_base()
        except Unavailable as e:
            raise Unavailable(
                f"{e}; the cache here has no base image {name}: name an engine that has it with --engine"
            ) from e


@dataclass
class Press:
    """Publishes with these means, from whatever thread. `ConfigError` if keys are missing or locked."""

    means: Means
    console: Console
    _there: dict[str, set[str]] = field(default_factory=dict)  # by repository: what it is known to have

    def __post_init__(self) -> None:
        self.bases = Bases(self.means.engine, self.console)
        keys = keys_of(self.means.keys, self.means.extra, self.means.passphrase)
        self._signers, self._roots = keys.release_signers(), keys.roots()

    def check(self, sites: Sequence[SiteFile], *, builds: bool = True) -> None:
        """See before anything is begun that all of them can be published for: they are enrolled, their repositories answer,
        and, if it `builds` images, the base image is there. `ConfigError`, `Unavailable`."""
        for site in sites:
            require_key(site)
        for site in {where(s): s for s in sites}.values():
            with registry_of(site) as repo:
                artifact.get_root(repo, 1)
        for site in sites if builds else ():
            self.bases.of(site)

    @contextmanager
    def at(self, site: SiteFile) -> Iterator[Publisher]:
        """What publishes into a site's repository."""
        days, there = max(1, int(self.means.good_for_s // DAY_S)), self._there.setdefault(where(site), set())
        with registry_of(site) as repo:
            yield Publisher(repo, self._signers, self._roots, layer_store(), SystemClock(), days, there)


def where(site: SiteFile) -> str:
    """The repository of a site, as operators reach it."""
    return site.site.agent.push or site.site.agent.repository


def pulling(sites: Sequence[SiteFile]) -> list[SiteFile]:
    """Those of the sites that pull; `ConfigError` if none does."""
    found = [s for s in sites if s.pulls]
    if not found:
        names = listed(s.site.site for s in sites)
        raise ConfigError(
            f"{names}: no agent there pulls anything: bring them up to date with  pipeline deploy , or name a repository as "
            "agent.repository in their files and enrol them"
        )
    return found
