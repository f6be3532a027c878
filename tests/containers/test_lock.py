"""The lock of a site: three deployers at once, slow, crashing, in any order (simulated); then processes on a real engine."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containers import lock, names
from containers.commands import Command, CreateVolume, RemoveVolume
from containers.engine import Engine
from containers.hold import Hold, held, operator_name
from containers.lock import Claim, Lock, Seen, T, Talk
from pipelines.clock import SystemClock
from pipelines.errors import SitestreamError, Unavailable
from tests.bed import engine as bed
from tests.bed.waiting import wait_until
from tests.containers.kit import with_environment

SITE = "hall1"
ROOT = Path(__file__).parents[2]


# simulated


@dataclass
class World:
    """An engine with its clock, and who did something to the site, one after the other."""

    now_s: float = 1000.0
    volumes: dict[str, dict[str, str]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def run(self, command: Command) -> None:
        match command:
            case CreateVolume(name, labels):
                self.volumes.setdefault(name, dict(labels))
            case RemoveVolume(name):
                self.volumes.pop(name, None)

    def look(self) -> Seen:
        return lock.seen(SITE, float(int(self.now_s)), self.volumes)


def talk(world: World, what: Talk[T]) -> Generator[None, None, T]:
    """A talk with the engine; others may act before each of its calls."""
    step = next(what)
    while True:
        for command in lock.commands(SITE, step):
            yield
            world.run(command)
        yield
        try:
            step = what.send(world.look())
        except StopIteration as end:
            result: T = end.value
            return result


def alone(world: World, what: Talk[T]) -> T:
    """A talk that nobody interrupts."""
    going = talk(world, what)
    while True:
        try:
            next(going)
        except StopIteration as end:
            result: T = end.value
            return result


def deployer(world: World, me: Claim, *, last: bool) -> Generator[None, None, None]:
    """Takes the lock, does four things to the site, each after a check as `Hold.check` does it, and releases the lock."""
    if (yield from talk(world, lock.take(me))).token != me.token:
        return
    for turn in range(4):
        seen_s = -1000.0
        while world.now_s - seen_s >= me.margin_s:
            seen_s = world.now_s
            now = yield from talk(world, lock.keep(me, me.lease_s if turn == 2 else me.margin_s))
            if now is None or now.token != me.token:
                return
            yield
        world.done.append(me.token)
    yield from talk(world, lock.release(me, last=last))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), stalls=st.sampled_from([0.02, 0.1, 0.3]), destroys=st.sampled_from([0.0, 0.5]))
def test_one_at_a_time_whoever_is_slow_or_crashes_and_the_next_always_gets_it(
    seed: int, stalls: float, destroys: float
) -> None:
    """Each turn one of three does its next few calls; between turns time passes, so that somebody is stalled for so long."""
    chance, world, born = random.Random(seed), World(), 0
    actors: dict[int, Generator[None, None, None]] = {}
    for _ in range(150):
        who = chance.randrange(3)
        if chance.random() < 0.03:
            actors.pop(who, None)  # crashed
        if who not in actors:
            born += 1
            claim = Claim(f"{who}:{born}", f"d{who}", "deployed")
            actors[who] = deployer(world, claim, last=chance.random() < destroys)
        for _ in range(chance.choice([1, 1, 2, 4, 12])):
            if next(actors[who], "ended") == "ended":
                del actors[who]
                break
        if chance.random() < stalls:
            world.now_s += chance.choice([0.4, 1.0, 9.5, 25.0, 50.5, 61.0])
    turns = [token for i, token in enumerate(world.done) if i == 0 or world.done[i - 1] != token]
    assert len(turns) == len(set(turns)), f"somebody acted, another did, and the first again: {turns}"
    world.now_s += lock.LEASE_S + 2
    next_one = Claim("next", "n", "deployed")
    assert alone(world, lock.take(next_one)).token == "next"
    alone(world, lock.release(next_one))
    assert len(world.volumes) == 1


# decided


ME, OTHER = Claim("me", "anna@laptop (process 7)", "deployed"), Claim("other", "bob@desk (process 8)", "rolled back")


def test_a_lock_is_taken_renewed_released_and_taken_by_the_next() -> None:
    world = World()
    assert alone(world, lock.take(ME)).number == 1
    assert alone(world, lock.take(OTHER)).token == "me"
    world.now_s += 20
    renewed = alone(world, lock.keep(ME, ME.lease_s))
    assert renewed == Lock(2, "me", ME.by, "deployed", 1000.0, 1080.0, 60.0)
    assert alone(world, lock.keep(ME, ME.margin_s)) == renewed  # valid for long enough
    alone(world, lock.release(ME))
    assert alone(world, lock.take(OTHER)).number == 4
    assert set(world.volumes) == {names.lock(SITE, 4)}
    alone(world, lock.release(OTHER, last=True))
    assert world.volumes == {}


def test_one_that_is_too_slow_loses_it_and_is_told_to_whom() -> None:
    world = World()
    alone(world, lock.take(ME))
    world.now_s += 61
    assert alone(world, lock.take(OTHER)).token == "other"
    now = alone(world, lock.keep(ME, ME.margin_s))
    assert now is not None
    assert now.token == "other"
    alone(world, lock.release(ME))  # of another's nothing is touched
    assert world.look().newest == now
    assert lock.lost(SITE, now) == (
        "the lock of site hall1 was lost to bob@desk (process 8), who took it at 00:17 UTC after ours had expired: stopping "
        "before the next command; it may be half-way: deploy again, which begins by mending it"
    )
    assert "was removed while we were at work" in lock.lost(SITE, None)


def test_an_own_lock_that_expired_is_renewed_if_nobody_took_it() -> None:
    world = World()
    alone(world, lock.take(ME))
    world.now_s += 500
    now = alone(world, lock.keep(ME, ME.margin_s))
    assert now is not None
    assert (now.token, now.left_s(world.now_s)) == ("me", 60.0)


def test_one_who_comes_late_after_a_destroy_leaves_it_to_the_present_owner() -> None:
    """The late one knows a high number from before, and the present owner began anew with 1."""
    world = World(volumes={})
    alone(world, lock.take(ME))
    alone(world, lock.release(ME))
    late = lock.take(Claim("late", "l", "deployed"))
    next(late)
    make = late.send(world.look())
    world.volumes.clear()
    alone(world, lock.take(OTHER))
    for command in lock.commands(SITE, make):
        world.run(command)
    withdraw = late.send(world.look())
    assert withdraw == lock.Drop((3,))
    with pytest.raises(StopIteration) as end:
        late.send(world.look())
    assert end.value.value.token == "other"


@pytest.mark.parametrize(("later_s", "number"), [(49.9, 1), (50.0, 2)])
def test_it_is_renewed_before_a_command_that_might_outlast_it(later_s: float, number: int) -> None:
    """The time seen is in whole seconds: 10 s are left for sure only if 11 s seem to be."""
    world = World()
    alone(world, lock.take(ME))
    world.now_s += later_s
    now = alone(world, lock.keep(ME, ME.margin_s))
    assert now is not None
    assert now.number == number


def test_an_owner_that_is_known_to_have_gone_is_not_waited_for() -> None:
    world = World()
    alone(world, lock.take(OTHER))
    assert alone(world, lock.take(ME, over="somebody else")).token == "other"
    assert alone(world, lock.take(ME, over="other")).token == "me"


@pytest.mark.parametrize("back_s", [3600.0, 10.0])
def test_an_engine_whose_clock_was_put_back_does_not_lock_everybody_out(back_s: float) -> None:
    world = World(now_s=10_000.0)
    alone(world, lock.take(OTHER))
    world.now_s -= back_s
    assert alone(world, lock.take(ME)).token == "me"


def test_a_lock_that_cannot_be_read_counts_as_expired() -> None:
    world = World(volumes={names.lock(SITE, 7): {}, names.lock(SITE, "x"): {}, names.lock("hall10", 9): {}})
    assert alone(world, lock.take(ME)).number == 8


def test_who_waits_is_told_for_whom() -> None:
    busy = lock.busy(SITE, Lock(3, "t", "anna@laptop (process 7)", "deployed", 43_380.0, 43_440.0, 60.0), 43_397.0)
    assert (
        busy
        == "site hall1 is being deployed by anna@laptop (process 7) since 12:03 UTC (expires in 43 s unless renewed)"
    )


# real


@pytest.fixture(scope="module")
def connected(engine: bed.Engine) -> Engine:
    return Engine(engine.url)


HOLDER = """
import sys, time
from pathlib import Path
from containers.engine import Engine
from containers.hold import held

