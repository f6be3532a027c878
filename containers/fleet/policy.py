"""How a rollout goes over a fleet: waves, sites at once, failures that stop it, when offline sites are tried again."""

from __future__ import annotations

import math
import zlib

import msgspec

from pipelines.errors import ConfigError

PARALLEL_MAX = 1_000


class Share(msgspec.Struct, frozen=True):
    """A number of sites, or percent of them."""

    value: float
    percent: bool = False

    def __str__(self) -> str:
        return f"{self.value:g}%" if self.percent else f"{self.value:g}"


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The default is everything at once. Raises `ConfigError` if the numbers make no sense."""

    canary: int = 0  # sites that go first, as a wave of their own
    waves: tuple[
        float, ...
    ] = ()  # percent of all sites, each with those of the waves before it; what is left goes last
    max_parallel: int = 128  # threads, which mostly wait
    max_failures: Share = Share(10, percent=True)
    soak_s: float = 0.0  # from the end of a wave to the next one
    retry_s_min: float = 5.0  # an offline site is tried again after so long, then after twice as long …
    retry_s_max: float = 900.0
    seed: int = 0  # of the jitter

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _require(self.canary >= 0, f"canary {self.canary}: write how many sites go first, such as 1")
        ascending = all(a < b for a, b in zip((0.0, *self.waves), self.waves, strict=False))
        _require(
            ascending and max(self.waves, default=100) <= 100,
            f"waves {','.join(f'{w:g}%' for w in self.waves)}: each takes in the waves before it, so write growing "
            "percentages up to 100%, such as 5%,25%,100%",
        )
        _require(
            1 <= self.max_parallel <= PARALLEL_MAX,
            f"max-parallel {self.max_parallel}: write a number from 1 to {PARALLEL_MAX}",
        )
        limit = self.max_failures
        _require(
            0 <= limit.value <= (100 if limit.percent else math.inf) and (limit.percent or limit.value % 1 == 0),
            f"max-failures {limit}: write a number of sites, such as 3, or a percentage, such as 10%",
        )
        _require(self.soak_s >= 0, f"soak {self.soak_s:g} s: cannot be negative")
        _require(0 < self.retry_s_min <= self.retry_s_max, "an offline site's retry must be positive, and grow")

    def quotas(self, sites: int) -> tuple[int, ...]:
        """How many sites must have answered at the end of each wave, those of the waves before included; the last is all."""
        steps = [self.canary, *(math.ceil(w * sites / 100) for w in self.waves), sites]
        return tuple(n for n in sorted({min(n, sites) for n in steps}) if n) or (0,)

    def failures_max(self, quota: int, *, last: bool) -> int:
        """How many sites may have failed in the waves up to the one with this quota before the rollout halts.

        While waves are to come percentages are rounded down, and a wave of which nobody succeeded is never followed by another.
        In the last wave they are rounded up: one failed site does not stop the others.
        """
        share = self.max_failures.value * quota / 100 if self.max_failures.percent else self.max_failures.value
        return math.ceil(share) if last else min(math.floor(share), quota - 1)

    def retry_after_s(self, site: str, offline: int) -> float:
        """How long to leave a site alone that was found offline so many times in a row: doubles, with jitter, up to a limit."""
        longest = min(self.retry_s_max, self.retry_s_min * 2.0 ** min(offline - 1, 60))
        jitter = zlib.crc32(f"{self.seed} {site} {offline}".encode()) / 2**32
        return longest * (1 + jitter) / 2


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)
