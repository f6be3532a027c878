"""What an agent does next, given what it knows: the whole policy, as pure functions of values.

A *version* is the number of a signed document. The agent holds the site to one: the newest, unless that failed, or may not be
begun; then to the one that ran well before.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

import msgspec

from containers.rollout import State

TRIES_MAX = 3  # of a version whose attempts were broken off or failed without having been judged
BACKOFF_S_MAX = 900.0  # between two attempts to reach what does not answer, or to do what did not work
JITTER = 0.25  # of each pause, so that a fleet does not ask in step
WHY_CHARS_MAX = 500
NOTE = "release "  # with the version: what the site's records and history say of who made them


class Memory(msgspec.Struct, frozen=True):
    """What an agent remembers."""

    manifest: str = ""  # digest of what was fetched and believed last
    newest: int = 0  # version of that
    expires_s: float = 0.0  # since the epoch: after that it is not begun with
    good: int = 0  # version that ran well, to which the site can be held
    failed: int = 0  # version that is not tried again
    why: str = ""  # it failed
    tries: int = 0  # of `newest`, that came to no end
    agent_tries: int = 0  # to have the agent that `newest` names take our place
    agent_why: str = ""  # it has not
    before: int = 0  # version that ran well until another took its place; 0: none is known
    settled: int = 0  # version for which rights in the site's own broker were taken away that it does not need


class Kept(msgspec.Struct, frozen=True):
    """A document that was verified, as it is kept at the site."""

    version: int
    expires_s: float
    manifest: str
    document: bytes


class Aim(msgspec.Struct, frozen=True):
    """What the site is to be held to. `version` 0: nothing yet. `update`: it has not run well before."""

    version: int
    update: bool = False
    why_not: str = ""  # the newest


def aim(known: Memory, at_hand: Collection[int], now_s: float) -> Aim:
    """Which version to hold the site to; `at_hand` are those whose documents are there and whole."""
    good = known.good if known.good in at_hand else 0
    newest = known.newest
    if not newest:
        return Aim(good)
    if newest == known.good:
        old = f"release {newest} has expired, and nothing newer came: publish again, or find out who holds it back"
        return Aim(good, why_not=_lost(newest) if not good else old if now_s >= known.expires_s else "")
    if newest == known.failed:
        return Aim(good, why_not=f"release {newest} failed and is not tried again: {known.why}; publish another")
    if newest not in at_hand:
        return Aim(good, why_not=_lost(newest))
    if now_s >= known.expires_s:
        return Aim(good, why_not=f"release {newest} expired before it could be begun: publish it again")
    return Aim(newest, update=True)


def _lost(version: int) -> str:
    return f"release {version} is not on this machine's disk any more: it is fetched again"


def believed(known: Memory, version: int, expires_s: float, manifest: str) -> Memory:
    """A document was verified."""
    again = version == known.newest
    return msgspec.structs.replace(
        known, newest=version, expires_s=expires_s, manifest=manifest, tries=known.tries if again else 0,
        agent_tries=known.agent_tries if again else 0,
    )  # fmt: skip


def begun(known: Memory) -> Memory:
    """An attempt at the newest version begins: it counts until it ends in another way than by a crash."""
    tries = known.tries + 1
    if tries <= TRIES_MAX:
        return msgspec.structs.replace(known, tries=tries, settled=0)
    why = f"{TRIES_MAX} attempts were broken off, or ended without a verdict"
    return msgspec.structs.replace(known, tries=tries, failed=known.newest, why=why)


def unsettled(known: Memory, version: int) -> bool:
    """Whether the site is held to a version that runs well, and rights may be left that others needed: they may go now."""
    return version == known.good != known.settled


def settled(known: Memory) -> Memory:
    """What the version that runs well does not need is taken away, until another is begun."""
    return msgspec.structs.replace(known, settled=known.good)


def ended(known: Memory, state: State, *, judged: bool, why: str, changed: bool = True) -> Memory:
    """An attempt at the newest version has ended. `judged`: by a gate, so it is the version that is bad. `changed`: something
    was replaced, so that going back leads to what ran until now; not if it was the same, published anew."""
    if state == "done":
        before = known.good if changed and known.good != known.newest else known.before
        return msgspec.structs.replace(known, good=known.newest, failed=0, why="", tries=0, before=before)
    if state == "refused":  # nothing was touched: what was missing may be there later
        return msgspec.structs.replace(known, tries=max(0, known.tries - 1))
    if judged or known.tries >= TRIES_MAX:
        return msgspec.structs.replace(known, failed=known.newest, why=_short(why))
    return known


def successor(known: Memory, named: Sequence[str], own: str) -> tuple[tuple[str, ...], str]:
    """The agent that is to take our place, as a release that runs well names it, or why it is not to; neither if that is us."""
    if known.good != known.newest or not named or named[-1] == own:
        return (), ""
    if known.agent_tries < TRIES_MAX:
        return tuple(named), ""
    return (), f"the agent of release {known.newest} is not tried again, and the one before goes on: {known.agent_why}"


def exchange_begun(known: Memory) -> Memory:
    """A newer agent is about to be started: if we are here afterwards, it has not taken our place."""
    return msgspec.structs.replace(known, agent_tries=known.agent_tries + 1, agent_why="it was broken off")


def exchange_failed(known: Memory, why: str) -> Memory:
    """It has not taken our place."""
    return msgspec.structs.replace(known, agent_why=_short(why))


def _short(why: str) -> str:
    return why if len(why) <= WHY_CHARS_MAX else f"{why[:WHY_CHARS_MAX]}…"


def recalled(notes: Iterable[tuple[str, str, str]], at_hand: Iterable[Kept]) -> Memory:
    """What can be known without the memory, which was lost: from the site's history on its engine, (note, result, why) of each
    attempt, oldest first, and from the documents that are there."""
    good, before, failed, why = 0, 0, 0, ""
    for note, result, text in notes:
        number = note.removeprefix(NOTE)
        if not number.isdigit() or not note.startswith(NOTE):
            continue
        if result == "done":
            good, before = int(number), before if int(number) == good else good
            failed, why = 0, ""
        elif result in ("rolled back", "broken"):
            failed, why = int(number), text
    newest = max(at_hand, key=lambda k: k.version, default=Kept(0, 0.0, "", b""))
    failed = failed if failed == newest.version else 0
    return Memory(
        newest.manifest, newest.version, newest.expires_s, good, failed, why if failed else "", before=before
    )  # fmt: skip


def pause_s(usual_s: float, failures: int, chance: random.Random) -> float:
    """How long to wait: longer after each failure in a row, never in step with others."""
    wait_s = min(usual_s * 2.0**failures, max(usual_s, BACKOFF_S_MAX))
    return wait_s * (1 + JITTER * (2 * chance.random() - 1))
