"""What is well with a site and what is not, each with its cure. Pure: `cli_doctor` asks, this judges."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from containers import rollout
from containers.console import Colour, coloured, table
from containers.facts import Facts
from containers.profiles import BROKER
from containers.rollout import Actual, Container
from containers.scrape import Readings
from pipelines.errors import SitestreamError

Level = Literal["ok", "warn", "bad"]
COLOURS: Mapping[Level, Colour] = {"ok": "green", "warn": "yellow", "bad": "red"}
API_MIN = (1, 41)  # Docker 20.10
CLOCK_WARN_S, CLOCK_BAD_S = 5.0, 60.0
CERTIFICATE_WARN_DAYS = 30
BROKER_FREE_BAD_BYTES = 10**9
CACHE_WARN_BYTES, CACHE_BAD_BYTES = 5 * 10**9, 5 * 10**8
SLOW_DRIVERS = {"vfs": "copies all of an image for each container", "devicemapper": "has been given up by Docker"}
_KERNEL = "reboot the site's machine with  cgroup_enable=memory cgroup_memory=1  in its kernel's command line"
_LIMITS = {
    "memory": ("memory", f"{_KERNEL} (on a Raspberry Pi: /boot/firmware/cmdline.txt)"),
    "pids": ("the number of processes", "run a kernel with CONFIG_CGROUP_PIDS, with its pids controller on"),
    "cpu": ("processor time", "run a kernel with CONFIG_CFS_BANDWIDTH, with its cpu controller on"),
}
_BROKER = "see that Kafka is up and its address right as the service has it:  pipeline logs {service}"
_DEVICES = "see that the devices' broker is up and its address right in the pipeline or the site's file:  pipeline logs {service}"
_CONDITIONS = {  # what services say of themselves that is not so: what it means, and its cure
    "answers": ("does not answer", "look again in a minute; then  pipeline logs {service}"),
    "kafka": ("does not reach Kafka", _BROKER),
    "connected": ("does not reach Kafka", _BROKER),
    "sources": ("does not reach its devices", _DEVICES),
    "mqtt": ("does not reach the devices' broker", _DEVICES),
    "spool": (
        "cannot write to its spool",
        "make room on the disk of the site's machine; see why:  pipeline logs {service}",
    ),
    "restored": ("is still restoring its state", "look again in a minute; then  pipeline logs {service}"),
    "schemas": (
        "waits for a schema",
        "see that the schema registry is up, and its address and account right in the pipeline:  pipeline logs {service}",
    ),
    "assigned": ("has no partition yet", "look again in a minute; then  pipeline logs {service}"),
    "commands": ("does not hear the command topic yet", "look again in a minute; then  pipeline logs {service}"),
}
_KNOWN_WARNINGS = {
    "swap limit": "harmless while the machine has no swap; else boot it with  swapaccount=1",
    "bridge-nf-call": "modprobe br_netfilter  on the site's machine, and name it in /etc/modules-load.d",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    cure: str = ""  # what to do, unless it is ok


@dataclass(frozen=True)
class Seen:
    """What a look at a site's engine showed; the facts came between the two times by the clock here."""

    facts: Facts
    actual: Actual
    base_image: str
    has_base: bool
    before_s: float
    after_s: float
    said: Mapping[str, Readings | None] = field(
        default_factory=dict
    )  # of each running service; None if it did not answer


def of_engine(seen: Seen) -> Iterator[Finding]:
    """The engine and what runs on it."""
    yield _version(seen.facts)
    yield of_clock(seen.facts.time_s, seen.before_s, seen.after_s)
    yield _storage(seen.facts)
    yield from _protection(seen.facts)
    if seen.has_base:
        yield Finding("ok", f"base image {seen.base_image} is there")
    else:
        cure = "where the engine has no way to a registry, docker load it there"
        yield Finding("warn", f"base image {seen.base_image} is not there: it will be pulled", cure)
    yield from of_services(seen.actual)
    yield from of_broker(seen.said.get(BROKER.service))
    yield from of_said(seen.said)


def offline(error: SitestreamError) -> Finding:
    """An engine that cannot be asked."""
    cure = "see that the machine is up, the way to it open, its engine at work, and `engine` in the site's file correct"
    return Finding("bad", _line(error), cure)


def _version(found: Facts) -> Finding:
    said = f"Docker {found.version}, API {_dotted(found.api)}"
    if found.api >= API_MIN:
        return Finding("ok", said)
    return Finding("bad", f"{said} is too old", f"bring the engine to one with API {_dotted(API_MIN)}: Docker 20.10")


