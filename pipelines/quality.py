"""How far a reading can be trusted: the status classes of OPC UA (part 4, 7.39), as a `Quality` column holds them."""

from __future__ import annotations

GOOD, UNCERTAIN, BAD = 0, 1, 2
