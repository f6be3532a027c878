"""`pipeline publish`: what sites that pull should run, for all at once or in waves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from containers import bases, cli_rollout
from containers.agent.publish import Published, Publisher
from containers.agent.report import registry_of
from containers.cli_deploy import plans_of
from containers.cli_keys import key_options, keys_of
from containers.cli_rollout import policy_options
from containers.cli_shared import Context, Duration
from containers.console import Console, table
from containers.deploy import Operator
from containers.desired import layer_store
from containers.engine import Engine
from containers.fleet.drive import Attempt
from containers.fleet.folder import load_fleet
from containers.fleet.journal import Journal
from containers.fleet.policy import Policy
from containers.fleet.pulled import PulledAttempt
from containers.fleet.tables import listed
from containers.images import Base
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError

ACTION = "publish"  # in the options of a rollout
GOOD_FOR = "90d"
LOCAL_ENGINE = "unix:///var/run/docker.sock"
DAY_S = 86_400


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
            "action": ACTION, "good_for": str(self.good_for_s), "engine": self.engine, "keys": str(self.keys.absolute()),
            "extra": extra, "passphrase": named,
        }  # fmt: skip

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Means:
        """What `options` gave."""
        extra = tuple(Path(path) for path in options["extra"].splitlines())
        return cls(float(options["good_for"]), options["engine"], Path(options["keys"]), extra, options["passphrase"])


@dataclass
class Press:
    """Publishes with these means, from whatever thread."""

    means: Means
    console: Console
    _there: dict[str, set[str]] = field(default_factory=dict)  # by repository: what it is known to have

    def __post_init__(self) -> None:
        keys = keys_of(self.means.keys, self.means.extra, self.means.passphrase)
        self._signers, self._roots = keys.release_signers(), keys.roots()

    @contextmanager
    def at(self, site: SiteFile) -> Iterator[Publisher]:
        """What publishes into a site's repository."""
        days, there = max(1, int(self.means.good_for_s // DAY_S)), self._there.setdefault(where(site), set())
        with registry_of(site) as repo:
            yield Publisher(repo, self._signers, self._roots, layer_store(), SystemClock(), days, there)

    def base(self, site: SiteFile) -> Base:
        """The base image with its layers: from the cache, else from an engine that need not be the site's."""
        if known := bases.recall(layer_store().folder / bases.FOLDER, site.site.base_image):
            return known
        with ExitStack() as opened:
            at = Engine(self.means.engine)
            opened.callback(at.close)
            return Operator(site, at, self.console).whole_base()


def where(site: SiteFile) -> str:
    """The repository of a site, as operators reach it."""
    return site.site.agent.push or site.site.agent.repository


@click.command()
@click.option("--good-for", type=Duration(), default=GOOD_FOR, show_default=True,
              help="After that sites do not begin with it any more; what runs goes on.")  # fmt: skip
@click.option("--engine", default=LOCAL_ENGINE, show_default=True,
              help="An engine that has the base image, if the cache here has not.")  # fmt: skip
@policy_options
@key_options
@click.pass_obj
def publish(
    context: Context, good_for: float, engine: str, policy: Policy, wait_s: float,
    folder: Path, extra: tuple[Path, ...], passphrase: str,
) -> int:  # fmt: skip
    """Put what sites should run into their repository, signed; their agents fetch it within a minute or so.

    For sites with [agent] in their files; others are left out. Images are pushed once for all of them, secrets are sealed so that
    the site alone can read them. Publishing again, also the same, is a new release: a site tries again what failed there before.

    With --canary or --waves it is a rollout as those of `pipeline deploy`: the sites of a wave are published for, and what their
    agents report decides whether the next wave follows. Exit codes are those of deploy.

    \b
    Examples:
      pipeline publish --group eu --passphrase file:/run/secrets/keys
      pipeline publish --site hall1 --good-for 30d
      pipeline status --group eu --watch                     how far they are
      pipeline publish --canary 2 --waves 10%,100% --max-failures 3 --wave-soak 1h
      pipeline publish --waves 100%                          all at once, and wait for how it goes
    """
    sites = pulling(context.sites())
    means = Means(good_for, engine, folder, extra, passphrase)
    if policy.canary or policy.waves:
        return _in_waves(context, sites, means, policy, wait_s)
    if policy != Policy() or wait_s:
        raise ConfigError(
            "--max-parallel, --max-failures, --wave-soak and --wait are for waves, and without these everything is published at "
            "once: add --canary or --waves (--waves 100%: at once, and wait for how it goes)"
        )
    plans, press, made = plans_of(sites), Press(means, context.console), list[Published]()
    with ExitStack() as opened, context.console.working(f"publishing for {len(sites):,} sites") as working:
        publishers: dict[str, Publisher] = {}
        for site in sites:
            working(site.site.site)
            if where(site) not in publishers:
                publishers[where(site)] = opened.enter_context(press.at(site))
            made.append(publishers[where(site)].publish(site, plans[site.pipeline], press.base(site)))
    rows = [[p.site, str(p.version), p.what, p.agent, ", ".join(p.services)] for p in made]
    value = [
        {"site": p.site, "release": p.version, "pipeline": p.what, "agent": p.agent, "services": p.services}
        for p in made
    ]
    context.console.data(table(["SITE", "RELEASE", "PIPELINE", "AGENT", "SERVICES"], rows), {"published": value})
    return 0


def _in_waves(context: Context, sites: Sequence[SiteFile], means: Means, policy: Policy, wait_s: float) -> int:
    if alone := [s for s in sites if s.fleet is None]:
        raise ConfigError(
            f"{alone[0].path} is a site file, which stands alone: --canary and --waves are for the sites of a fleet"
        )
    release = ", ".join(sorted({f"{p.pipeline} {p.fingerprint}" for p in plans_of(sites).values()}))
    names = [s.site.site for s in sites]
    return cli_rollout.begin(
        context, attempt_of, release=release, sites=names, policy=policy, wait_s=wait_s, note=f"published {release}",
        options=means.options(),
    )  # fmt: skip


@contextmanager
def attempt_of(context: Context, of: Journal) -> Iterator[Attempt]:
    """What publishes for a site of a rollout, as the files are now, and waits for what its agent reports."""
    header, schedule = of.header, of.schedule
    sites = {s.site.site: s for s in load_fleet(cli_rollout.folder(context)).sites if s.site.site in header.sites}
    pulling(list(sites.values()))
    press, plans = Press(Means.of(header.options), context.console), plans_of(list(sites.values()))
    yield PulledAttempt(sites, plans, header.id, press.at, press.base, lambda: schedule.wave == len(schedule.quotas))


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
