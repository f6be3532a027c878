"""What is subscribed to, and what the levels of a topic say: the key, and the column. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from pipelines.errors import PlanError

COLUMN = "column"  # the placeholder of the level that names the column
PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class TopicPattern:
    """A subscription filter, which levels of a topic (if any) make up the key, and which one (if any) names the column."""

    filter: str
    key_levels: tuple[int, ...] = ()
    template: str = ""  # '{}/{}': how those levels make the key
    column_level: int | None = None

    @cached_property
    def _levels(self) -> tuple[str, ...]:
        return tuple(self.filter.split("/"))

    def matches(self, topic: str) -> bool:
        """Whether a topic is one of those subscribed to."""
        want, have = self._levels, topic.split("/")
        if want[-1] == "#":
            want, have = want[:-1], have[: len(want) - 1]
        return len(want) == len(have) and all(w in ("+", h) for w, h in zip(want, have, strict=True))

    def key(self, topic: str) -> str | None:
        """The key that stands in a topic, '' if a level of it is empty; None if keys stand in payloads."""
        if not self.key_levels:
            return None
        levels = topic.split("/")
        parts = [levels[i] for i in self.key_levels]
        return self.template.format(*parts) if all(parts) else ""

    def column(self, topic: str) -> str | None:
        """The column that a topic names; None if payloads name columns."""
        return None if self.column_level is None else topic.split("/")[self.column_level]

    @classmethod
    def of(cls, text: str, key: str, *, in_payload: bool, template: str | None = None) -> TopicPattern:
        """From 'press/{device}/vib'; `PlanError` if it is not clear which levels are the key.

        `key` is the name of the schema's Key. Several placeholders are joined by '/', or as `template` says: '{line}-{device}'.
        """
        levels = text.split("/")
        allowed = {COLUMN, key, *(PLACEHOLDER.findall(template) if template else ())}
        if template is None and key in PLACEHOLDER.findall(text):
            allowed |= set(PLACEHOLDER.findall(text))
        for level in levels:
            if any(c in level for c in "+#{}") and level not in ("+", "#", *(f"{{{name}}}" for name in allowed)):
                raise PlanError(f"mqtt topic {text!r}: level {level!r} cannot be used: {_cure(level, key, template)}")
        if "#" in levels[:-1] or not all(levels[:1]) or text.startswith("$"):
            raise PlanError(f"mqtt topic {text!r}: # may only be the last level, and a topic may not begin with / or $")
        at = {name: i for i, level in enumerate(levels) for name in PLACEHOLDER.findall(level)}
        plain = [i for i, level in enumerate(levels) if level == "+"]
        named = [name for name in at if name != COLUMN]
        twice = len(PLACEHOLDER.findall(text)) > len(at)
        if twice or (not named and not in_payload and len(plain) > 1):
            raise PlanError(
                f"mqtt topic {text!r}: write {{{key}}} once, for the level that names the device, and + for the others"
            )
        filter_ = "/".join("+" if i in at.values() else level for i, level in enumerate(levels))
        if template is not None:
            return cls(filter_, *_parts(text, template, at), at.get(COLUMN))
        where = () if in_payload else tuple(at[name] for name in named) or tuple(plain)
        return cls(filter_, where, "/".join("{}" for _ in where), at.get(COLUMN))


def _parts(text: str, template: str, at: dict[str, int]) -> tuple[tuple[int, ...], str]:
    """Which levels a template takes, in its order, and the template without their names."""
    names = PLACEHOLDER.findall(template)
    bare = PLACEHOLDER.sub("", template)
    if absent := [name for name in names if name not in at or name == COLUMN]:
        raise PlanError(f"mqtt key={template!r}: the topic {text!r} has no level {{{absent[0]}}} for a key")
    if "{" in bare or "}" in bare:
        raise PlanError(f"mqtt key={template!r}: write the names of levels in braces, such as {{line}}/{{device}}")
    return tuple(at[name] for name in names), PLACEHOLDER.sub("{}", template)


def _cure(level: str, key: str, template: str | None) -> str:
    if template is not None and PLACEHOLDER.fullmatch(level):
        return f"key={template!r} does not use it; a level to be ignored is written +"
    if PLACEHOLDER.search(level):
        return f"the key is called {{{key}}}, a level to be ignored is written +"
    return "a wildcard is a whole level"
