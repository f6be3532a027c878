"""Who may speak to control's HTTP API, and how often. Pure: times are given.

A token lets somebody hand in commands and see what became of them. It gives no right to command anything: a signature does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from connectors.secrets import digest, lines_of, place_of
from pipelines.errors import ConfigError

TOKEN_CHARS_MIN = 16  # a shorter one can be guessed
TOKENS_MAX = 100
RATE_PER_S_MAX = 10.0  # requests of one token, in the long run
BURST_MAX = 50  # at once
STRANGERS_PER_S_MAX = 2.0  # requests of all who have no token that is known


@dataclass
class Allowance:
    """A bucket of `burst` requests that fills at `rate_per_s` (a token bucket)."""

    rate_per_s: float
    burst: int
    _left: float = field(init=False)
    _at_s: float = 0.0

    def __post_init__(self) -> None:
        self._left = float(self.burst)

    def wait_s(self, now_s: float) -> int:
        """0 if a request may be made now, which is counted then; else whole seconds until one may."""
        self._left = min(self.burst, self._left + max(now_s - self._at_s, 0.0) * self.rate_per_s)
        self._at_s = now_s
        if self._left >= 1:
            self._left -= 1
            return 0
        return math.ceil((1 - self._left) / self.rate_per_s)


class Tokens:
    """The tokens that are known, as SHA-256, each with its allowance."""

    def __init__(self, text: str) -> None:
        """From a secret with a token on each line; `ConfigError` if it holds none, or one that can be guessed."""
        given = list(dict.fromkeys(lines_of(text)))
        if not 1 <= len(given) <= TOKENS_MAX:
            raise ConfigError(f"secret api_tokens has {len(given)} tokens: write 1 to {TOKENS_MAX}, each on a line")
        for number, token in enumerate(given, 1):
            if len(token) < TOKEN_CHARS_MIN or " " in token:
                raise ConfigError(
                    f"secret api_tokens: token {number} cannot be used: write at least {TOKEN_CHARS_MIN} characters without "
                    "spaces, such as  openssl rand -hex 32  makes"
                )
        self._known = [digest(token.encode()) for token in given]
        self._allowances = [Allowance(RATE_PER_S_MAX, BURST_MAX) for _ in given]
        self._strangers = Allowance(STRANGERS_PER_S_MAX, BURST_MAX)

    def admit(self, authorization: str, now_s: float) -> tuple[int, int]:
        """(status, seconds) for a request with this header Authorization: 0 if it may be made, or 401, or 429 and when it may.

        The time that it takes does not say which was nearly right.
        """
        scheme, _, given = authorization.partition(" ")
        found = place_of(given.strip().encode(errors="surrogateescape"), self._known)
        if found is None or scheme.lower() != "bearer":
            wait_s = self._strangers.wait_s(now_s)
            return (429, wait_s) if wait_s else (401, 0)
        wait_s = self._allowances[found].wait_s(now_s)
        return (429, wait_s) if wait_s else (0, 0)
