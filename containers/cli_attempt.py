"""What a deploy or rollback does at one site, each by its own way: over its engine, or by what is published for its agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from containers import cli_rollout, saved_plan
from containers.agent.document import Rules
from containers.agent.planned import planned
from containers.agent.publish import Publisher
from containers.cli_means import Means, Press
from containers.cli_shared import Context
from containers.deploy import Operator
from containers.fleet.attempt import Begin, SiteAttempt
from containers.fleet.drive import Attempt
from containers.fleet.events import Outcome
from containers.fleet.folder import load_fleet
from containers.fleet.journal import FOLDER, Journal
from containers.fleet.pulled import PulledAttempt
from containers.fleet.tables import listed
from containers.site import SiteFile
from containers.walk import Rollout
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.plan import Plan
from pipelines.units import duration_s

LOGS = "sites"  # in the folder of a rollout: what was reported of each site


def plans_of(sites: Sequence[SiteFile]) -> dict[str, Plan]:
    """The plan of each pipeline that these sites have, by what the site files call it. Each file is run once."""
    return {name: load(name).plan() for name in dict.fromkeys(s.pipeline for s in sites)}


def release_of(sites: Sequence[SiteFile]) -> str:
    """What the files say is to run, in a few words."""
    return ", ".join(sorted({f"{p.pipeline} {p.fingerprint}" for p in plans_of(sites).values()}))


@dataclass(frozen=True)
class Change:
    """What is to be done to sites: `begin` and `finish` to those that are pushed to, `publish` for those that pull."""

    purpose: str
    begin: Begin
    publish: Callable[[Press, Publisher, SiteFile, str], object]  # the last is the id of the rollout
    finish: Callable[[Operator], None] = lambda _: None


def change_of(options: Mapping[str, str], sites: Sequence[SiteFile], mark: str = "") -> Change:
    """`mark` is the same whenever a rollout is taken up, so that no site goes back twice."""
    return _back(options, mark) if options.get("action") == "rollback" else _forward(options, sites)


def _back(options: Mapping[str, str], mark: str) -> Change:
    revision = int(options["revision"]) if "revision" in options else None

    def begin(operator: Operator) -> Rollout | None:
        return operator.roll_back(revision, timeout_s=rules_of(options, operator.site).health_timeout_s, mark=mark)

    def publish(press: Press, publisher: Publisher, site: SiteFile, rollout: str) -> None:
        publisher.publish_again(site, revision, rollout=rollout, rules=rules_of(options, site))

    return Change("rolled back", begin, publish)


def _forward(options: Mapping[str, str], sites: Sequence[SiteFile]) -> Change:
    plans, saved = plans_of(sites), options.get("plan")
    expected = saved_plan.load(Path(saved)).sites if saved else {}

    def begin(operator: Operator) -> Rollout | None:
        rules = rules_of(options, operator.site)
        return operator.deploy(
            plans[operator.site.pipeline], timeout_s=rules.health_timeout_s, roll_back="no_rollback" not in options,
            soak_s=rules.soak_s, as_planned=expected.get(operator.name),
        )  # fmt: skip

    def publish(press: Press, publisher: Publisher, site: SiteFile, rollout: str) -> None:
        plan, base = plans[site.pipeline], press.bases.of(site)
        if as_planned := expected.get(site.site.site):
            as_planned.check(site.site.site, planned(publisher.repo, site, plan, base, SystemClock()))
        publisher.publish(site, plan, base, rollout=rollout, rules=rules_of(options, site))

    return Change("deployed", begin, publish, lambda operator: operator.revoke(plans[operator.site.pipeline]))


def rules_of(options: Mapping[str, str], site: SiteFile) -> Rules:
    """When new containers may stay: what the command line says, else the site file. What ran before needs no soak."""
    r = site.site.rollout
    soak = "0s" if options.get("action") == "rollback" else r.soak
    return Rules(_seconds(options, "health_timeout", r.health_timeout), _seconds(options, "soak", soak), r.errors_max)


def _seconds(options: Mapping[str, str], name: str, of_site: str) -> float:
    return float(options[name]) if name in options else duration_s(of_site)


def pulled(
    change: Change, press: Press, sites: Mapping[str, SiteFile], rollout: str, last: Callable[[], bool]
) -> PulledAttempt:
    """What brings sites that pull up to date, see there."""

    def publish(publisher: Publisher, site: SiteFile) -> None:
        change.publish(press, publisher, site, rollout)

    return PulledAttempt(sites, rollout, press.at, publish, last)


@contextmanager
def attempt_of(context: Context, of: Journal, press: Press | None = None) -> Iterator[Attempt]:
    """What brings one site of a rollout up to date, as the files are now, by the site's way. `press`: its means, if it is just
    beginning; else they are those that it was begun with."""
    folder, header, schedule = cli_rollout.folder(context), of.header, of.schedule
    sites = {s.site.site: s for s in load_fleet(folder).sites if s.site.site in header.sites}
    pulls = [name for name, site in sites.items() if site.pulls]
    press = press or (_press(context, of, pulls) if pulls else None)
    change = change_of(header.options, list(sites.values()), mark=header.id)
    logs = folder / FOLDER / header.id / LOGS
    logs.mkdir(exist_ok=True)
    lock_timeout_s = float(header.options.get("lock_timeout", 0))
    push = SiteAttempt(sites, change.begin, change.finish, change.purpose, lock_timeout_s, logs)
    pull = press and pulled(change, press, sites, header.id, lambda: schedule.wave == len(schedule.quotas))

    def attempt(name: str, phase: Callable[[str], None]) -> Outcome:
        site = sites.get(name)
        return (pull if pull and site and site.pulls else push)(name, phase)

    yield attempt


def _press(context: Context, of: Journal, pulls: Sequence[str]) -> Press:
    means = Means.of(of.header.options)
    if means is None:
        raise ConfigError(
            f"{listed(pulls)}: an agent there pulls, and none did when rollout {of.header.id} was begun, so it has no keys to "
            "sign with: begin another with  pipeline deploy"
        )
    return Press(means, context.console)
