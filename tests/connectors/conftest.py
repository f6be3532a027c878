"""What tests of the whole service share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.connectors.test_collect import Collect


@pytest.fixture
def collects() -> Iterator[list[Collect]]:
    """Services to be stopped after the test."""
    started: list[Collect] = []
    yield started
    for collect in started:
        collect.child.kill9()
