"""Holds the lock of a site while it is changed: takes it, renews it, has the engine refuse every command once it is lost."""

from __future__ import annotations

import fcntl
import getpass
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from containers import lock, names
from containers.cache import cache_dir
from containers.engine import Engine
from containers.lock import Claim, Lock, Seen, Talk
from pipelines.clock import Clock, SystemClock
from pipelines.errors import SitestreamError, Unavailable

POLL_S = 0.5
T = TypeVar("T")


def operator_name() -> str:
    """Who we are, for locks and histories: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextmanager
def held(
    engine: Engine,
    site: str,
    purpose: str,
    report: Callable[[str], None],
    *,
    wait_s: float = 0.0,
    lease_s: float = lock.LEASE_S,
    last: bool = False,
    clock: Clock | None = None,
) -> Iterator[Hold]:
    """The lock of a site is ours, and `engine` runs commands as long as it is.

    `purpose` ends the sentence "the site is being …". Waits up to `wait_s` for another who has it; then `Unavailable` says
    who. Freed at the end, or, if this process is killed, after `lease_s`; with `last` the engine keeps nothing of the lock.
    """
    claim = Claim(secrets.token_hex(8), f"{operator_name()} (process {os.getpid()})", purpose, lease_s)
    hold = Hold(engine, site, claim, clock or SystemClock())
    hold.take(wait_s, report)
    with _marked(site, claim.token):
        try:
            with hold.renewed():
                yield hold
        finally:
            try:
                hold.release(last=last)
            except SitestreamError as e:
                report(f"the lock of site {site} could not be released ({e}); it expires in {lease_s:.0f} s")


@dataclass
class Hold:
    """The lock of one site, held or wanted. Every method may raise `Unavailable`."""

    engine: Engine
    site: str
    claim: Claim
    clock: Clock
    _alone: threading.Lock = field(default_factory=threading.Lock)  # the renewing thread and the working one take turns

    def take(self, wait_s: float, report: Callable[[str], None]) -> None:
        """Get the lock; `Unavailable` names who has it if it is not free within `wait_s`."""
        begun, over, told = self.clock.monotonic_s(), "", ""
        while (found := self._have(lock.take(self.claim, over))).token != self.claim.token:
            if over := found.token if _has_gone(self.site, found) else "":
                continue
            now_s = self._look().now_s
            if not found.left_s(now_s):
                continue
            why = lock.busy(self.site, found, now_s)
            if self.clock.monotonic_s() - begun >= wait_s:
                raise Unavailable(
                    f"{why}: wait for it with --lock-timeout 2m, or ask for it to be stopped; a lock whose owner died expires"
                )
            if told != found.token:
                report(f"{why}: waiting")
                told = found.token
            time.sleep(min(POLL_S, wait_s))

    def check(self) -> None:
        """Before each command: `Unavailable`, naming whose it is now, if the lock is not ours any more."""
        while True:
            begun = self.clock.monotonic_s()
            self._keep(self.claim.margin_s)
            if self.clock.monotonic_s() - begun < self.claim.margin_s:  # else what we saw is too old to rely on
                return

    def release(self, *, last: bool) -> None:
        """Let others have it."""
        self._have(lock.release(self.claim, last=last))

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renewed in the background, and checked before each command of the engine."""
        end = threading.Event()

        def renew() -> None:
            while not end.wait(self.claim.renew_s):
                try:
                    self._keep(self.claim.lease_s)
                except SitestreamError:  # `check` meets it, too, and tells
                    continue

        thread = threading.Thread(target=renew, name=f"lock of {self.site}", daemon=True)
        thread.start()
        before, self.engine.fence = self.engine.fence, self.check
        try:
            yield
        finally:
            self.engine.fence = before
            end.set()
            thread.join()

    def _keep(self, least_s: float) -> None:
        now = self._have(lock.keep(self.claim, least_s))
        if now is None or now.token != self.claim.token:
            raise Unavailable(lock.lost(self.site, now))

    def _have(self, talk: Talk[T]) -> T:
        """Have a talk with the engine."""
        with self._alone:
            step = next(talk)
            while True:
                for command in lock.commands(self.site, step):
                    self.engine.run(command, fenced=False)
                try:
                    step = talk.send(self._look())
                except StopIteration as end:
                    result: T = end.value
                    return result

    def _look(self) -> Seen:
        return lock.seen(self.site, *self.engine.volumes(names.lock(self.site, "")))


def _mark(site: str) -> Path:
    return cache_dir() / "deploying" / site


@contextmanager
def _marked(site: str, token: str) -> Iterator[None]:
    """While it lasts, other processes of this user here can tell that the owner of a token lives; later, that it has gone."""
    _mark(site).parent.mkdir(parents=True, exist_ok=True)
    with _mark(site).open("a") as mark:
        if _locked(mark, fcntl.LOCK_EX):  # else another engine's site of the same name is being changed: we do without
            mark.truncate(0)
            mark.write(token)
            mark.flush()
        yield


def _has_gone(site: str, other: Lock) -> bool:
    """Whether the owner of a lock is known to have ended: it was a process of this user on this machine."""
    if other.by.partition(" ")[0] != operator_name():
        return False
    try:
        with _mark(site).open() as mark:
            return mark.read() == other.token and _locked(mark, fcntl.LOCK_SH)
    except OSError:
        return False


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
