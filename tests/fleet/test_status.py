"""`pipeline status` of a fleet on a real engine, with one site whose engine is down and one whose engine hangs."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.bed.engine import Engine
from tests.fleet.kit import FLEET, deployed_by_hand, pipeline, write_fleet

TIMEOUT = "8s"


def test_sites_that_are_away_hold_up_nobody(engine: Engine, tmp_path: Path, unique: str) -> None:
    hall = f"hall-{unique[-8:]}"
    ours = f"engine = '{engine.url}'"
    away, hangs = tmp_path / "away.sock", tmp_path / "hangs.sock"
    sites = {hall: ours, "new": ours, "away": f"engine = 'unix://{away}'", "stuck": f"engine = 'unix://{hangs}'"}
    write_fleet(tmp_path / "fleet", FLEET, **sites)
    deployed_by_hand(engine, hall)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(hangs))
        server.listen()  # and says nothing
        said = pipeline("status", "--fleet", str(tmp_path / "fleet"), "--timeout", TIMEOUT)
        _, _, _, *lines = said.stdout.splitlines()
        value = json.loads(
            pipeline(
                "status", "--fleet", str(tmp_path / "fleet"), "--site", hall, "--site", "away", "-o", "json"
            ).stdout
        )
        one = pipeline("status", "--fleet", str(tmp_path / "fleet"), "--site", hall).stdout
    assert said.exit_code == 0, said.output
    states = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert states[hall] == "3 1 of 1 healthy"
    assert states["new"] == "- - nothing deployed"
    assert states["away"].startswith(f"- - offline: no Docker engine answers at unix://{away}: start it")
    assert states["stuck"].startswith(f"- - offline: site stuck: unix://{hangs} gave no answer within 8 s")
    dead, well = value["sites"]
    assert dead["state"] == "offline"
    assert (well["state"], well["revision"], well["services"][0]["service"]) == ("healthy", 3, "process")
    assert one.startswith(f"site {hall}, revision 3\n\nSERVICE  STATE")
