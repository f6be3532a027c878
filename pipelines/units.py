"""Durations and byte sizes as people write them: '250ms', '15m', '64MiB'."""

from __future__ import annotations

import re

from pipelines.errors import ConfigError

_DURATIONS = {
    "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9, "w": 604800 * 10**9,
}  # fmt: skip
_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_RATE = re.compile(r"(\d{1,9})/(.+)")
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def _parse(text: str, units: dict[str, int], what: str, example: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in units:
        raise ConfigError(
            f"{text!r} is not a {what}: write a number and a unit ({', '.join(units)}), such as {example!r}"
        )
    return round(float(match[1]) * units[match[2]])


def duration_ns(text: str) -> int:
    """Nanoseconds of '250ms', '5s', '1.5h' …; `ConfigError` if it is not a duration."""
    return _parse(text, _DURATIONS, "duration", "15m")


def duration_s(text: str) -> float:
    """Seconds of a duration."""
    return duration_ns(text) / 1e9


def size_bytes(text: str) -> int:
    """Bytes of '64MiB', '1GB' …; `ConfigError` if it is not a size."""
    return _parse(text, _SIZES, "size", "64MiB")


def rate(text: str) -> tuple[int, int]:
    """(how many, ns) of '6/1m': so many in that time; `ConfigError` if it is no rate."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ConfigError(f"rate {text!r}: write how many in what time, such as '6/1m'")
    return int(found[1]), duration_ns(found[2])


def show_duration(ns: int) -> str:
    """The shortest exact text of a duration, e.g. '90s' rather than '1.5m'."""
    for unit, scale in reversed(_DURATIONS.items()):
        if ns and ns % scale == 0:
            return f"{ns // scale}{unit}"
    return "0s"


def show_size(size: int) -> str:
    """The shortest exact text of a number of bytes, e.g. '1536MiB' rather than '1.5GiB'."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


def show_bytes(size: int) -> str:
    """About how many bytes, e.g. '12.3 MB'."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} bytes"
