"""Where readings are posted: a path, of which one part may be the device. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

from pipelines.errors import PlanError

_PART = re.compile(r"[A-Za-z0-9._~-]+|\{[A-Za-z_][A-Za-z0-9_]*\}")
PARTS_MAX = 16


@dataclass(frozen=True)
class PostPath:
    """'/readings/{device}': the part in braces is called as the schema's Key."""

    text: str
    key: str  # the schema's Key

    def check(self) -> None:
        """`PlanError` if it cannot be a path."""
        parts = self._parts
        if not self.text.startswith("/") or not 1 <= len(parts) <= PARTS_MAX or not all(map(_PART.fullmatch, parts)):
            raise PlanError(
                f"http push path={self.text!r}: write one such as '/readings' or '/readings/{{{self.key}}}'"
            )
        named = [p[1:-1] for p in parts if p.startswith("{")]
        if named not in ([], [self.key]):
            raise PlanError(
                f"http push path={self.text!r}: only {{{self.key}}}, the schema's Key, can stand in it, once"
            )

    @cached_property
    def _parts(self) -> list[str]:
        return self.text[1:].split("/")

    @cached_property
    def place(self) -> int | None:
        """Which part is the key; None if none is."""
        return next((i for i, p in enumerate(self._parts) if p.startswith("{")), None)

    def match(self, raw: str) -> str | None:
        """The key in a path as it came ('' if the path has none); None if it is another path."""
        parts = raw.partition("?")[0][1:].split("/")
        if len(parts) != len(self._parts):
            return None
        try:
            decoded = [unquote(p, errors="strict") for p in parts]
        except UnicodeDecodeError:
            return None
        if any(i != self.place and decoded[i] != part for i, part in enumerate(self._parts)):
            return None
        return "" if self.place is None else decoded[self.place] or None
