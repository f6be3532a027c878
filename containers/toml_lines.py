"""The line of a TOML file that a message of msgspec, which names fields only, is about."""

from __future__ import annotations

import re


def with_line(message: str, where: str, text: str) -> str:
    """msgspec's message with the line of the field it speaks of."""
    field = field_of(message)
    return message.replace(f"{where}:", f"{where}:{line_of(field, text)}:", 1) if field else message


def field_of(message: str) -> str:
    """The dotted path of the field that a message of msgspec speaks of; that of its table if the field is missing."""
    place = re.search(r"at `\$\.?([^`\[]*)", message)
    unknown = re.search(r"unknown field `(.+?)`(?: - at `|: did you mean `|\Z)", message, re.DOTALL)
    return ".".join(part for part in (place and place[1], unknown and unknown[1]) if part)


def missing_in(message: str) -> str:
    """The dotted path of the field that a message of msgspec says is missing; empty if it says something else."""
    missing = re.search(r"missing required field `([^`]+)`", message)
    return f"{field_of(message)}.{missing[1]}".lstrip(".") if missing else ""


def line_of(field: str, text: str) -> int:
    """The line that sets a field, given by its dotted path, or that begins its table; 1 if none does."""

    def plain(name: str) -> str:
        return re.sub(r"[\"' ]", "", name)

    found, table = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            table = header[1].strip()
            here = table
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            here = f"{table}.{key[1]}".lstrip(".")
        else:
            continue
        if plain(here) == plain(field):
            return number
        if field.startswith(f"{here}."):
            found = number
    return found
