"""What all services share: settings, one line for an error, a clean end on SIGTERM, metrics and health over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.child import free_port
from pipelines.errors import ConfigError, Unavailable
from pipelines.runtime import service
from pipelines.runtime.serve import Health, serve
from pipelines.runtime.service import run_service
from pipelines.settings import Settings


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A service sets up the logging of its process; here that is the tests' own."""
    root, client = logging.getLogger(), logging.getLogger("aiokafka")
    before = root.level, root.handlers[:], client.level
    yield
    root.level, root.handlers[:], client.level = before


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"site": "s", "brokers": "b:1", "pipeline": "p.py", "metrics_port": free_port()}))
    return ["--config", str(path)]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_service_is_unhealthy_until_all_its_conditions_hold(config: list[str]) -> None:
    seen: list[tuple[int, str]] = []

    async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
        assert settings.site == "s"
        for conditions in ({}, {"up": True}, {"ready": True}):
            health.set(**conditions)
            seen.append(await asyncio.to_thread(get, settings.metrics_port, "/healthz"))
        seen.append(await asyncio.to_thread(get, settings.metrics_port, "/metrics"))

    assert run_service("demo", main, conditions=("up", "ready"), argv=config) == 0
    assert [status for status, _ in seen] == [503, 503, 200, 200]
    assert json.loads(seen[1][1]) == {"healthy": False, "conditions": {"up": True, "ready": False}}
    assert 'sitestream_build_info{service="demo"' in seen[3][1]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_drain(config: list[str], sig: signal.Signals) -> None:
    drained = []

    async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), sig)
        await stop.wait()
        await asyncio.sleep(0.01)
        drained.append(True)

    assert run_service("demo", main, argv=config) == 0
    assert drained


def test_an_error_is_one_line_that_names_the_service(config: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
        raise Unavailable("the thing is not there: switch it on")

    assert run_service("demo", main, argv=config) == 1
    assert capfd.readouterr().err == "demo: the thing is not there: switch it on\n"


def test_a_drain_that_takes_too_long_is_ended(
    config: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DRAIN_S_MAX", 0.05)

    async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
        stop.set()
        await asyncio.sleep(60)

    assert run_service("demo", main, argv=config) == 1
    assert "demo did not finish within 0 s of the stop signal" in capfd.readouterr().err


def test_a_bug_keeps_its_trace(config: list[str]) -> None:
    async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        run_service("demo", main, argv=config)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"site": "s"}', "missing required field `brokers`"),
        ('{"site": "s", "brokers": "b", "pipeline": "p", "log_levl": "INFO"}', "did you mean `log_level`?"),
        ('{"site": "s", "brokers": "b", "pipeline": "p", "log_level": "LOUD"}', "write DEBUG, INFO, WARNING or ERROR"),
        ("{", "is not JSON"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, says: str) -> None:
    async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
        raise AssertionError("must not start")

    path = tmp_path / "settings.json"
    path.write_text(text)
    assert run_service("demo", main, argv=["--config", str(path)]) == 1
    error = capfd.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_said_so() -> None:
    first = serve(0, Health())
    with pytest.raises(ConfigError, match=f"metrics port {first.port} cannot be used .* set another `metrics_port`"):
        serve(first.port, Health())
    first.stop()
