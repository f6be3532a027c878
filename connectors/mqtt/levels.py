"""Which topics are alike: patterns of topics, with a wildcard where a level varies. Pure.

Two names at a level are alike if what hangs below them is: the same topics with the same kind of payload. From the last level up,
alike names become one wildcard. At the first level, where unlike things meet, more has to agree.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

ANY = "*"
ALIKE = 0.5  # of names in payloads, or of topics below, that are in both
CLUSTERS_MAX = 200  # kinds of names at one level that are told apart by comparing
Levels = tuple[str, ...]


def overlap(one: Levels, other: Levels) -> bool:
    """Whether a topic could match both."""
    return len(one) == len(other) and all(a in (b, ANY) or b == ANY for a, b in zip(one, other, strict=True))


class Index:
    """Topics, or patterns of them, by the names of their levels."""

    def __init__(self, all_: Iterable[Levels]) -> None:
        self._at: dict[tuple[int, int, str], list[Levels]] = defaultdict(list)
        for levels in all_:
            for i, name in enumerate(levels):
                self._at[len(levels), i, name].append(levels)
            self._at[len(levels), -1, ""].append(levels)

    def near(self, levels: Levels) -> Iterator[Levels]:
        """Those that overlap these."""
        best = self._at.get((len(levels), -1, ""), [])
        for i, name in enumerate(levels):
            here = [*self._at.get((len(levels), i, name), []), *self._at.get((len(levels), i, ANY), [])]
            if name != ANY and len(here) < len(best):
                best = here
        return (other for other in best if overlap(levels, other))


@dataclass
class Pattern:
    """Topics that are alike."""

    levels: Levels  # `ANY` where they vary
    kind: str  # of payload
    names: frozenset[str]  # in payloads
    topics: list[Levels]

    def overlaps(self, other: Pattern) -> bool:
        """Whether a topic could match both."""
        return overlap(self.levels, other.levels)

    def like(self, other: Pattern) -> bool:
        """Whether both could be one."""
        same = self.kind == other.kind and self.overlaps(other)
        return same and len(self.names & other.names) >= ALIKE * len(self.names | other.names)


@dataclass(frozen=True)
class Topic:
    """A topic, and what its payloads are."""

    levels: Levels
    kind: str
    names: frozenset[str]


def patterns(topics: Sequence[Topic]) -> list[Pattern]:
    """The patterns of all topics. Patterns of the same kind of payload do not overlap."""
    return _below(topics, 0)


def stem(name: str) -> str:
    """A name without its numbers: 'press-#'."""
    return re.sub(r"\d+", "#", name)


def _below(topics: Sequence[Topic], depth: int) -> list[Pattern]:
    """Patterns of topics that agree in their first `depth` levels, without these."""
    found = [Pattern((), t.kind, t.names, [t.levels]) for t in topics if len(t.levels) == depth]
    by_name: dict[str, list[Topic]] = defaultdict(list)
    for topic in topics:
        if len(topic.levels) > depth:
            by_name[topic.levels[depth]].append(topic)
    for names, below in _clusters({name: _below(some, depth + 1) for name, some in by_name.items()}, depth):
        head = names[0] if len(names) == 1 else ANY
        found += [Pattern((head, *p.levels), p.kind, p.names, p.topics) for p in below]
    return _merged(found)


def _clusters(children: Mapping[str, list[Pattern]], depth: int) -> list[tuple[list[str], list[Pattern]]]:
    clusters: list[tuple[list[str], list[Pattern]]] = []
    for name, below in children.items():
        for names, others in clusters[:CLUSTERS_MAX]:
            if _alike(below, others) and (depth or _related(name, names[0], below, others)):
                names.append(name)
                others[:] = _merged([*others, *below])
                break
        else:
            clusters.append(([name], below))
    return clusters


def _alike(some: Sequence[Pattern], others: Sequence[Pattern]) -> bool:
    if len(some) == len(others) == 1:
        return some[0].like(others[0])
    here, there = _Known(some), _Known(others)
    matched = sum(any(map(p.like, there.near(p))) for p in some) + sum(any(map(q.like, here.near(q))) for q in others)
    return matched >= ALIKE * (len(some) + len(others))


def _related(name: str, other: str, some: Sequence[Pattern], others: Sequence[Pattern]) -> bool:
    """Whether two names at the first level stand for things of one kind, and do not just have numbers below."""
    if stem(name) == stem(other):
        return True
    for p, q in ((p, q) for p in some for q in others if p.like(q)):
        if p.names != {"value"} and len(p.names) > 1:
            return True
        if any(a == b != ANY for a, b in zip(p.levels, q.levels, strict=True)):
            return True
        if {t[-1] for t in p.topics if len(t) > 1} & {t[-1] for t in q.topics if len(t) > 1}:
            return True
    return False


class _Known:
    """Patterns, found by what they may overlap: those without wildcards, which may be many, overlap only their like."""

    def __init__(self, patterns: Sequence[Pattern] = ()) -> None:
        self.plain: dict[tuple[Levels, str], Pattern] = {}
        self.wild: list[Pattern] = []
        for pattern in patterns:
            self.add(pattern)

    def add(self, pattern: Pattern) -> None:
        """One that overlaps no other."""
        if ANY in pattern.levels:
            self.wild.append(pattern)
        else:
            self.plain[pattern.levels, pattern.kind] = pattern

    def near(self, pattern: Pattern) -> list[Pattern]:
        """Those of the same kind that overlap a pattern."""
        if ANY in pattern.levels:
            others = [*self.plain.values(), *self.wild]
        else:
            same = self.plain.get((pattern.levels, pattern.kind))
            others = self.wild if same is None else [same, *self.wild]
        return [o for o in others if o.kind == pattern.kind and o.overlaps(pattern)]


def _merged(found: Sequence[Pattern]) -> list[Pattern]:
    """Those of one kind that overlap are one: else a source would get what another is for."""
    known = _Known()
    for pattern in sorted(found, key=lambda p: ANY not in p.levels):  # one without wildcards widens no other
        while near := known.near(pattern):
            other = near[0]
            levels = tuple(a if a == b else ANY for a, b in zip(other.levels, pattern.levels, strict=True))
            other.topics.extend(pattern.topics)
            pattern = Pattern(levels, pattern.kind, other.names | pattern.names, other.topics)
            if other in known.wild:
                known.wild.remove(other)
            else:
                del known.plain[other.levels, other.kind]
        known.add(pattern)
    return [*known.plain.values(), *known.wild]
