"""`pipeline device …` as people type it: against a running control, and each mistake with its answer."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connectors.control.commands import decode
from connectors.control.signing import is_signed
from containers.cli import main
from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.runtime import kafka as clients
from tests.bed.mosquitto import Mosquitto
from tests.control.plant import ME, YOU, Device, Site

BROKER = "127.0.0.1:1"  # where none is


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site file whose broker is away, and the keys of two people."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text(f"site = 'hall1'\npipeline = 'press.py'\nbrokers = '{BROKER}'\n")
    for name, key in (("me", ME), ("you", YOU)):
        (tmp_path / f"{name}.key").write_text(bytes(key).hex() + "\n")
    return tmp_path


def device(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["device", *words], env=environment)


async def asked(*words: str) -> Any:
    """What a command gives to programs; on a thread of its own, as commands have their own event loop."""
    said = await asyncio.to_thread(device, *words, "-o", "json")
    assert said.exit_code == 0, said.stderr
    return json.loads(said.stdout)


async def test_people_send_approve_and_see_what_became_of_it(
    kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, folder: Path
) -> None:
    (folder / "plant").mkdir()
    site = Site(unique, kafka.bootstrap, mosquitto.url, folder / "plant")
    (folder / "site.toml").write_text(
        f"site = '{unique}'\npipeline = 'plant/press.py'\nbrokers = '{kafka.bootstrap}'\n"
    )
    said = await asyncio.to_thread(device, "send", "p1", "stop", "--key", "me.key")
    assert said.exit_code == 1
    assert f"site {unique} has no control at {kafka.bootstrap}: it runs where" in said.stderr
    assert (await asyncio.to_thread(device, "status")).stdout == "no commands on record\n"
    assert (await asyncio.to_thread(device, "audit")).stdout == "nothing is on record\n"
    async with site.control() as control, Device().on(site) as machine:
        await control.ready()
        speed = await asked("send", "p1", "set_speed", "speed=0.5", "--key", "me.key")
        danger = await asked("send", "p1", "open", "--key", "me.key")
        await site.settled("SUCCEEDED", "AWAITING_APPROVAL")
        unknown = await asyncio.to_thread(device, "approve", "none", "--key", "you.key")
        assert unknown.exit_code == 1
        assert f"no command none is on record at {unique}: `pipeline device status` lists them" in unknown.stderr
        await asked("approve", danger["command"], "--key", "you.key")
        await site.settled("SUCCEEDED", "SUCCEEDED", "SUCCEEDED")
        assert [c["args"] for c in machine.heard] == [{"speed": 0.5}, {}]

        await asked("off", "--key", "me.key")
        await site.settled(*["SUCCEEDED"] * 4)
        (waits,) = [await asked("send", "p1", "stop", "--key", "me.key")]
        await site.settled(*["SUCCEEDED"] * 4, "QUEUED")
        await asked("on", "--key", "me.key")
        await site.settled(*["SUCCEEDED"] * 6)
        assert machine.executions[waits["command"]] == 1

        table = (await asyncio.to_thread(device, "status", "p1")).stdout.splitlines()
        assert table[0].split() == ["COMMAND", "DEVICE", "VERB", "STATE", "SENT", "DETAIL"]
        assert [line.split()[:4] for line in table[1:3]] == [
            [speed["command"], "p1", "set_speed", "SUCCEEDED"], [danger["command"], "p1", "open", "SUCCEEDED"],
        ]  # fmt: skip
        assert [c["device"] for c in (await asked("status", "site"))["commands"]] == ["site", "site"]
        trail = (await asked("audit", "--device", "p1", "--since", "1h"))["records"]
        assert [r["state"] for r in trail if r["command"] == danger["command"]][:2] == ["AWAITING_APPROVAL", "QUEUED"]
        text = (await asyncio.to_thread(device, "audit")).stdout
        assert re.search(r"^\d{4}-\d\d-\d\dT[\d:]+Z +you +me +p1 +open ", text, re.MULTILINE)
        await spoil(site)
        spoilt = await asyncio.to_thread(device, "status")
        assert spoilt.exit_code == 1
        assert f"{topics.acks(unique)} holds what is no ledger entry, under key b'spoilt'" in spoilt.stderr
        assert "delete that record" in spoilt.stderr


async def spoil(site: Site) -> None:
    """Put what is no entry into the ledger."""
    producer = await clients.producer(site.brokers)
    await producer.send_and_wait(topics.acks(site.name), b"{}", key=b"spoilt")
    await clients.stopped(producer)


def test_a_command_is_signed_without_a_broker(folder: Path) -> None:
    said = device(
        "sign", "p1", "set_speed", "speed=1", "mode=fast", "hot=true", "at=0.5", SITESTREAM_DEVICE_KEY="me.key"
    )
    assert said.exit_code == 0
    command = decode(said.stdout.strip().encode(), b"p1")
    assert is_signed(command, "hall1", ME.verify_key)
    assert command.args == {"speed": 1, "mode": "fast", "hot": True, "at": 0.5}
    assert command.expires_at_ns - command.issued_at_ns == 30 * 10**9
    again = json.loads(device("sign", "p1", "stop", "--key", "me.key", "-o", "json").stdout)
    assert again["command"]["verb"] == "stop"


SEND = ("send", "p1", "stop", "--key", "me.key")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (SEND, 1, f"no Kafka broker answers at {BROKER}"),
        (("status",), 1, f"no Kafka broker answers at {BROKER}"),
        (("audit",), 1, f"no Kafka broker answers at {BROKER}"),
        (("approve", "x", "--key", "me.key"), 1, f"no Kafka broker answers at {BROKER}"),
        (("off", "--key", "me.key"), 1, f"no Kafka broker answers at {BROKER}"),
        ((*SEND, "--brokers", "127.0.0.1:2"), 1, "no Kafka broker answers at 127.0.0.1:2"),
        ((*SEND[:3], "speed", *SEND[3:]), 1, "argument 'speed': write name=value, such as speed=0.5"),
        ((*SEND[:3], "=1", *SEND[3:]), 1, "argument '=1': write name=value"),
        ((*SEND, "--expires", "soon"), 1, "'soon' is not a duration"),
        ((*SEND, "--expires", "0s"), 1, "expires_at_ns: after issued_at_ns"),
        (("send", "a/b/c", *SEND[2:]), 1, "device: 1 to 256 characters, none of / + #"),
        (("send", "p1", "Stop!", *SEND[3:]), 1, "verb: lower-case letters, digits and _"),
        (("send", "p1"), 64, "Missing argument 'VERB'"),
        (("send", "p1", "stop"), 64, "Missing option '--key'"),
        (("on",), 64, "Missing option '--key'"),
        (("approve", "--key", "me.key"), 64, "Missing argument 'COMMAND_ID'"),
        (("sign", "p1", "stop", "--key", "none.key"), 1, "none.key: cannot be read (No such file or directory): make a key"),
        (("sign", "p1", "stop", "--key", "site.toml"), 1, "site.toml: holds no key of 64 hex digits"),
        (("audit", "--since", "yesterday"), 64, "'yesterday' is not a duration"),
        (("status", "--site", "none.toml"), 1, "none.toml: there is no such site file"),
        (("keys", "new", "me"), 1, "me.key: there is a key already: it is not overwritten"),
        (("keys", "new", "new", "--folder", "me.key"), 1, "me.key/new.key: the key cannot be written"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_each_mistake_is_told(words: tuple[str, ...], code: int, why: str) -> None:
    said = device(*words)
    assert (said.exit_code, said.stdout) == (code, "")
    assert why in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("words", [SEND, ("status",), ("audit",), ("approve", "x", "--key", "me.key")])
def test_without_the_engine_of_a_sites_own_broker_it_is_said_what_is_left(folder: Path, words: tuple[str, ...]) -> None:
    (folder / "site.toml").write_text(
        "site = 'hall1'\npipeline = 'press.py'\nengine = 'unix:///none.sock'\n[kafka]\nbroker = 'container'\ndisk = '20GiB'\n"
    )
    said = device(*words)
    assert said.exit_code == 1
    assert "no Docker engine answers at unix:///none.sock: start it, or correct `engine`" in said.stderr
    assert "People reach the broker of site hall1, a container, through that engine alone" in said.stderr
    assert "there is control's HTTP API for commands (docs/control.md), and at the site  docker logs" in said.stderr
