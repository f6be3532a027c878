"""Looks at a container again and again, and has each time judged whether it may stay."""

from __future__ import annotations

from dataclasses import dataclass, field

from containers import gates, scrape
from containers.engine import Engine
from containers.gates import Figures, Look, Policy, Verdict
from pipelines.clock import Clock
from pipelines.errors import Unavailable


@dataclass
class Watch:
    """One container under one policy."""

    engine: Engine
    clock: Clock
    name: str
    policy: Policy
    looks: list[Look] = field(default_factory=list)

    def look(self) -> tuple[Verdict, str]:
        """The verdict by now; `Unavailable` if the container is gone."""
        seen = self.engine.container(self.name, probe=False)  # it is asked for more below
        if seen is None:
            raise Unavailable(f"{self.name} has been removed by somebody else")
        said = scrape.readings(self.engine.said(self.name)) if seen.state == "running" else None
        new = gates.look(self.clock.monotonic_s(), seen, said)
        self.looks = gates.recent([*self.looks, new], self.policy)
        return gates.judge(seen.service, self.looks, self.policy)

    @property
    def figures(self) -> Figures | None:
        """What the service said last."""
        return self.looks[-1].figures

    @property
    def well(self) -> bool:
        """Whether it was up and healthy at the last look."""
        return not self.looks[-1].ended and not self.looks[-1].ill
