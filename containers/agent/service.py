"""The agent's process: turn after turn, until it is told to end. It listens on nothing.

It can be ended at any moment, also in mid-deploy: the next start mends what was left. When the engine does not answer for long
the process ends: whoever starts it again gives it the socket that is the engine's present one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from containers.agent import config as configuration
from containers.agent.config import Config
from containers.agent.decide import pause_s
from containers.agent.disk import Disk
from containers.agent.exchange import LOOK_S, Seat
from containers.agent.profile import ALIVE_FILE, TOKEN_VARIABLE
from containers.agent.turn import Agent
from containers.engine import Engine
from pipelines.clock import Clock, SystemClock
from pipelines.errors import SitestreamError, Unavailable

ENGINE_TRIES_MAX = 5  # turns in a row in which it did not answer


class Log:
    """Lines on stdout, each with its time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, text: str, *, bad: bool = False) -> None:
        """One line, or several of a log."""
        at = datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC)
        print(f"{at:%Y-%m-%dT%H:%M:%SZ} {'ERROR' if bad else 'INFO'} {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; exit code 1 after an error that a new start may cure."""
    parser = argparse.ArgumentParser(prog="agent", description="Brings a site to what is published for it.")
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="JSON of containers.agent.config.Config"
    )
    path: Path = parser.parse_args(argv).config
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        run(configuration.load(path), path.parent)
    except SitestreamError as e:
        print(f"agent: {e}", file=sys.stderr)
        return 1
    return 0


def run(config: Config, folder: Path) -> None:
    """Turn after turn. `folder` is where the settings and secrets are."""
    clock = SystemClock()
    log, disk = Log(clock), Disk(Path(config.data))
    trusted = configuration.set_up(config, disk, folder)
    identity = disk.identity()
    log(f"agent of site {config.site}, key {identity.public}: asks {config.repository} every {config.poll_s:g} s")
    with closing(Engine(config.engine)) as engine, configuration.registry(config, folder) as repo:
        agent = Agent(
            config.site, engine, repo, trusted, disk, identity, log, _version(), clock, alive=lambda: ALIVE_FILE.touch()
        )
        _turns(agent, Seat(agent, config.frame, os.environ.get(TOKEN_VARIABLE, "")), config.poll_s)


def _turns(agent: Agent, seat: Seat, poll_s: float) -> None:
    failures = deaf = waits = 0
    begun = False
    while True:
        deaf = 0 if agent.engine.answers() else deaf + 1
        if deaf >= ENGINE_TRIES_MAX:
            raise Unavailable("the Docker engine has not answered for long: starting again")
        if not seat.settled():
            waits += 1
            time.sleep(pause_s(LOOK_S, waits, random.Random()))  # noqa: S311 - no secret
            continue
        if not begun:
            agent.start()
            begun = True
        failures = 0 if agent.turn() else failures + 1
        if not failures:
            seat.exchange()
        time.sleep(pause_s(poll_s, failures, random.Random()))  # noqa: S311 - no secret


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _version() -> str:
    return importlib.metadata.version("sitestream")
