"""`pipeline doctor`: asks the chosen sites' engines and looks at what a deploy needs here; `doctor` judges."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence

import click

from containers import bus
from containers import doctor as judge
from containers.acls import bearer
from containers.cli_shared import Context, Duration, shared
from containers.cli_site import engine_of
from containers.desired import check, read_secret, work_for
from containers.doctor import Finding, Seen
from containers.fetch import cache_dir
from containers.fleet.parallel import each
from containers.profiles import PROFILES
from containers.scrape import readings
from containers.site import SERVICES, SiteFile
from pipelines.clock import Clock, SystemClock
from pipelines.errors import SitestreamError
from pipelines.load import load
from pipelines.plan import Plan


@click.command()
@click.option("--timeout", type=Duration(), default="30s", show_default=True, help="For each site to answer.")
@shared
@click.pass_obj
def doctor(context: Context, timeout: float) -> int:
    """Look whether all is well with sites and with what a deploy needs here; tell the cure of what is not.

    Changes nothing. Exit code 1 if something has to be mended; warnings alone are 0.

    \b
    Examples:
      pipeline doctor --site hall1.toml
      pipeline doctor --group eu
      pipeline doctor -o json | jq -r '.sites[] | .site as $s | .findings[] | select(.level == "bad") | "\\($s): \\(.cure)"'
    """
    clock = SystemClock()
    sites = context.sites()
    with context.console.working(f"examining {len(sites):,} sites"):
        plans = {path: _planned(path) for path in dict.fromkeys(s.pipeline for s in sites)}
        found = each(sites, lambda site: _seen(site, clock), timeout_s=timeout)
        here = [_cache()]
        theirs = {s.site.site: _site(s, plans[s.pipeline], seen, clock) for s, seen in zip(sites, found, strict=True)}
    listed = [{"site": name, **judge.value(findings)} for name, findings in theirs.items()]
    reports = {**{f"site {name}": findings for name, findings in theirs.items()}, "this machine": here}
    context.console.data(judge.text(reports), {"sites": listed, "here": judge.value(here)})
    return 1 if any(judge.worst(findings) == "bad" for findings in reports.values()) else 0


def _planned(path: str) -> Plan | SitestreamError:
    try:
        return load(path).plan()
    except SitestreamError as e:
        return e


def _seen(site: SiteFile, clock: Clock) -> Seen:
    with engine_of(site) as engine:
        before_s = clock.now_ns() / 1e9
        facts = engine.facts()
        after_s = clock.now_ns() / 1e9
        base = site.site.base_image
        actual = engine.actual(site.site.site)
        running = {service: c.name for service, c in actual.current.items() if c.state == "running"}
        said = {service: readings(engine.said(name)) for service, name in running.items()}
        return Seen(facts, actual, base, engine.image_id(base) is not None, before_s, after_s, said)


def _site(site: SiteFile, plan: Plan | SitestreamError, seen: Seen | SitestreamError, clock: Clock) -> list[Finding]:
    deployed = isinstance(seen, Seen) and bool(seen.actual.records)
    services = list(PROFILES) if isinstance(plan, SitestreamError) else [p.service for p in work_for(plan, site)]
    return [
        *([judge.offline(seen)] if isinstance(seen, SitestreamError) else judge.of_engine(seen)),
        _checked(site, plan),
        *_secrets(site),
        *_certificates(site, services, clock, deployed=deployed),
    ]


def _checked(site: SiteFile, plan: Plan | SitestreamError) -> Finding:
    try:
        if isinstance(plan, SitestreamError):
            raise plan
        check(site, plan)
    except SitestreamError as e:
        return judge.wrong(e, "mend it, and look with  pipeline check")
    return Finding("ok", f"pipeline {plan.pipeline} and the site's settings are well")


def _secrets(site: SiteFile) -> list[Finding]:
    """One for each secret that is not well, or that all are."""
    given = {(s, name): ref for s in SERVICES for name, ref in getattr(site.site.services, s).secrets.items()}
    found = [f for (service, name), ref in given.items() if (f := _secret(site, service, name, ref))]
    return found or ([Finding("ok", f"all of {len(given)} secrets can be read")] if given else [])


def _secret(site: SiteFile, service: str, name: str, reference: str) -> Finding | None:
    try:
        read_secret(site, service, name, reference)
    except SitestreamError as e:
        return judge.wrong(e, "a deploy from this machine needs it; then look again")
    kind, _, where = reference.partition(":")
    if kind == "env":
        return None
    path = site.resolve(where)
    return judge.of_secret(f"{service}.{name}", str(path), path.stat().st_mode)


def _certificates(site: SiteFile, services: Sequence[str], clock: Clock, *, deployed: bool) -> Iterator[Finding]:
    if site.site.kafka.security != "mtls":
        return
    ours = bus.authority(site, clock)
    days: Mapping[str, int] = {}
    try:
        days = {issued.name: issued.left(clock).days for issued in ours.listed()}
    except ValueError as e:
        cure = "delete the .pem file that  pipeline certs show  cannot read: it is issued anew (but ca.pem: restore it)"
        yield Finding("bad", f"a certificate in {ours.folder} is damaged ({e})", cure)
        return
    yield from judge.of_certificates(days, [bearer(site.site.site, s) for s in services], deployed=deployed)


def _cache() -> Finding:
    path = cache_dir()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return judge.of_cache(path, shutil.disk_usage(there).free)
