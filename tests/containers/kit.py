"""Small pipelines, a site file for one, and containers as they would be found on an engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from containers.desired import contents_of, desired, work_for
from containers.images import Base, Contents
from containers.python import Python
from containers.rollout import Container
from containers.site import SiteFile, load_site
from containers.wanted import Desired
from pipelines.load import load
from pipelines.plan import Plan

BASE = Base("sha256:base", Python((3, 11), "x86_64", "2.36"))

PIPELINE = """\
{first_lines}
from connectors import control, mqtt, parquet
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling


class Reading(Schema):
    device = Key[str]()
    value = Col[float]("mm/s")


class Second(Schema):
    mean = agg.mean(Reading.value)
    n = agg.count()


tiny = Pipeline("tiny")
reading = tiny.read(mqtt.source(Reading, broker="{mqtt}", topic="tiny/{{device}}/v"{source_options}))
second = reading.window(tumbling("{window}", late="0s"), Second)
second.to(parquet.dataset("tiny/second", every="{every}"))
second.to(control.command(topic="tiny/{{device}}/cmd", verb="mark", expires="{expires}", n=Second.n))
{more}
"""

PROCESS = """\
{first_lines}
from connectors import kafka, topic
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling


class Reading(Schema):
    device = Key[str]()
    value = Col[float]()


class Second(Schema):
    mean = agg.mean(Reading.value)


tiny = Pipeline("tiny")
reading = tiny.read({source})
reading.window(tumbling("{window}", late="0s"), Second){result}
"""

SITE = """\
site = "hall1"
pipeline = "tiny.py"
brokers = "kafka:9092"
store = "file:///srv/parquet"
"""


def pipeline_text(**changes: str) -> str:
    """The pipeline file; any of its settings may be changed."""
    usual = {
        "first_lines": "",
        "mqtt": "mqtt://edge",
        "source_options": "",
        "window": "1s",
        "every": "1s",
        "expires": "30s",
        "more": "",
    }
    return PIPELINE.format(**{**usual, **changes})


def process_text(
    source: str = 'kafka.source(Reading, topic="others", time_unit="ms")',
    *,
    window: str = "1s",
    result: str = ".to(topic.results())",
    first_lines: str = "",
) -> str:
    """A pipeline file of which `process` is the only service."""
    return PROCESS.format(source=source, window=window, result=result, first_lines=first_lines)


def write_site(folder: Path, text: str = SITE, **changes: str) -> Path:
    """Write a site file and its pipeline file; returns the site file."""
    (folder / "tiny.py").write_text(pipeline_text(**changes))
    path = folder / "site.toml"
    path.write_text(text)
    return path


def site_of(folder: Path, text: str = SITE, **changes: str) -> tuple[SiteFile, Plan]:
    """A site and its plan."""
    site = load_site(write_site(folder, text, **changes))
    return site, load(site.pipeline).plan()


def wanted(folder: Path, text: str = SITE, **changes: str) -> dict[str, Desired]:
    """What must run there, by service."""
    site, plan = site_of(folder, text, **changes)
    return {d.service: d for d in desired(site, plan, BASE)}


def contents(folder: Path, text: str = SITE, **changes: str) -> dict[str, Contents]:
    """What their images hold, by service."""
    site, plan = site_of(folder, text, **changes)
    return {p.service: contents_of(site, plan, BASE, p) for p in work_for(plan)}


def found(service: str = "process", revision: int = 1, **changes: Any) -> Container:
    """A container that runs well, but for the changes."""
    usual: Mapping[str, Any] = {
        "name": f"sitestream-hall1-{service}-r{revision}",
        "id": f"{service}{revision}",
        "service": service,
        "revision": revision,
        "fingerprint": f"{service}-{revision}",
        "pipeline": "tiny 0123456789abcdef",
        "images": (f"sitestream/{service}:1",),
        "config": f"config-{service}-{revision}",
        "state": "running",
        "health": "healthy",
        "exit_code": 0,
        "restarts": 0,
        "started_at": "2026-01-01T00:00:00Z",
        "address": "",
    }
    return Container(**{**usual, **changes})


def as_found(d: Desired, revision: int = 1, **changes: Any) -> Container:
    """The container that a desired service becomes."""
    same = {"fingerprint": d.fingerprint, "pipeline": d.pipeline, "parts": d.parts, "versions": d.state}
    same["settings"] = d.settings_shown
    return found(d.service, revision, **{**same, **changes})


def with_environment(**values: str) -> dict[str, str]:
    """The environment of this process, with some more."""
    return {**os.environ, **values}
