"""Two recorded weather-station years, which the `pvlib` package carries (TMY3: one row an hour, typical months)."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from pipelines.batch import Times
from pipelines.errors import ConfigError
from pipelines.expr import Array

FILES = ("703165TY.csv", "723170TYA.CSV")
YEAR = 2023  # typical months come from different years; they are laid into this one, so that time rises
HEADERS = {"ghi": "GHI (W/m^2)", "temperature": "Dry-bulb (C)", "wind": "Wspd (m/s)", "pressure": "Pressure (mbar)"}
UNITS = {"ghi": "W/m2", "temperature": "degC", "wind": "m/s", "pressure": "hPa"}


class Station(NamedTuple):
    """A year of one station: `time` (ns UTC, rising) and columns `ghi temperature wind pressure`, all of shape `(8760,)`."""

    name: str
    time: Times
    columns: dict[str, Array]


def stations() -> list[Station]:
    """Both years; `ConfigError` if pvlib is not installed. pvlib itself is not imported: only its data are read."""
    spec = importlib.util.find_spec("pvlib")
    if spec is None or spec.origin is None:
        raise ConfigError("the weather years come with pvlib: install it, e.g. pip install 'sitestream[demo]'")
    return [read(Path(spec.origin).parent / "data" / file) for file in FILES]


def read(path: Path) -> Station:
    """One TMY3 file: a line about the station, a header, a line an hour (local standard time, '24:00' ends a day)."""
    with path.open(newline="") as file:
        about = next(csv.reader(file))
    table = pc_csv.read_csv(
        path,
        read_options=pc_csv.ReadOptions(skip_rows=1),
        convert_options=pc_csv.ConvertOptions(
            include_columns=["Date (MM/DD/YYYY)", "Time (HH:MM)", *HEADERS.values()],
            column_types={"Date (MM/DD/YYYY)": pa.string(), "Time (HH:MM)": pa.string()}
            | dict.fromkeys(HEADERS.values(), pa.float64()),
        ),
    )
    time = _utc(table["Date (MM/DD/YYYY)"], table["Time (HH:MM)"], float(about[3]))
    return Station(about[1].title(), time, {name: table[header].to_numpy() for name, header in HEADERS.items()})


def _utc(date: pa.ChunkedArray, time: pa.ChunkedArray, zone_hours: float) -> Times:
    month, day = (pc.utf8_slice_codeunits(date, at, at + 2) for at in (0, 3))
    days = pc.binary_join_element_wise(str(YEAR), month, day, "-").cast(pa.date32()).to_numpy().astype("datetime64[ns]")
    hours, minutes = (pc.utf8_slice_codeunits(time, at, at + 2).cast(pa.int64()).to_numpy() for at in (0, 3))
    ns: Times = days.astype(np.int64) + (hours * 60 + minutes - int(zone_hours * 60)) * 60 * 10**9
    return ns
