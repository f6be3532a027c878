"""Names for what is discovered: of schemas, columns and variables in pipeline files to begin with. Pure."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence

from pipelines.schema import RESERVED, Schema

NO_NAME = frozenset(
    {"discovered", "topic", "secret", "agg", "tumbling", "Col", "Key", "Pipeline", "Schema", "State"}
)  # imported, defined
# names that a column of a discovered schema cannot have
NO_COLUMN = frozenset({"device", "quality", "arrival", *RESERVED, *(n for n in dir(Schema) if not n.startswith("_"))})
ABSENT = {"float": 'absent=float("nan")', "int": "absent=0", "bool": "absent=False", "str": 'absent=""'}


def snake(text: str) -> str:
    """A Python name such as 'motor_speed' for any text."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    name = re.sub(r"\W+", "_", words, flags=re.ASCII).strip("_").lower() or "x"
    return f"x_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name


def camel(text: str) -> str:
    """A Python name such as 'MotorSpeed' for any text."""
    return "".join(word.capitalize() for word in snake(text).split("_"))


def unique(name: str, taken: set[str]) -> str:
    """`name`, or with a number if it is taken; taken from now on."""
    number, found = 2, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def column_names(paths: Sequence[tuple[str, ...]], taken: set[str]) -> dict[tuple[str, ...], str]:
    """A Python name for each path: its last part, and those before it where it is not the only one that ends so."""
    names: dict[tuple[str, ...], str] = {}
    for path in paths:
        short = snake(path[-1])
        same = sum(snake(p[-1]) == short for p in paths)
        names[path] = unique(short if same == 1 else snake("_".join(path)), taken)
    return names


def first_few(names: Sequence[str]) -> str:
    """The first few of many names, as text."""
    shown = ", ".join(repr(n) for n in names[:3])
    return shown if len(names) <= 3 else f"{shown} … {len(names)} devices"
