"""Tables as TOML has them: laid over each other, with placeholders filled in. Pure values; nothing given is changed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Table = dict[str, Any]
PLACEHOLDER = "{site}"
LISTED_MAX = 10
_PLACEHOLDERS = re.compile(r"\{\w+\}")


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """`over` laid over `under`: tables field by field, every other value as a whole."""
    made = dict(under)
    for name, value in over.items():
        have = made.get(name)
        made[name] = merged(have, value) if isinstance(have, dict) and isinstance(value, dict) else value
    return made


def filled(value: Any, site: str) -> Any:
    """A copy in which every text has the site's name for `{site}`."""
    if isinstance(value, str):
        return value.replace(PLACEHOLDER, site)
    if isinstance(value, dict):
        return {name: filled(v, site) for name, v in value.items()}
    return [filled(v, site) for v in value] if isinstance(value, list) else value


def strange_placeholders(table: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    """(field, placeholder) for each that is not `{site}`, within the table at the dotted path `at`."""
    for name, value in table.items():
        field = f"{at}.{name}".lstrip(".")
        if isinstance(value, dict):
            yield from strange_placeholders(value, field)
        elif isinstance(value, str):
            yield from ((field, found) for found in _PLACEHOLDERS.findall(value) if found != PLACEHOLDER)


def sets(table: Mapping[str, Any], field: str) -> bool:
    """Whether a table has a field, given by its dotted path; names may have dots of their own."""
    head, _, rest = field.partition(".")
    within = table.get(head)
    return field in table or (bool(rest) and isinstance(within, dict) and sets(within, rest))


def drop(table: Table, field: str) -> None:
    """Take a field, which is there, out of a table."""
    if field in table:
        del table[field]
    else:
        head, _, rest = field.partition(".")
        drop(table[head], rest)


def put(table: Table, field: str, value: object) -> None:
    """Set a field, given by its dotted path, whose table is there."""
    *within, name = field.split(".")
    for part in within:
        table = table[part]
    table[name] = value


def nearest(name: str, known: Iterable[str]) -> str:
    """': did you mean …?' for a name that is not known; empty if none is near."""
    near = difflib.get_close_matches(name, sorted(known), 1, 0.6)
    return f": did you mean {near[0]!r}?" if near else ""


def listed(names: Iterable[str]) -> str:
    """'a, b and 7 more'; 'none' of none."""
    first, rest = (all_ := list(names))[:LISTED_MAX], len(all_) - LISTED_MAX
    return (", ".join(first) or "none") + (f" and {rest:,} more" if rest > 0 else "")
