"""What the options of sources have in common: one way to check them, with one wording. For functions such as `mqtt.source`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.secrets import Secret
from pipelines.errors import ConfigError, PlanError
from pipelines.expr import Expr
from pipelines.schema import Schema
from pipelines.units import duration_ns


def duration(kind: str, option: str, text: str, *, zero: bool = False) -> int:
    """Nanoseconds of a duration such as '10m'; `PlanError` if it is none, or zero where that has no meaning."""
    try:
        ns = duration_ns(text)
    except ConfigError as e:
        raise PlanError(f"{kind} {option}: {e}") from e
    if not ns and not zero:
        raise PlanError(f"{kind} {option}: {text!r} is no time at all")
    return ns


def durations(kind: str, **options: str | None) -> None:
    """`PlanError` if an option that is given is no duration, or zero."""
    for option, text in options.items():
        if text is not None:
            duration(kind, option, text)


def secrets(kind: str, **options: Secret | None) -> None:
    """`PlanError` if an option that is given is no secret(…)."""
    for option, given in options.items():
        if given is not None and not isinstance(given, Secret):
            raise PlanError(f'{kind} {option}: write secret("name of a file in secrets_dir")')


def login(kind: str, username: str | None, password: Secret | None) -> None:
    """`PlanError` if the password is nobody's, or no secret(…)."""
    if password is not None and (username is None or not isinstance(password, Secret)):
        raise PlanError(f'{kind} password: write username="…", password=secret("name of a file in secrets_dir")')


def http_login(kind: str, token: Secret | None, username: str | None, password: Secret | None) -> None:
    """`PlanError` unless it is a token, or a name and a password that HTTP can carry, or nothing."""
    secrets(kind, token=token, password=password)
    if (username is None) != (password is None) or (token and password):
        raise PlanError(f'{kind}: write token=secret("…"), or username="…" and password=secret("…")')
    if username is not None and ":" in username:
        raise PlanError(f"{kind} username={username!r}: a colon ends it")


def named(kind: str, schema: type[Schema], fields: Mapping[Any, str] | None) -> tuple[tuple[str, str], ...]:
    """`fields=` by bare name of the column; `PlanError` if one is not a column that devices send."""
    found, ours = [], {f.qualified: f.name for f in schema.sent().fields}
    for column, path in (fields or {}).items():
        if not isinstance(column, Expr) or column.qualified not in ours:
            raise PlanError(f"{kind} fields: {column!r} is no column that devices send; they send {', '.join(ours)}")
        found.append((ours[column.qualified], path))
    return tuple(found)
