"""What happens in a rollout, as values. A journal is a list of them; the state of a rollout is what they add up to."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Kind = Literal["done", "unchanged", "failed", "broken", "offline"]


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an attempt to bring one site up to date ended."""

    kind: Kind  # failed: the site runs what it ran before; broken: it does not, or nobody knows
    message: str = ""
    revision: int = 0  # that the site has now; 0 if unknown
    bytes_shipped: int = 0


class _Event(msgspec.Struct, frozen=True, tag_field="event", tag=str.lower, omit_defaults=True):
    at_s: float  # seconds since the epoch


class Started(_Event, frozen=True):
    """An attempt begins."""

    site: str


class Finished(_Event, frozen=True):
    """An attempt is over."""

    site: str
    outcome: Outcome


class Paused(_Event, frozen=True):
    """Nothing new is to start until further notice."""

    who: str = ""


class Resumed(_Event, frozen=True):
    """A paused rollout goes on."""

    who: str = ""


class Aborted(_Event, frozen=True):
    """Nothing new is to start any more."""

    who: str = ""


class Superseded(_Event, frozen=True):
    """A newer rollout has taken these sites over."""

    by: str  # its id
    sites: tuple[str, ...]


class Restarted(_Event, frozen=True):
    """A process takes up what another left: nobody knows how the attempts ended that were under way."""


class Tick(_Event, frozen=True):
    """Time went by. The only event that no journal needs: the next one tells the time as well."""


class Over(_Event, frozen=True):
    """Every site has its final state. The last event; says again, for a list of rollouts, how it went."""

    result: str
    counts: dict[str, int]


Event: TypeAlias = Started | Finished | Paused | Resumed | Aborted | Superseded | Restarted | Tick | Over
