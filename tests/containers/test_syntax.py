"""Syntax trees are made one at a time: Python's own parser mixes threads up."""

from __future__ import annotations

import ast
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from containers.syntax import tree_of


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns all the time, also in the middle of Python's own functions: where garbage is collected."""

    def turn(*_: object) -> None:
        time.sleep(0)

    usual = gc.get_threshold()
    gc.set_threshold(20)
    gc.callbacks.append(turn)
    yield
    gc.callbacks.remove(turn)
    gc.set_threshold(*usual)


@pytest.mark.usefixtures("impatient")
def test_many_threads_read_python_at_the_same_time() -> None:
    text = Path(__file__).read_text() * 4
    text = text.replace("from __future__ import annotations\n", "")
    with ThreadPoolExecutor(8) as threads:
        trees = list(threads.map(lambda _: tree_of(text), range(32)))
    assert {ast.dump(tree) for tree in trees} == {ast.dump(trees[0])}
