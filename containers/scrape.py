"""Read what running services say of themselves: Prometheus text over HTTP, as plain numbers."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Readings:
    """Samples of one scrape: (name, labels) -> value."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    def values(self, name: str, **labels: str) -> list[float]:
        """Values of all samples of a metric whose labels include these."""
        want = set(labels.items())
        return [v for (n, has), v in self.samples.items() if n == f"sitestream_{name}" and want <= has]

    def total(self, name: str, **labels: str) -> float:
        """Their sum, 0 if there is none."""
        return sum(self.values(name, **labels))


def scrape(port: int) -> Readings:
    """What the service on a port of this machine exports; nothing if it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
    except OSError:
        return Readings()
    families = text_string_to_metric_families(text)
    return Readings({(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples})


def healthy(port: int) -> bool:
    """Whether the service on a port of this machine says that it is healthy."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_S) as answer:
            return bool(json.load(answer)["healthy"])
    except (OSError, ValueError):
        return False
