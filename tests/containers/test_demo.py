"""What the demonstration tells: counts that cannot hide a loss, and pictures of text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from containers.live import View
from containers.proof import Count, sparkline
from containers.scrape import Readings


@pytest.mark.parametrize(
    ("collected", "windowed", "stored", "lost"),
    [(10, 10, 10, 0), (9, 9, 9, 1), (10, 8, 10, 2), (10, 10, 7, 3), (10, 11, 10, -1), (9, 10, 11, 1)],
)
def test_a_loss_anywhere_is_told(collected: int, windowed: int, stored: int, lost: int) -> None:
    count = Count(10, collected, windowed, stored)
    assert count.lost == lost
    assert f"{max(lost, 0)} lost" in str(count)
    assert ("DOUBLED" in str(count)) == (lost < 0)


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 10, ""),
        ([5.0], 10, "▁"),
        ([0.0, 7.0], 10, "▁█"),
        ([0.0, 0.0, 7.0, 7.0], 2, "▁█"),
        (list(range(8)), 8, "▁▂▃▄▅▆▇█"),
    ],
)
def test_a_sparkline_shows_the_course(values: list[float], width: int, line: str) -> None:
    assert sparkline(values, width) == line


def test_the_live_view_shows_figures_before_and_after_the_first_readings() -> None:
    def sample(name: str, value: float, **labels: str) -> Readings:
        return Readings({(f"sitestream_{name}", frozenset(labels.items())): value})

    def shown(collect: Readings, upload: Readings) -> str:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(view.panel({"collect": collect, "process": Readings(), "upload": upload}))
        return console.export_text()

    view = View({}, 100, lambda: 40)
    assert "40 of 100" in shown(Readings(), Readings())
    assert "none yet" in shown(Readings(), Readings())
    view.rates = [1.0, 5.0, 3.0]
    text = shown(sample("source_records_total", 1234), sample("upload_bytes_total", 5600.0))
    assert "1,234 readings" in text
    assert "6 kB" in text
    assert "▁█▄" in text