def of_clock(there_s: float, before_s: float, after_s: float) -> Finding:
    """The engine's clock, read between two times of the clock here: by how much at least they differ."""
    ahead = there_s > after_s
    off_s = max(there_s - after_s, before_s - there_s, 0.0)
    if off_s <= CLOCK_WARN_S:
        return Finding("ok", "its clock agrees with the one here")
    word = "ahead of" if ahead else "behind"
    cure = "set both by NTP: timedatectl set-ntp true  (windows, certificates and locks go by these clocks)"
    return Finding("bad" if off_s > CLOCK_BAD_S else "warn", f"its clock is {off_s:,.0f} s {word} the one here", cure)


def _storage(found: Facts) -> Finding:
    said = f"storage driver {found.driver}, images take {size(found.image_bytes)}"
    if why := SLOW_DRIVERS.get(found.driver):
        cure = "set  storage-driver = overlay2  in the engine's daemon.json (its images and containers are made anew)"
        return Finding("warn", f"{said}: {found.driver} {why}", cure)
    return Finding("ok", said)


def _protection(found: Facts) -> Iterator[Finding]:
    lacking = [name for name, can in found.limits.items() if not can]
    for name in lacking:
        what, cure = _LIMITS[name]
        yield Finding("bad", f"the engine cannot limit {what}: one service could take all of the machine", cure)
    if not lacking:
        yield Finding("ok", "memory, processes and processors can be limited")
    if found.seccomp:
        yield Finding("ok", "system calls are filtered (seccomp)")
    else:
        cure = "run a kernel with CONFIG_SECCOMP, and dockerd without  --seccomp-profile unconfined"
        yield Finding("bad", "system calls of services are not filtered: seccomp is off", cure)
    told = {f"no {word} limit" for word in ("memory", "pids", "cpu cfs quota")}  # said above
    for warning in found.warnings:
        text = warning.removeprefix("WARNING: ")
        if text.lower().removesuffix(" support") not in told:
            cures = [cure for part, cure in _KNOWN_WARNINGS.items() if part in text]
            yield Finding("warn", f"the engine warns: {text}", *(cures or ["mend it on the site's machine"]))


def of_services(actual: Actual) -> Iterator[Finding]:
    """What runs: whether a deploy was broken off, and each service that is not well."""
    now = actual.current.values()
    if rollout.repair(actual):
        yield Finding("bad", "a deploy was broken off, or somebody stopped a container", "pipeline deploy  mends it")
    ill = [finding for c in now for finding in _service(c)]
    yield from ill
    if not now:
        yield Finding("ok", "nothing is deployed")
    elif not ill:
        yield Finding("ok", f"revision {actual.revision}: {len(now)} of {len(now)} healthy")


def of_broker(said: Readings | None) -> Iterator[Finding]:
    """The site's own broker, if it answers: whether what it holds and may still hold fits on its disk."""
    if said is None or not all(said.conditions.values()):
        return
    used, limit, free = (said.total(f"broker_disk_{name}_bytes") for name in ("used", "limit", "free"))
    shown = f"the site's own broker answers, its topics take {size(int(used))} of {size(int(limit))}"
    if used + free < limit:
        cure = "make room on the disk, or lower kafka.disk and deploy: a broker whose disk is full ends"
        level: Level = "bad" if free < BROKER_FREE_BAD_BYTES else "warn"
        yield Finding(level, f"{shown}, and its disk has room for {size(int(free))} more", cure)
    elif used > limit:
        cure = "give it more with kafka.disk: its compacted topics have outgrown what is set aside"
        yield Finding("warn", shown, cure)
    else:
        yield Finding("ok", shown)


def _service(c: Container) -> Iterator[Finding]:
    logs = f"see why:  pipeline logs {c.service}"
    if c.trouble:
        yield Finding("bad", f"{c.service} {c.trouble}", logs)
    elif c.health != "healthy":
        yield Finding("warn", f"{c.service} is {c.health}", f"look again in a minute; then {logs}")
    if c.restarts:
        yield Finding("warn", f"{c.service} has ended and was restarted {c.restarts:,} times", logs)
    if c.drift:
        cure = "pipeline deploy  replaces it"
        yield Finding("warn", f"{c.service} was changed by hand: {', '.join(map(str, c.drift))}", cure)


def of_said(said: Mapping[str, Readings | None]) -> Iterator[Finding]:
    """What running services say of themselves, on their ports for metrics: whether they reach Kafka, devices and the store."""
    ill = [finding for service, readings in said.items() for finding in _said(service, readings)]
    yield from ill
    if said and not ill:
        store = ", the store" if any(r and r.values("uplink_up") for r in said.values()) else ""
        yield Finding(
            "ok", f"metrics of {len(said)} services can be read; they reach Kafka{store} and what else they need"
        )


