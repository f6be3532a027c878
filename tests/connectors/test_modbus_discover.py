"""Finding Modbus units and their registers: what is asked, and that the file it writes reads what was found."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from connectors.base import Context
from connectors.modbus import discover
from connectors.modbus.reader import ModbusReader
from containers import modules
from containers.cli import main
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.quality import GOOD
from tests.connectors.modbus_plant import Unit, served


async def test_units_and_registers_are_found_and_the_file_reads_them(tmp_path: Path) -> None:
    high, low = struct.unpack(">HH", struct.pack(">f", 21.5))
    one, three = (
        Unit(1, {2: 7, 3: high, 4: low, 12: 9}, {0: True, 5: True}),
        Unit(3, {2: 8, 3: 1, 4: 2, 12: 1}, {5: False}),
    )
    absent = Unit(2, {0: 0})

    async def no_target(u: Unit, function: int, address: int, count: int) -> int:
        return 11

    absent.act = no_target
    out = tmp_path / "plant.py"
    async with served(one, absent, three) as port:
        words = [
            "devices",
            "discover",
            "modbus",
            f"127.0.0.1:{port}",
            "--units",
            "1-3",
            "--registers",
            "0-19",
            "--pause",
            "0",
        ]
        said = await asyncio.to_thread(
            CliRunner().invoke, main, [*words, "--timeout", "0.3", "--out", str(out)], catch_exceptions=False
        )
        assert said.output == f"{out}: 2 units; read it, then: pipeline check {out}\n"
        assert {f for u in (one, three) for f, _, _ in u.asked} <= {1, 2, 3, 4}
        text = out.read_text()
        assert "Col[float]()  # 16812, or 21.5 as float32" in text
        assert "vendor Acme, product P1" in text
        plan = load(str(out)).plan()
        for source in plan.sources.values():
            reader = ModbusReader(source, Context("s", "1", tmp_path, SystemClock()))  # type: ignore[arg-type]
            await reader.connect()
            got = await reader.read(rows_max=2, linger_s=1)
            await reader.close()
            assert set(got.batch.columns["~quality"].tolist()) == {GOOD}
            assert got.batch.columns["Device1.holding_2"].tolist()[0] in (7, 8)
        again = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--out", str(out)])
        assert isinstance(again.exception, SystemExit)
        assert "is there already" in again.stderr


async def test_a_unit_that_fails_is_left_alone() -> None:
    unit = Unit(1, dict.fromkeys(range(100), 1))

    async def act(u: Unit, function: int, address: int, count: int) -> int | None:
        return 4 if address >= 20 else None

    unit.act = act
    async with served(unit) as port:
        (endpoint,) = discover.endpoints(f"127.0.0.1:{port}")
        (found,) = await discover.look(endpoint, [1], range(100), SystemClock(), timeout_s=1, pause_s=0)
    assert found.stopped == "exception 4 (device_failure)"
    assert "not all was looked at: exception 4" in discover.pipeline_file([found])
    assert sum(address >= 20 for _, address, _ in unit.asked) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.5:no", "is no address: write HOST"),
        ("", "is no address"),
        ("10.0.0.1/28", "is no network .*: write one such as 10.0.0.0/28"),
        ("10.0.0.0/16", "has 65,536 hosts: at most 256 are asked"),
    ],
)
def test_an_address_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        discover.endpoints(text)


def test_addresses() -> None:
    assert [str(e) for e in discover.endpoints("10.0.0.0/30")] == ["10.0.0.1:502", "10.0.0.2:502"]
    assert [str(e) for e in discover.endpoints("plc:1502")] == ["plc:1502"]
    assert [discover.numbers(t, 255) for t in ("1-10", "7")] == [range(1, 11), range(7, 8)]
    for wrong in ("a", "3-1", "1-256", "-1", ""):
        with pytest.raises(ConfigError, match="is no range: write one such as 1-10, up to 255"):
            discover.numbers(wrong, 255)


@pytest.mark.parametrize("cut", range(24))
def test_an_identity_that_is_cut_short(cut: int) -> None:
    whole = bytes.fromhex("2b0e01010000020004") + b"Acme" + bytes([1, 2]) + b"P1"
    assert discover.identity(whole) == "vendor Acme, product P1"
    discover.identity(whole[:cut])
    discover.identity(b"\xab\1")


def test_collect_does_not_have_it() -> None:
    loaded = modules.closure(["connectors.collect", "connectors.modbus.reader"], modules.ours)
    assert "connectors.modbus.line" in loaded
    assert "connectors.modbus.discover" not in loaded
