"""From what was heard to sources: which level is the key or names columns, and what payloads hold. Pure; a guess."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from connectors.mqtt.fields import GENERIC, UNIT_NAMES, Content, content
from connectors.mqtt.levels import ANY, Index, Levels, Pattern, Topic, patterns, stem
from connectors.mqtt.pattern import COLUMN
from connectors.mqtt.payload_kinds import CSV, MAPS, READABLE, Document, Looked, look_at
from connectors.mqtt.survey import Heard, Survey
from connectors.naming import NO_COLUMN, snake

COLUMN_LEVEL = f"{{{COLUMN}}}"
COLUMNS_MAX = 100  # of one schema; further ones become comments
EXAMPLE_CHARS_MAX = 60
_PLACE = re.compile(r"[+#{}]")


@dataclass
class Column:
    """A column, and the level of the topic that names it, if one does."""

    name: tuple[str, ...]
    type: str
    unit: str
    path: str | None  # as in `fields=`; None if it needs none
    absent: bool  # some messages do not have it
    example: str


@dataclass
class Stream:
    """A source for the topics of one pattern."""

    topic: str
    levels: Levels
    topics: list[Levels]
    devices: list[str]
    payload: str
    columns: list[Column]
    content: Content
    per_s: float  # readings
    example: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unclear:
    """Topics that no source can read, and why."""

    topic: str
    topics: int
    per_s: float  # messages
    why: str
    example: str


def streams(survey: Survey, seconds: float) -> tuple[list[Stream], list[Unclear]]:
    """All that was heard but Sparkplug."""
    looked = {tuple(topic.split("/")): (heard, look_at(heard.samples)) for topic, heard in survey.topics.items()}
    found = patterns([Topic(levels, look.kind, look.names) for levels, (_, look) in looked.items()])
    index, topics = Index(p.levels for p in found), Index(looked)
    known: list[Stream] = []
    unclear: list[Unclear] = []
    for pattern in sorted(found, key=lambda p: p.levels):
        of = {levels: looked[levels] for levels in pattern.topics}
        made = _Made(pattern, of, index, seconds).stream()
        (known if isinstance(made, Stream) else unclear).append(made)  # type: ignore[arg-type]  # each to its own
    for stream in known:
        _warn(stream, topics)
    return known, unclear


def example(payload: bytes) -> str:
    """The beginning of a payload, as text if it is one."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = "0x" + payload.hex()
    text = "".join(c if c.isprintable() else " " for c in text[: 2 * EXAMPLE_CHARS_MAX])
    return text if len(text) <= EXAMPLE_CHARS_MAX else f"{text[: EXAMPLE_CHARS_MAX - 1]}…"


