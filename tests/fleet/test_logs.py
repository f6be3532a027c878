"""`pipeline logs` of many sites: lines of all with where they come from; one that is away stops nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from containers.cli_logs import Origin, Printer, chosen, show_all, told_offline
from containers.console import Console
from containers.site import Site, SiteFile
from pipelines.errors import ConfigError, SitestreamError, Unavailable
from tests.bed.engine import Engine
from tests.fleet.kit import FLEET, deployed_by_hand, pipeline, write_fleet

PROGRAM = "import time; print('one'); print('two'); time.sleep({}); print('three')"


def site(name: str) -> SiteFile:
    return SiteFile(Path(f"{name}.toml"), Site(site=name, pipeline="p.py", brokers="b:1"), fleet=Path("fleet"))


HALL, PLANT = site("hall"), site("plant-12")
ORIGINS = [Origin(HALL, "process", "p"), Origin(HALL, "collect", "c"), Origin(PLANT, "upload", "u")]


def test_lines_say_where_they_come_from_in_columns() -> None:
    fleet, alone = Printer(Console(), ORIGINS, alone=False), Printer(Console(), ORIGINS[:2], alone=True)
    assert [fleet.prefix(o) for o in ORIGINS] == ["hall     process | ", "hall     collect | ", "plant-12 upload  | "]
    assert alone.prefix(ORIGINS[0]) == "process | "


def test_for_programs_each_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(Console("json"), ORIGINS, alone=False)(ORIGINS[2], "sent a | b")
    line = json.loads(capsys.readouterr().out)
    assert line == {"version": 1, "site": "plant-12", "service": "upload", "line": "sent a | b"}


def test_services_that_some_site_runs_are_chosen_and_others_are_a_mistake() -> None:
    assert chosen(ORIGINS, [], [HALL, PLANT]) == ORIGINS
    assert chosen(ORIGINS, ["upload"], [HALL, PLANT]) == ORIGINS[2:]
    with pytest.raises(ConfigError, match=r"^none of 2 sites runs uplod; they run process, collect, upload$"):
        chosen(ORIGINS, ["uplod"], [HALL, PLANT])
    with pytest.raises(ConfigError, match=r"^site hall runs no upload; it runs process, collect$"):
        chosen(ORIGINS[:2], ["upload"], [HALL])
    with pytest.raises(ConfigError, match=r"it runs nothing$"):
        chosen([], ["upload"], [HALL])


def test_a_site_that_is_offline_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert told_offline(Console(), [HALL, PLANT], [Unavailable("it is\naway"), []]) == [PLANT]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hall: offline: it is away\n")


def test_lines_that_are_followed_end_when_all_containers_have(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = ORIGINS[0], ORIGINS[2]
    arriving: list[tuple[Origin, str | SitestreamError | None]] = [
        (first, "a"), (second, "b"), (first, Unavailable("cut off")), (first, None), (second, "c"), (second, None), (second, "d"),
    ]  # fmt: skip
    show_all(arriving, 2, Printer(Console(), ORIGINS, alone=False))
    show_all(arriving, 0, Printer(Console(), ORIGINS, alone=False))
    said = capsys.readouterr()
    assert said.out == "hall     process | a\nplant-12 upload  | b\nplant-12 upload  | c\n"
    assert said.err == "hall     process | cut off\n"


def test_it_is_exit_code_1_if_no_site_answers(tmp_path: Path) -> None:
    fleet = write_fleet(tmp_path / "fleet", **{n: f"engine = 'unix://{tmp_path}/{n}.sock'" for n in ("yard", "hall")})
    said = pipeline("logs", "--fleet", str(fleet))
    assert said.exit_code == 1
    assert [line.partition(" at ")[0] for line in said.stderr.splitlines()] == [
        "hall: offline: no Docker engine answers", "yard: offline: no Docker engine answers",
    ]  # fmt: skip


def test_sites_of_a_real_engine(engine: Engine, tmp_path: Path, unique: str) -> None:
    one, two = f"one-{unique[-8:]}", f"two-{unique[-8:]}"
    ours = f"engine = '{engine.url}'"
    fleet = str(
        write_fleet(tmp_path / "fleet", FLEET, **{one: ours, two: ours, "away": f"engine = 'unix://{tmp_path}/no'"})
    )
    deployed_by_hand(engine, one, PROGRAM.format(600))
    deployed_by_hand(engine, two, PROGRAM.format(4))
    both = pipeline("logs", "--fleet", fleet, "--tail", "2", "process")
    followed = pipeline("logs", "-f", "--fleet", fleet, "--site", two, "--since", "10m")
    (tmp_path / "alone.toml").write_text(f'site = "{one}"\npipeline = "p.py"\nbrokers = "b:1"\n{ours}\n')
    alone = pipeline("logs", "--site", str(tmp_path / "alone.toml"), "--since", "10m")
    assert both.exit_code == 0, both.output
    assert both.stdout.splitlines()[:2] == [f"{one} process | one", f"{one} process | two"]
    assert both.stdout.splitlines()[-1].startswith(f"{two} process | t")
    assert both.stderr.startswith("away: offline: no Docker engine answers")
    assert followed.exit_code == 0, followed.output
    assert followed.stdout.splitlines() == [f"{two} process | {word}" for word in ("one", "two", "three")]
    assert alone.stdout.splitlines() == ["process | one", "process | two"]
