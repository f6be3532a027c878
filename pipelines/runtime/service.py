"""What every service does at its start and end: settings, logging, metrics and health, signals, errors of one line.

async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
    ...  # work until `stop` is set, then drain and return

if __name__ == "__main__":
    sys.exit(run_service("collect", main, conditions=("connected", "broker")))
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from pipelines import metrics
from pipelines.errors import ConfigError, SitestreamError, Unavailable
from pipelines.runtime import identity
from pipelines.runtime.serve import Health, serve
from pipelines.settings import Settings, load

DRAIN_S_MAX = 20.0  # from the stop signal to the exit; `docker stop -t` must be longer
Main = Callable[[Settings, Health, asyncio.Event], Awaitable[None]]


def run_service(name: str, main: Main, *, conditions: Sequence[str] = (), argv: Sequence[str] | None = None) -> int:
    """Run `main` until it returns; the process's exit code: 0 after a clean drain, 1 after an error it cannot survive.

    `--config FILE` gives the settings. SIGTERM and SIGINT set the `stop` event. Each of `conditions` is a health condition
    that is false until `main` sets it. A `SitestreamError` becomes one line on stderr; another exception is a bug and keeps
    its trace.
    """
    parser = argparse.ArgumentParser(prog=name, description=f"Sitestream service {name!r}.")
    parser.add_argument("--config", required=True, metavar="FILE", help="JSON of pipelines.settings.Settings")
    path = parser.parse_args(argv).config
    try:
        settings = load(path)
        set_up_logging(settings.log_level)
        identity.become(name, settings)
        asyncio.run(_serve_and_run(name, main, settings, conditions))
    except SitestreamError as e:
        print(f"{name}: {e}", file=sys.stderr)
        return 1
    return 0


def set_up_logging(level: str) -> None:
    """One plain line an event on stderr; `ConfigError` if the level is unknown."""
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"log_level {level!r} is unknown: write DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    if level != "DEBUG":  # aiokafka floods the log while a broker is away; what matters it raises as well
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def _serve_and_run(name: str, main: Main, settings: Settings, conditions: Sequence[str]) -> None:
    health = Health(dict.fromkeys(conditions, False))
    server = serve(settings.metrics_port, health)
    metrics.build.info({"service": name, "version": _version()})
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    try:
        await _until_drained(name, main(settings, health, stop), stop)
    finally:
        server.stop()


async def _until_drained(name: str, work: Awaitable[None], stop: asyncio.Event) -> None:
    """Await `work`, for at most `DRAIN_S_MAX` once `stop` is set."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(DRAIN_S_MAX if stop.is_set() else None):
            await task
    except TimeoutError as e:
        if stop.is_set() and task.cancelled():
            raise Unavailable(
                f"{name} did not finish within {DRAIN_S_MAX:.0f} s of the stop signal; what was not committed is done again "
                "at the next start"
            ) from e
        raise
    finally:
        stopped.cancel()


def _version() -> str:
    try:
        return version("sitestream")
    except PackageNotFoundError:
        return "unknown"  # run from a source tree that is not installed