class _Made:
    """One pattern on its way to a source."""

    def __init__(
        self,
        pattern: Pattern,
        of: Mapping[Levels, tuple[Heard, Looked]],
        others: Index,
        seconds: float,
    ) -> None:
        self._pattern, self._of, self._others = pattern, of, others
        self._documents = {"/".join(levels): look.documents for levels, (_, look) in of.items()}
        self._per_s = sum(heard.live for heard, _ in of.values()) / seconds
        samples = [heard.samples[-1][0] for heard, _ in of.values() if heard.samples]
        self._example = example(samples[0]) if samples else ""
        self._wild = [i for i, name in enumerate(pattern.levels) if name == ANY]

    def stream(self) -> Stream | Unclear:
        """The source, or why there can be none."""
        kind = self._pattern.kind.partition(":")[0]
        if kind not in READABLE:
            return self._unclear(self._pattern.kind)
        if any(_PLACE.search(name) for name in self._pattern.levels):
            return self._unclear("a level has one of + # { } in its name, which no topic of a source can have")
        if self._pattern.levels[0].startswith("$") or not self._pattern.levels[0]:
            return self._unclear("the topic begins with / or $, which no topic of a source can")
        held = content(self._documents, key=not self._wild)
        at = self._column_level(held)
        columns = self._named_by_level(held, at) if at is not None else _columns(held)
        if not columns:
            return self._unclear("nothing in it is a number, truth or text: " + _reasons(held))
        keys = self._key_levels(held, at)
        if held.key is None and not keys:
            return self._unclear(
                "nothing says whose readings these are: the topic has one level, and no field of the payload does"
            )
        return self._made(held, columns, keys, at)

    def _unclear(self, why: str) -> Unclear:
        return Unclear(
            "/".join("+" if n == ANY else n for n in self._pattern.levels),
            len(self._of),
            self._per_s,
            why,
            self._example,
        )

    def _made(self, held: Content, columns: list[Column], keys: Sequence[int], at: int | None) -> Stream:
        names = self._level_names(keys, at)
        topic = "/".join(names.get(i, "+" if name == ANY else name) for i, name in enumerate(self._pattern.levels))
        levels = tuple(ANY if i in names else name for i, name in enumerate(self._pattern.levels))
        if held.key is not None:
            devices = sorted({v for v, _ in held.key.values})
        else:
            devices = sorted({"/".join(levels_[i] for i in keys) for levels_ in self._of})
        notes = [held.note] if held.note else []
        notes += [
            f"{count} payloads of {'/'.join(levels_)!r} were {kind}"
            for levels_, (_, look) in self._of.items() for kind, count in look.other.items()
        ][:3]  # fmt: skip
        payload = self._pattern.kind
        if payload.startswith(CSV):
            payload = f"{CSV}:{','.join(_cells(payload, held))}"
        per_s = self._per_s * held.per_payload
        return Stream(topic, levels, self._pattern.topics, devices, payload, columns, held, per_s, self._example, notes)

    def _column_level(self, held: Content) -> int | None:
        """The level that names the value, if one does: words that repeat among the levels before, one value in a payload."""
        kind, values = self._pattern.kind, held.fields
        if kind in MAPS:
            said = [f for f in values if snake(f.names[-1]) not in UNIT_NAMES]
            single = len(said) == 1 and said[0].names[-1] in GENERIC and held.rows is None and held.key is None
        else:
            single = not kind.startswith(CSV)
        if not single or not self._wild:
            return None
        at = self._wild[-1]
        names = {levels[at] for levels in self._of}
        numbered = 2 * sum(stem(name) != name for name in names) >= len(names)
        if numbered or not 1 < len(names) <= COLUMNS_MAX:
            return None
        parents = {tuple(levels[i] for i in self._wild[:-1]) for levels in self._of}
        if len(self._wild) == 1:  # of one device, which the level before names
            return at if at >= 2 else None
        return at if len(parents) > 1 and 2 * len(self._of) >= len(parents) * len(names) else None

    def _named_by_level(self, held: Content, at: int) -> list[Column]:
        by_name: dict[str, dict[str, Sequence[Document]]] = {}
        for levels in self._of:
            topic = "/".join(levels)
            by_name.setdefault(levels[at], {})[topic] = self._documents[topic]
        made = []
        for name, documents in by_name.items():
            each = content(documents, key=False).fields
            free = name not in NO_COLUMN and (held.time is None or name != held.time.path)
            if len(each) == 1 and each[0].type and name == snake(name) and free:
                path = each[0].path if self._pattern.kind in MAPS else None
                made.append(Column((name,), each[0].type, each[0].unit, path, True, each[0].example))
            else:
                held.note = f"level {name!r} is left out: it is no name of a column, or its values are of several types"
        return made

    def _key_levels(self, held: Content, at: int | None) -> list[int]:
        """The levels that make up the key."""
        if held.key is not None:
            return []
        wild = [i for i in self._wild if i != at]
        if wild:
            return wild
        levels, last = self._pattern.levels, len(self._pattern.levels) - 1
        if at is not None:
            return [at - 1]
        if last == 0:
            return []
        wanted = [i for i, name in enumerate(levels) if i and stem(name) != name] + [max(last - 1, 1), last, 0]
        free = [i for i in wanted if not self._hits([*self._wild, i])]
        return [(free or wanted)[0]]

    def _hits(self, wild: Sequence[int]) -> bool:
        """Whether a topic of another pattern would come, too, if these levels varied."""
        levels = tuple(ANY if i in wild else name for i, name in enumerate(self._pattern.levels))
        return any(other != self._pattern.levels for other in self._others.near(levels))

    def _level_names(self, keys: Sequence[int], at: int | None) -> dict[int, str]:
        """What stands for each level of the key, and for the one that names the column."""
        names, taken = {}, {"device", COLUMN}
        for i in keys[:-1]:
            stems = {stem(levels[i]).replace("#", "").strip("-_. ") for levels in self._of}
            name = snake(stems.pop()) if len(stems) == 1 else f"level_{i + 1}"
            name = name if name not in taken and name != "x" and not name.startswith("x_") else f"level_{i + 1}"
            taken.add(name)
            names[i] = f"{{{name}}}"
        if keys:
            names[keys[-1]] = "{device}"
        if at is not None:
            names[at] = COLUMN_LEVEL
        return names


def _columns(held: Content) -> list[Column]:
    return [Column(f.names, f.type, f.unit, f.path, f.missing, f.example) for f in held.fields if f.type]


def _cells(kind: str, held: Content) -> list[str]:
    """The names of the fields of a line."""
    count = int(kind.partition(":")[2])
    if count == 1:
        return ["value"]
    known = {f.path for f in (*held.fields, *(f for f in (held.time, held.key) if f is not None))}
    return [name if (name := f"x{i}") in known else "" for i in range(1, count + 1)]


def _reasons(held: Content) -> str:
    return "; ".join(f"{f.path!r}: {f.why}" for f in held.without[:3]) or "it is empty"


def _warn(stream: Stream, topics: Index) -> None:
    """Say which topics a source gets that it cannot read."""
    own = set(stream.topics)
    also = ["/".join(topic) for topic in topics.near(stream.levels) if topic not in own]
    if COLUMN_LEVEL in stream.topic:  # topics of other columns are left out
        at = stream.topic.split("/").index(COLUMN_LEVEL)
        also = [t for t in also if (t.split("/")[at],) in {c.name for c in stream.columns}]
    if also:
        shown = ", ".join(map(repr, also[:3])) + (f" … {len(also)} topics" if len(also) > 3 else "")
        stream.notes.append(f"it gets {shown}, too, whose messages become dead letters")
