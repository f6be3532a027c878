"""One program run as a child: its own process group, its output in a file, and gone when this process is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Self

from pipelines.errors import Unavailable

POLL_S = 0.05


def free_port() -> int:
    """A TCP port nobody holds at this moment, on any interface.

    Below the range that systems hand to outgoing connections, so that none sits on it while a broker restarts.
    """
    for _ in range(100):
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise Unavailable("found no free port between 20000 and 32000: end some of the programs that listen there")


def port_is_taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens on the port already."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def tail(path: Path, lines_max: int = 15) -> str:
    """The last lines of a log, indented for an error message."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines_max:]) or "    (it wrote nothing)"


class Child:
    """A program started by `start()` and ended by `stop()`. May be started again afterwards.

    With `lock`, that file is locked while the program lives, so that two never work on the same folder.
    The program is asked to end (SIGTERM) when this process dies, however it dies. Linux ties that wish to the *thread*
    that started the program, so it is made only on the main thread, which lives as long as the process.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        lock: Path | None = None,
    ) -> None:
        self.name = name
        self.words = list(words)
        self.log = log
        self._env = dict(env or {})
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, answers: Callable[[], bool], *, timeout_s: float = 30, cure: str = "") -> Self:
        """Start the program and wait until `answers()` is true.

        Raises `Unavailable` with the last lines of its log when it ends before that, or is too slow.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out, self._locked() as locks:
            self._process = subprocess.Popen(
                _tied_to_parent(self.words),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self._env},
                pass_fds=locks,
                start_new_session=True,
            )
        try:
            self._wait_for(answers, monotonic() + timeout_s, timeout_s, cure)
        except BaseException:
            self.kill9()
            raise
        return self

    @property
    def pid(self) -> int:
        """Process id of the running program."""
        if self._process is None:
            raise Unavailable(f"{self.name} is not running: call start() first")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the program is alive."""
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_s: float = 15) -> None:
        """Ask the program to end, and kill its whole group if it has not after `timeout_s`. Safe to call twice."""
        if self.running:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process and self._process.wait(timeout_s)
        self.kill9()

    def kill9(self) -> None:
        """Kill the program and its group at once, as a power cut would. Safe to call twice."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[list[int]]:
        """Hold the lock file and lend it to the program, which keeps it locked for as long as it lives."""
        if self._lock is None:
            yield []
            return
        with self._lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                where = self._lock.parent
                raise Unavailable(f"{self.name} already runs on {where}: stop it or use another folder") from error
            yield [lock.fileno()]

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _wait_for(self, answers: Callable[[], bool], deadline_s: float, timeout_s: float, cure: str) -> None:
        while not answers():
            if not self.running:
                code = self._process and self._process.returncode
                raise Unavailable(f"{self.name} ended with code {code} while starting. {cure}\n{self._last_words()}")
            if monotonic() > deadline_s:
                raise Unavailable(f"{self.name} did not answer within {timeout_s:g} s. {cure}\n{self._last_words()}")
            sleep(POLL_S)

    def _last_words(self) -> str:
        return f"Last lines of {self.log}:\n{tail(self.log)}"


def _tied_to_parent(words: list[str]) -> list[str]:
    setpriv = shutil.which("setpriv")  # of util-linux; elsewhere stop() and the process group must do
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return words
    return [setpriv, "--pdeathsig", "TERM", "--", *words]
