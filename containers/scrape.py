"""Read what running services say of themselves: health and Prometheus text over HTTP, as plain values."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Readings:
    """Samples of one scrape: (name, labels) -> value; and the health conditions, if they were asked for."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)
    conditions: Mapping[str, bool] = field(default_factory=dict)

    def values(self, name: str, **labels: str) -> list[float]:
        """Values of all samples of a metric whose labels include these."""
        want = set(labels.items())
        return [v for (n, has), v in self.samples.items() if n == f"sitestream_{name}" and want <= has]

    def total(self, name: str, **labels: str) -> float:
        """Their sum, 0 if there is none."""
        return sum(self.values(name, **labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Their sums, by the value of another label."""
        sums: dict[str, float] = {}
        for (n, has), v in self.samples.items():
            of = dict(has)
            if n == f"sitestream_{name}" and labels.items() <= of.items():
                sums[of.get(label, "")] = sums.get(of.get(label, ""), 0.0) + v
        return sums


def scrape(port: int) -> Readings:
    """What the service on a port of this machine exports; nothing if it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
    except OSError:
        return Readings()
    return Readings(_samples(text))


def readings(said: str) -> Readings | None:
    """What a service answered to `profiles.ASK`: a line of its health, then its metrics. None if that is not what it is."""
    health, _, text = said.partition("\n")
    try:
        return Readings(_samples(text), json.loads(health)["conditions"])
    except (ValueError, KeyError, TypeError):
        return None


def _samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def healthy(port: int) -> bool:
    """Whether the service on a port of this machine says that it is healthy."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_S) as answer:
            return bool(json.load(answer)["healthy"])
    except (OSError, ValueError):
        return False
