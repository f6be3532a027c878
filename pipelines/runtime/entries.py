"""Code that a description names as 'module:name', loaded where it is needed only."""

from __future__ import annotations

import importlib
from typing import Any

from pipelines.errors import ConfigError


def made(entry: str, what: str, *args: object) -> Any:
    """What the entry makes of the arguments; `ConfigError`, which begins with `what`, if a library for it is not installed."""
    module, _, name = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(*args)
    except ImportError as e:
        raise ConfigError(f"{what} cannot be loaded ({e}): install what it needs") from e