url, site, times, work_s, lease_s, diary = sys.argv[1:]
for _ in range(int(times)):
    with held(Engine(url), site, "deployed", print, wait_s=60, lease_s=float(lease_s)):
        for word in ("in", "out"):
            with Path(diary).open("a") as f:
                f.write(word + "\\n")
            time.sleep(float(work_s))
"""


def _holder(
    engine: bed.Engine, site: str, diary: Path, *, times: int, work_s: float, lease_s: float, cache: Path
) -> subprocess.Popen[bytes]:
    """A process that takes the lock and writes into its diary; with a `cache` of its own as if on another machine."""
    words = [engine.url, site, str(times), str(work_s), str(lease_s), str(diary)]
    environment = with_environment(PYTHONPATH=str(ROOT), XDG_CACHE_HOME=str(cache))
    return subprocess.Popen([sys.executable, "-c", HOLDER, *words], env=environment, stdout=subprocess.DEVNULL)


def _lines(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def test_processes_of_two_machines_are_never_in_at_once(engine: bed.Engine, unique: str, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    both = [_holder(engine, unique, diary, times=2, work_s=0.05, lease_s=60, cache=tmp_path / str(i)) for i in range(2)]
    assert [p.wait(90) for p in both] == [0, 0]
    assert _lines(diary) == ["in", "out"] * 4


def test_it_is_renewed_as_long_as_the_work_lasts_and_others_are_told_who_has_it(
    connected: Engine, engine: bed.Engine, unique: str, tmp_path: Path
) -> None:
    first = _holder(engine, unique, tmp_path / "diary", times=1, work_s=2.5, lease_s=2.0, cache=tmp_path)
    wait_until(lambda: _lines(tmp_path / "diary") == ["in"], 30, "the other process to have it")
    said: list[str] = []
    message = (
        rf"site {unique} is being deployed by {operator_name()} \(process {first.pid}\) since \d\d:\d\d UTC \(expires in "
        r"\d s unless renewed\): wait for it with --lock-timeout 2m, or ask"
    )
    begun = time.monotonic()
    with (
        pytest.raises(Unavailable, match=message),
        held(connected, unique, "deployed", said.append, wait_s=2.4),
    ):
        pass
    assert time.monotonic() - begun > 2.3  # a lease and more
    assert [text.rpartition(": ")[2] for text in said] == ["waiting"]
    with held(connected, unique, "deployed", said.append, wait_s=20):
        assert first.wait(20) == 0
    assert _lines(tmp_path / "diary") == ["in", "out"]


@pytest.mark.parametrize("same_machine", [True, False])
def test_after_a_kill_the_next_takes_over(
    connected: Engine,
    engine: bed.Engine,
    unique: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same_machine: bool,
) -> None:
    """At once if it can tell that the owner has gone, as a process of the same user on the same machine; else when it expires."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lease_s, cache = (600.0, tmp_path) if same_machine else (3.0, tmp_path / "other")
    first = _holder(engine, unique, tmp_path / "diary", times=1, work_s=60, lease_s=lease_s, cache=cache)
    wait_until(lambda: _lines(tmp_path / "diary") == ["in"], 30, "the other process to have it")
    wait_until(lambda: bool((cache / "sitestream/deploying" / unique).read_text()), 5, "its mark")
    with pytest.raises(Unavailable, match="is being deployed by"), held(connected, unique, "deployed", print):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    with held(connected, unique, "deployed", print, wait_s=0 if same_machine else 20):
        pass


