"""A backfill that is killed goes on from where it was, and gives the very files of one that was not."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.errors import StateError
from tests.backfill import kit
from tests.backfill.kit import ONE, REKEYED, TWO, Store

KILLED = """
import sys
from pathlib import Path
from tests.backfill import kit
if __name__ == "__main__":
    file, dataset, out, jobs = sys.argv[1:]
    kit.backfill(file, {"readings": dataset}, Path(out), jobs=int(jobs))
"""


def files(folder: Path) -> dict[str, str]:
    """Content of every file of every table."""
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in folder.glob("t/**/*")
        if f.is_file()
    }


class Cut(Exception):
    """The machine lost power."""


@pytest.mark.parametrize("text", [ONE, TWO, REKEYED])
def test_cut_off_after_any_slab_and_checkpoint(tmp_path: Path, text: str) -> None:
    file = kit.program(tmp_path / "p", text)
    store = Store(file, tmp_path / "store")
    datasets = {}
    datasets["readings"] = store.plain("readings", kit.readings(20_000, 6), by="time", group=700)
    if text is TWO:
        datasets["tools"] = store.plain(
            "tools", kit.readings(9_000, 6, 1, schema="Tool", every=0.02), by="time", group=900
        )
        datasets["work"] = store.plain("work", kit.readings(40, 6, 2, schema="Work", every=5), by="key")
    kit.backfill(file, datasets, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    dice, cuts, done = random.Random(1), 0, False
    while not done:
        begun = len(list((tmp_path / "out").rglob("*.state")))  # units that were begun tell how far they are
        wait = begun + dice.randrange(2, 8 if text is REKEYED else 20)

        def told(rows: int) -> None:
            nonlocal wait
            wait -= 1
            if wait == 0:
                raise Cut

        try:
            kit.backfill(file, datasets, tmp_path / "out", told=told)
            done = True
        except Cut:
            cuts += 1
    assert cuts > 3
    assert files(tmp_path / "out") == whole


def test_killed_in_the_middle(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    dataset = Store(file, tmp_path / "store").plain("readings", kit.readings(60_000, 6), by="time", group=700)
    kit.backfill(file, {"readings": dataset}, tmp_path / "whole")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    words = [sys.executable, str(script), file, str(dataset), str(tmp_path / "out"), "1"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    kills = 0
    for wait_s in (1.0, 1.3, 1.7, 2.2, 2.9, 3.7, 4.8, 6.3, 8.2, None):  # a machine that is slow gets its time at last
        words[-1] = "1" if words[-1] == "2" else "2"
        child = subprocess.Popen(words, env=env, start_new_session=True, stderr=subprocess.PIPE)
        try:
            _, said = child.communicate(timeout=wait_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            kills += 1
            continue
        assert child.returncode == 0, said
        break
    assert kills
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_processes_end_with_the_command(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    dataset = Store(file, tmp_path / "store").plain("readings", kit.readings(200_000, 6), by="time", group=700)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    words = [sys.executable, str(script), file, str(dataset), str(tmp_path / "out"), "2"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    child = subprocess.Popen(words, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    working = tmp_path / "out/_backfill/00000.state"
    while not working.exists():
        time.sleep(0.05)
    child.kill()
    child.wait()
    for _ in range(100):
        if not members(child.pid):
            break
        time.sleep(0.05)
    else:
        os.killpg(child.pid, signal.SIGKILL)
        pytest.fail("processes of a command that is gone go on")


def members(group: int) -> list[int]:
    """Processes of a group that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # gone meanwhile
            continue
        if int(of) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_done_is_done(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    dataset = Store(file, tmp_path / "store").plain("readings", kit.readings(5_000, 4), by="key")
    first = kit.backfill(file, {"readings": dataset}, tmp_path / "out")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*.*")}
    assert kit.backfill(file, {"readings": dataset}, tmp_path / "out", jobs=2) == first
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*.*")} == before


def test_another_backfill_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    store = Store(file, tmp_path / "store")
    dataset = store.plain("readings", kit.readings(5_000, 4), by="key").parent
    kit.backfill(file, {"readings": dataset}, tmp_path / "out")
    with pytest.raises(
        StateError, match=r"out holds the results of another backfill, which differs in to: give another folder"
    ):
        kit.backfill(file, {"readings": dataset}, tmp_path / "out", end=kit.BEGIN + kit.SECOND)
    store.plain("readings", kit.readings(50, 4), by="key", name="more.parquet")
    with pytest.raises(StateError, match="differs in files"):
        kit.backfill(file, {"readings": dataset}, tmp_path / "out")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    dataset = Store(file, tmp_path / "store").plain("readings", kit.readings(5_000, 4), by="key")
    kit.backfill(file, {"readings": dataset}, tmp_path / "out")
    state = next((tmp_path / "out/_backfill").glob("*.state"))
    state.write_bytes(state.read_bytes()[:10])
    with pytest.raises(StateError, match=r"\.state is damaged .*: remove it to compute this part anew"):
        kit.backfill(file, {"readings": dataset}, tmp_path / "out")
    (tmp_path / "out/_backfill/job.json").write_text("{")
    with pytest.raises(StateError, match=r"job\.json is damaged"):
        kit.backfill(file, {"readings": dataset}, tmp_path / "out")
