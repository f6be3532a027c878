"""How the sites of a fleet are shown, for people and for programs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from containers import rollout
from containers.agent.status import Reported, about
from containers.console import Colour, coloured, table
from containers.rollout import Actual, Container
from containers.site import SiteFile
from pipelines.errors import SitestreamError

Reading = Actual | SitestreamError  # why it could not be read
BROKEN_OFF = "A deploy was broken off, or somebody stopped a container: deploy again to mend it."
_COLOURS: Mapping[str, Colour] = {
    "healthy": "green", "unhealthy": "red", "offline": "red", "broken off": "red", "silent": "red",
    "held back": "red", "trouble": "red",
}  # fmt: skip


def sites_text(sites: Sequence[SiteFile]) -> str:
    """A line for each site."""
    rows = [[s.site.site, ", ".join(s.groups) or "-", s.site.engine] for s in sites]
    return table(["SITE", "GROUPS", "ENGINE"], rows)


def sites_value(sites: Sequence[SiteFile]) -> dict[str, object]:
    """The same for programs."""
    return {"sites": [_of_site(s) | {"file": str(s.path)} for s in sites]}


def fleet_text(sites: Sequence[SiteFile], found: Sequence[Reading]) -> str:
    """How many sites are how, then a line for each; one that was read, in detail."""
    if len(sites) == 1 and isinstance(found[0], Actual):
        return site_text(sites[0].site.site, found[0])
    states = [_state(reading) for reading in found]
    counts = Counter(word for word, _ in states)
    summary = ", ".join(f"{n:,} {word}" for word, n in counts.most_common())
    rows = [
        [s.site.site, *_numbers(reading), coloured(word, _COLOURS.get(word, "yellow")) + (f": {why}" if why else "")]
        for s, reading, (word, why) in zip(sites, found, states, strict=True)
    ]
    head = ["SITE", "REVISION", "HEALTHY", "STATE"]
    return f"{len(sites):,} site{'s' * (len(sites) > 1)}: {summary}\n\n{table(head, rows)}"


def _numbers(reading: Reading) -> tuple[str, str]:
    if isinstance(reading, SitestreamError):
        return "-", "-"
    now = reading.current.values()
    healthy = sum(c.state == "running" and c.health == "healthy" for c in now)
    return (str(reading.revision), f"{healthy} of {len(now)}") if now else ("-", "-")


def _state(reading: Reading) -> tuple[str, str]:
    """In a word, and what is to be said about it."""
    if isinstance(reading, SitestreamError):
        return "offline", " ".join(str(reading).split())
    now = reading.current.values()
    if isinstance(reading, Reported) and (told := _told(reading)):
        return told
    if not now:
        return "nothing deployed", ""
    if rollout.repair(reading):
        return "broken off", "deploy again to mend it"
    if trouble := [f"{c.service} {c.trouble}" for c in now if c.trouble]:
        return "unhealthy", ", ".join(trouble)
    if starting := [c.service for c in now if c.health != "healthy"]:
        return "starting", ", ".join(starting)
    changed = [c.service for c in now if c.drift]
    return ("changed by hand", ", ".join(changed)) if changed else ("healthy", "")


def _told(reading: Reported) -> tuple[str, str] | None:
    """What is to be said of a site that pulls before all that is said of its services."""
    status = reading.status
    assert status is not None
    if reading.silent:
        return "silent", f"its agent reported last {about(reading.age_s)} ago"
    if status.trouble:
        return "held back" if status.newest != status.running else "trouble", status.trouble
    return ("updating", f"release {status.newest}") if status.newest != status.running else None


def _pulled_lines(reading: Reported) -> list[str]:
    """What the agent says of itself."""
    s = reading.status
    assert s is not None
    own = f" {s.agent} ({s.agent_image})" if s.agent_image else f" {s.agent}"
    lines = [
        f"release {s.running or 'none'}, newest {s.newest or 'none'}, reported {about(reading.age_s)} ago by its agent{own}"
    ]
    return [*lines, *([s.trouble] if s.trouble else [])]


def _pulled_value(reading: Reported) -> dict[str, object]:
    s = reading.status
    assert s is not None
    return {
        "release": s.running, "newest_release": s.newest, "trouble": s.trouble, "reported_s_ago": round(reading.age_s),
        "agent": s.agent, "agent_image": s.agent_image, "silent": reading.silent,
    }  # fmt: skip


def site_text(name: str, actual: Actual) -> str:
    """One site: a line for each service."""
    now = actual.current.values()
    lines = [f"site {name}, revision {actual.revision}" if now else f"site {name}: nothing is deployed"]
    if isinstance(actual, Reported):
        lines += _pulled_lines(actual)
    if now:
        head = ["SERVICE", "STATE", "HEALTH", "RESTARTS", "SINCE", "IMAGE", "METRICS"]
        lines += ["", table(head, [_row(c) for c in now])]
    if rollout.repair(actual):
        lines += ["", BROKEN_OFF]
    if changed := [f"  {c.service}: {', '.join(map(str, c.drift))}" for c in now if c.drift]:
        lines += ["", "Changed by hand (pipeline deploy mends it):", *changed]
    return "\n".join(lines)


def _row(c: Container) -> list[str]:
    health = coloured(c.health, "green" if c.health == "healthy" else "red" if c.health == "unhealthy" else "yellow")
    state = c.state if c.state == "running" else coloured(c.state, "red")
    return [
        c.service,
        state,
        health if c.state == "running" else "-",
        str(c.restarts),
        c.started_at[:19] + "Z",
        c.image,
        c.address or "-",
    ]


def site_value(name: str, actual: Actual) -> dict[str, object]:
    """One site for programs."""
    services = [_facts(c) for c in actual.current.values()]
    broken_off = bool(rollout.repair(actual))
    pulled = _pulled_value(actual) if isinstance(actual, Reported) else {}
    return {"site": name, "revision": actual.revision, "services": services, "broken_off": broken_off} | pulled


def fleet_value(sites: Sequence[SiteFile], found: Sequence[Reading]) -> dict[str, object]:
    """Many sites for programs: each as `site_value` has it, or with `offline` and why."""
    return {"sites": [_of_site(s) | _read(s, reading) for s, reading in zip(sites, found, strict=True)]}


def _of_site(site: SiteFile) -> dict[str, object]:
    return {"site": site.site.site, "groups": list(site.groups), "engine": site.site.engine}


def _read(site: SiteFile, reading: Reading) -> dict[str, object]:
    if isinstance(reading, SitestreamError):
        return {"state": "offline", "offline": str(reading)}
    return {"state": _state(reading)[0], **site_value(site.site.site, reading)}


def _facts(c: Container) -> dict[str, object]:
    return {
        "service": c.service, "state": c.state, "health": c.health, "restarts": c.restarts, "since": c.started_at,
        "image": c.image, "revision": c.revision, "pipeline": c.pipeline, "container": c.name, "id": c.id,
        "metrics": f"http://{c.address}/metrics" if c.address else None, "drift": [str(d) for d in c.drift],
    }  # fmt: skip