def test_whoever_lost_it_does_nothing_more(connected: Engine, engine: bed.Engine, unique: str) -> None:
    other = Engine(engine.url)
    mine = CreateVolume(f"{unique}-mine", {})
    thief = Hold(other, unique, Claim("thief", "eve@desk (process 1)", "deployed"), SystemClock())
    with held(connected, unique, "deployed", print) as hold:
        connected.run(mine)
        thief._have(lock.take(thief.claim, over=hold.claim.token))
        for _ in range(2):
            with pytest.raises(
                Unavailable, match=rf"the lock of site {unique} was lost to eve@desk \(process 1\), who took"
            ):
                connected.run(RemoveVolume(mine.name))
    assert mine.name in connected.volumes(unique)[1]
    newest = lock.seen(unique, *connected.volumes(names.lock(unique, ""))).newest
    assert newest is not None
    assert newest.token == "thief"  # the release did not touch it
    thief.release(last=True)
    connected.run(RemoveVolume(mine.name))  # no lock, no fence


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SitestreamError("no")])
def test_it_is_released_on_errors_and_interrupts(connected: Engine, unique: str, error: BaseException) -> None:
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(type(error)))
        stack.enter_context(held(connected, unique, "deployed", print))
        raise error
    with held(connected, unique, "deployed", print, last=True):
        pass
    assert connected.volumes(names.lock(unique, ""))[1] == {}


def test_the_time_is_the_engines(connected: Engine) -> None:
    assert abs(connected.volumes("x")[0] - SystemClock().now_ns() / 1e9) < 2
