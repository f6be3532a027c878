"""The services of a site as processes of this machine, each with its settings file and its log."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from containers.child import Child, free_port
from containers.scrape import Readings, healthy, scrape

MODULES = {
    "collect": "connectors.collect",
    "process": "pipelines.runtime.worker",
    "upload": "connectors.upload",
    "control": "connectors.control.service",
}


@dataclass
class Services:
    """All services of one site; `settings` are those that they share."""

    folder: Path
    settings: Mapping[str, Any]
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by service
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # other settings, by service
    ports: dict[str, int] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)

    def __enter__(self) -> Self:
        for name in MODULES:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values():
            child.stop(timeout_s=25)

    def start(self, name: str) -> None:
        """Start a service (again) and wait until it is healthy."""
        port = self.ports.setdefault(name, free_port())
        config = self.folder / f"{name}.json"
        settings = {"data_dir": str(self.folder / name), "secrets_dir": str(self.folder), "metrics_port": port}
        config.write_text(
            json.dumps(
                {**settings, **self.settings, **self.own.get(name, {}), "options": dict(self.options.get(name, {}))}
            )
        )
        (self.folder / name).mkdir(exist_ok=True)
        words = [sys.executable, "-m", MODULES[name], "--config", str(config)]
        self.children[name] = Child(name, words, self.folder / f"{name}.log").start(lambda: healthy(port), timeout_s=60)

    def kill9(self, name: str) -> None:
        """Kill a service as a power cut would, and start it again."""
        self.children[name].kill9()
        self.start(name)

    def metrics(self, name: str) -> Readings:
        """What a service exports now."""
        return scrape(self.ports[name])
