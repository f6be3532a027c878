"""Fixtures of the tests of the agent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.agent.world import World


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is flushed: no power is cut here, and it is most of the time. Locks are noted in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def world(fast_disk: None, tmp_path: Path) -> World:
    """A site at which release 1 runs."""
    made = World(tmp_path / "world")
    made.publish(1)
    made.agent.start()
    assert made.agent.turn(), made.said
    assert made.engine.running == made.expected(1)
    return made