def _said(service: str, readings: Readings | None) -> Iterator[Finding]:
    if readings is None:
        cure = f"nothing can be scraped from it; see why:  pipeline logs {service}"
        yield Finding("bad", f"{service} does not tell its health and metrics", cure)
        return
    for name in (name for name, holds in readings.conditions.items() if not holds):
        what, cure = _CONDITIONS.get(name, (f"says that it is not {name}", "see why:  pipeline logs {service}"))
        yield Finding("warn" if "look again" in cure else "bad", f"{service} {what}", cure.format(service=service))
    if 0.0 in readings.values("uplink_up"):
        waiting = f"{size(int(readings.total('spool_bytes')))} wait on its disk"
        cure = f"see that the link is up and the store's address and keys are right:  pipeline logs {service}"
        yield Finding("warn", f"{service} does not reach the store: {waiting}", cure)


def of_certificates(
    days_left: Mapping[str, int],
    needed: Sequence[str],
    *,
    deployed: bool,
    authority: str = "ca",
    broker: str = "broker",
) -> Iterator[Finding]:
    """Certificates by name, with whole days until they expire; those `needed` of services may be missing before a deploy."""
    if authority not in days_left:
        cure = "pipeline certs init, or copy the folder from the machine that has it"
        yield Finding("bad", "the fleet's authority is not here", cure)
    for name in needed:
        if name not in days_left:
            level: Level = "bad" if deployed else "warn"
            yield Finding(level, f"certificate {name} is missing", "pipeline deploy  issues it")
    cures = {
        authority: "make a new authority with  pipeline certs init  in an empty folder, and deploy all sites",
        broker: "pipeline certs broker HOST…  issues another",
    }
    near = [n for n in (authority, broker, *needed) if n in days_left and days_left[n] < CERTIFICATE_WARN_DAYS]
    for name in near:
        left = days_left[name]
        cure = cures.get(name, "pipeline deploy  renews it")
        if left < 0:
            yield Finding("bad", f"certificate {name} has expired", cure)
        else:
            yield Finding("warn", f"certificate {name} expires in {left} days", cure)
    if not near and all(name in days_left for name in (authority, *needed)):
        shown = min(days_left[name] for name in (authority, *needed))
        yield Finding("ok", f"certificates are good for {shown} days")


def of_secret(name: str, path: str, mode: int) -> Finding | None:
    """A secret's file by its mode bits; None if it is well."""
    if mode & 0o007:
        return Finding("warn", f"secret {name}: every user of this machine can get at {path}", f"chmod 600 {path}")
    return None


def of_cache(path: str | os.PathLike[str], free_bytes: int) -> Finding:
    """The disk of this machine on which images are made."""
    said = f"{size(free_bytes)} free for the cache {os.fspath(path)}"
    if free_bytes >= CACHE_WARN_BYTES:
        return Finding("ok", said)
    cure = "make room on this disk (all in the cache can be made anew), or set XDG_CACHE_HOME to a folder of another"
    return Finding("bad" if free_bytes < CACHE_BAD_BYTES else "warn", f"only {said}", cure)


def wrong(error: SitestreamError, cure: str) -> Finding:
    """Something that ended in an error of ours."""
    return Finding("bad", _line(error), cure)


def worst(findings: Sequence[Finding]) -> Level:
    """How it is as a whole."""
    levels = {f.level for f in findings}
    return "bad" if "bad" in levels else "warn" if "warn" in levels else "ok"


def text(reports: Mapping[str, Sequence[Finding]]) -> str:
    """How many are how, then for each (by its heading) what was found, with the cure below it."""
    counts = Counter(worst(found) for found in reports.values())
    total = Counter(f.level for found in reports.values() for f in found)
    summary = ", ".join(f"{counts[level]:,} {level}" for level in COLOURS if counts[level])
    head = f"{summary}; {total['bad']:,} to mend, {total['warn']:,} to look at"
    return "\n\n".join([head, *(f"{name}\n{_table(found)}" for name, found in reports.items())])


def _table(findings: Sequence[Finding]) -> str:
    rows: list[list[str]] = []
    for f in findings:
        rows.append([f"  {coloured(f.level, COLOURS[f.level])}", f.what])
        rows += [["", f"cure: {f.cure}"]] if f.cure else []
    return table(rows[0], rows[1:])


def value(findings: Sequence[Finding]) -> dict[str, object]:
    """The same for programs."""
    return {
        "level": worst(findings),
        "findings": [{"level": f.level, "what": f.what, "cure": f.cure or None} for f in findings],
    }


def size(n: int) -> str:
    """'1.2 GB'."""
    return f"{n / 1e9:,.1f} GB" if n >= 10**9 else f"{n / 1e6:,.0f} MB"


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _line(error: SitestreamError) -> str:
    return " ".join(str(error).split())
