"""How often somebody may do something: token buckets. Pure: times are given."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Bucket:
    """Holds `burst` tokens and fills at `rate_per_s`.

    One token is enough to begin; what costs more leaves a debt. So what is dear comes through as well, and in any time no more is
    taken than `burst` + rate × time, and once what the last one cost.
    """

    rate_per_s: float
    burst: int
    _left: float = field(init=False)
    _at_s: float = 0.0

    def __post_init__(self) -> None:
        self._left = float(self.burst)

    def wait_s(self, now_s: float) -> int:
        """0 if something may be done now, else whole seconds until it may."""
        now_s = max(now_s, self._at_s)
        self._left = min(self.burst, self._left + (now_s - self._at_s) * self.rate_per_s)
        self._at_s = now_s
        return 0 if self._left >= 1 else math.ceil((1 - self._left) / self.rate_per_s)

    def take(self, cost: int = 1) -> None:
        """It is done: to be called after `wait_s` gave 0."""
        self._left -= cost


class Buckets:
    """One for each name; of more than `names_max` the one that was asked for least recently is forgotten, and would be full."""

    def __init__(self, rate_per_s: float, burst: int, names_max: int) -> None:
        self._rate_per_s, self._burst, self._names_max = rate_per_s, burst, names_max
        self._known: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, name: str) -> Bucket:
        """Its bucket."""
        if name not in self._known:
            self._known[name] = Bucket(self._rate_per_s, self._burst)
            if len(self._known) > self._names_max:
                self._known.popitem(last=False)
        self._known.move_to_end(name)
        return self._known[name]
