"""Where this machine keeps what it fetched or made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/sitestream, by default ~/.cache/sitestream."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sitestream"


def made_once(target: Path, make: Callable[[Path], None]) -> None:
    """Have `make` fill the folder `target` unless it is there. It is whole or absent, whoever else makes it meanwhile."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as scratch:
        complete = Path(scratch, "complete")
        complete.mkdir()
        make(complete)
        try:
            complete.rename(target)
        except OSError:
            if not target.exists():  # else somebody was faster, and theirs is as good
                raise
