"""Every example runs, and so does every program in the README."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.load import PREFIX, load
from pipelines.testing import run

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MINUTE = 60 * 10**9


def loaded(name: str) -> dict[str, Any]:
    """The variables of an example."""
    load(str(ROOT / "examples" / name))
    return vars(sys.modules[PREFIX + name.removesuffix(".py")])


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.stem)
def test_an_example_makes_a_plan(file: Path) -> None:
    assert load(str(file)).plan().outputs


def shock(vibration: Any) -> Any:
    return vibration.batch(device=["a"] * 60, time=np.arange(60) * MINUTE, rms=[1.0, 1.1] * 29 + [1.0, 9.0])


def test_a_shock_raises_one_alarm() -> None:
    press = loaded("press.py")
    out = run(press["press"], {press["vibration"]: shock(press["Vibration"])})
    assert len(out[press["alarms"]]) == 1
    assert out[press["alarms"]][press["Alarm"].z][0] > 4
    assert out[press["minute"]][press["Minute"].n].tolist() == [1] * 60


def test_a_cold_snap_is_found() -> None:
    w = loaded("weather.py")
    hours = np.arange(40 * 24)
    temperature = np.where(hours // 24 == 30, -20.0, 10.0 + np.sin(hours // 24))
    calm = {name: np.ones(len(hours)) for name in ("ghi", "wind", "pressure")}
    batch = w["Weather"].batch(
        station=["north"] * len(hours), time=hours * 60 * MINUTE, temperature=temperature, **calm
    )
    out = run(w["weather"], {w["readings"]: batch})
    assert len(out[w["day"]]) == 40
    np.testing.assert_allclose(out[w["day"]][w["Day"].sun], 24 / 1000)
    assert out[w["cold"]].columns["window_start"].tolist() == [30 * 24 * 60 * MINUTE]


def test_a_meters_quarter_has_its_mean_and_its_peak() -> None:
    m = loaded("meters.py")
    batch = m["Meter"].batch(device=["a"] * 30, time=np.arange(30) * MINUTE, power=[1.0] * 14 + [5.0] + [2.0] * 15)
    out = run(m["meters"], {m["posted"]: batch})
    quarter, of = out[m["quarter"]], m["Quarter"]
    assert quarter[of.peak].tolist() == [5, 2]
    np.testing.assert_allclose(quarter[of.power], [19 / 15, 2])
    assert m["meters"].plan().sources["meter"].address[1] == 9470


def test_the_readme_is_right() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    program: dict[str, Any] = {}
    for block in blocks:
        exec(block, program)  # noqa: S102 - our own text
    program["test_a_shock_raises_one_alarm"]()
