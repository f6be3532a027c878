"""Versions of state: what of it a changed pipeline can keep. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

What = Literal["keep", "migrate", "reset"]
Version = tuple[str, str]  # fingerprint of a stateful step and of what flows into it; its text


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of the state of one step: kept as it is, begun empty beside what is kept, or lost."""

    step: str
    what: What
    why: str

    def __str__(self) -> str:
        return f"{self.what} {self.step}: {self.why}"


def compare(before: Mapping[str, Version], after: Mapping[str, Version]) -> list[Fate]:
    """A verdict for each stateful step of either version of a pipeline, by name."""
    return [_verdict(step, before.get(step), after.get(step)) for step in dict.fromkeys([*before, *after])]


def _verdict(step: str, before: Version | None, after: Version | None) -> Fate:
    if before is None:
        return Fate(step, "migrate", "new; begins empty")
    if after is None:
        return Fate(step, "reset", "it is gone, and its state with it")
    if before[0] == after[0]:
        return Fate(step, "keep", "unchanged")
    if before[1] == after[1]:
        return Fate(step, "reset", "what flows into it has changed")
    return Fate(step, "reset", f"{before[1]} became {after[1]}")


def loses(before: Mapping[str, Version], after: Mapping[str, Version]) -> list[Fate]:
    """The steps whose state is lost."""
    return [v for v in compare(before, after) if v.what == "reset"]
