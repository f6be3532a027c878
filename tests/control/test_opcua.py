"""Commands to OPC UA servers: written, read back, called, refused and lost; with a real server and real kills."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from connectors.control import opcua
from connectors.control.commands import Command
from connectors.control.devices import parse
from connectors.control.ledger import Event
from connectors.control.nodes import place_of
from connectors.control.statuses import judged
from connectors.opcua import guard
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError, NotConnected
from tests.bed import free_port, until
from tests.bed.opcua import OPERATOR, PASSWORD, OpcuaServer, papers
from tests.control.plant import DEVICES, MakeSite
from tests.control.test_devices import become

S = ua.StatusCodes
VERBS = """
devices = ["DEVICES"]
[profiles.NAME.verbs.set_speed]
idempotent = true
args.speed = {type = "float", min = 0.0, max = 2.5}
set = {node = "Objects/PLANT/{device}/Speed", type = "Float", arg = "speed"}
[profiles.NAME.verbs.step]
set = {node = "Objects/PLANT/{device}/2:Step", type = "Int32", value = 1}
[profiles.NAME.verbs.stubborn]
set = {node = "Objects/PLANT/{device}/Stubborn", type = "Double", value = 1, within = "300ms"}
[profiles.NAME.verbs.pulse]
set = {node = "Objects/PLANT/{device}/Stubborn", type = "Double", value = 1, read_back = false}
[profiles.NAME.verbs.forbidden]
set = {node = "Objects/PLANT/{device}/Fixed", type = "Double", value = 1}
[profiles.NAME.verbs.mistyped]
set = {node = "Objects/PLANT/{device}/Step", type = "String", value = "x"}
[profiles.NAME.verbs.nowhere]
set = {node = "Objects/PLANT/{device}/Nowhere", type = "Double", value = 1}
[profiles.NAME.verbs.add]
args.to = {type = "int"}
call = {object = "Objects/PLANT/{device}", method = "Add", inputs = [{type = "Int64", arg = "to"}, {type = "Int64", value = 2}]}
[profiles.NAME.verbs.jam]
call = {object = "Objects/PLANT/{device}", method = "Jam"}
[profiles.NAME.verbs.locked]
call = {object = "Objects/PLANT/{device}", method = "Locked"}
"""
SAFE = """
[profiles.NAME.opcua]
server = "URL"
security = "Basic256Sha256,SignAndEncrypt"
certificate = "cert"
key = "key"
server_certificate = "server"
username = "USER"
password = "PASS"
"""
PLAIN = '[profiles.NAME.opcua]\nserver = "URL"\n'


def profile(name: str, devices: str, way: str, **names: str) -> str:
    """A profile of the document."""
    text = f"\n[profiles.{name}]" + VERBS.replace("DEVICES", devices) + way
    for key, value in {"NAME": name, **names}.items():
        text = text.replace(key, value)
    return text


class Mixer:
    """A machine on the server: it counts what is written to it."""

    def __init__(self, server: OpcuaServer, plant: str, name: str) -> None:
        self.server, self.at = server, f"{plant}/{name}"
        self.writes: Counter[str] = Counter()
        self.called: list[int] = []
        self._node("Speed", ua.VariantType.Float)
        self._node("Step", ua.VariantType.Int32)
        self._node("Stubborn", ua.VariantType.Double, takes=False)
        self._node("Fixed", ua.VariantType.Double, writable=False)
        kind = [ua.VariantType.Int64]
        server.method(f"{self.at}/Add", self._add, kind * 2, kind)
        server.method(f"{self.at}/Jam", lambda _: ua.StatusCode(ua.UInt32(S.BadCommunicationError)), [], [])
        server.method(f"{self.at}/Locked", lambda _: ua.StatusCode(ua.UInt32(S.BadInvalidState)), [], [])

    def _node(self, name: str, kind: Any, takes: bool = True, writable: bool = True) -> None:
        node = self.server.variable(f"{self.at}/{name}", 0, kind)
        if writable:
            self.server.do(node.set_writable())
        space = self.server.server.iserver.aspace

        def write(of: Any, attribute: Any, value: Any) -> Any:
            self.writes[name] += 1
            if takes:
                of.attributes[attribute].value = value

        async def watch() -> None:
            space.set_attribute_value_setter(node.nodeid, ua.AttributeIds.Value, write)  # type: ignore[arg-type]  # it is called with three

        self.server.do(watch())

    def _add(self, _: Any, one: ua.Variant, two: ua.Variant) -> list[ua.Variant]:
        self.called.append(int(one.Value))
        return [ua.Variant(one.Value + two.Value, ua.VariantType.Int64)]


@pytest.fixture
def secrets(opcua_server: OpcuaServer, tmp_path: Path) -> Path:
    ours, folder = papers("urn:test:control"), tmp_path / "secrets"
    folder.mkdir()
    for name, content in (("cert", ours.certificate), ("key", ours.key), ("server", opcua_server.papers.certificate)):
        (folder / name).write_bytes(content)
    (folder / "password").write_text(PASSWORD)
    (folder / "wrong").write_text("not it")
    return folder


@pytest.mark.usefixtures("secrets")
async def test_a_server_is_written_to_and_read_back_and_its_methods_are_called(
    make_site: MakeSite, opcua_server: OpcuaServer, unique: str, mixer: Mixer
) -> None:
    names = {"PLANT": unique, "URL": opcua_server.url, "USER": OPERATOR}
    document = profile("mixer", "m*", SAFE, **names, PASS="password")
    document += profile("strange", "x1", SAFE, **names, PASS="wrong")
    away = f"opc.tcp://127.0.0.1:{free_port()}"
    document += profile("away", "a1", PLAIN, PLANT=unique, URL=away)
    site = make_site(devices=document + DEVICES)
    async with site.control() as control:
        await control.ready()
        gone = await site.command("a1", id="gone", verb="step")

        async def done(verb: str, state: str, device: str = "m1", **args: object) -> str:
            return await become(site, await site.command(device, id=f"{device}-{verb}", verb=verb, args=args), state)

        at = f"Objects/{unique}/m1"
        assert await done("set_speed", "SUCCEEDED", speed=0.1) == f"{at}/Speed reads 0.1"
        assert await done("step", "SUCCEEDED") == f"{at}/2:Step reads 1"
        assert await done("stubborn", "FAILED") == f"1 was written, and {at}/Stubborn reads 0 after 300ms"
        assert await done("pulse", "SUCCEEDED") == "1 is written"
        assert await done("forbidden", "REJECTED") == f"{at}/Fixed: the server refuses: BadUserAccessDenied"
        assert await done("mistyped", "REJECTED") == f"{at}/Step: the server refuses: BadTypeMismatch"
        assert await done("nowhere", "REJECTED") == f"{at}/Nowhere is no node of the server: is the path right?"
        assert await done("add", "SUCCEEDED", to=40) == "Add returned 42"
        assert mixer.called == [40]
        assert await done("jam", "UNKNOWN") == "Jam: the server does not know whether it is done: BadCommunicationError"
        assert await done("locked", "REJECTED") == "Locked: the server refuses: BadInvalidState"
        assert mixer.writes == {"Speed": 1, "Step": 1, "Stubborn": 2}

        too_fast = await site.command("m1", id="fast", verb="set_speed", args={"speed": 2.6})
        assert await become(site, too_fast, "REJECTED") == "speed: 2.6 is more than 2.5"
        assert f"refuses user '{OPERATOR}'" in await done("step", "REJECTED", "x1")
        await become(site, gone, "QUEUED")  # certainly nothing was sent: it waits until it expires

        opcua_server.restart()  # which forgets the session, as a server does that was switched off
        again = await site.command("m1", id="again", verb="step")
        await become(site, again, "SUCCEEDED")
        assert mixer.writes["Step"] == 2
        assert await control.stop() == 0
    assert "Traceback" not in site.log.read_text()


@pytest.mark.parametrize(("verb", "state", "writes"), [("step", "UNKNOWN", 1), ("set_speed", "SUCCEEDED", 2)])
async def test_a_kill_after_a_write_repeats_only_what_may_be_repeated(
    make_site: MakeSite, opcua_server: OpcuaServer, unique: str, mixer: Mixer,
    verb: str, state: str, writes: int,
) -> None:  # fmt: skip
    document = profile("mixer", "m1", PLAIN, PLANT=unique, URL=opcua_server.url)
    site = make_site(devices=document + DEVICES)
    async with site.control("node-after") as control:
        await control.ready()
        args = {"speed": 1.0} if verb == "set_speed" else {}
        command = await site.command("m1", id="c", verb=verb, args=args)
        assert await control.ended() == -9
    async with site.control():
        await become(site, command, state)
    assert mixer.writes.total() == writes


BY_ID = """
[profiles.mixer]
devices = ["m1"]
opcua.server = "opc.tcp://h"
settings.speed = {type = "float", set = {node = "ns=2;s=Speed", type = "Float"}}
verbs.set.set = {node = "ns=2;s=Mode", type = "Int32", value = 1}
verbs.call.call = {object = "ns=2;s=Mixer", method = "ns=2;s=Stop"}
"""


class Line:
    """A channel that answers some requests, and of the next one says that the connection is gone once it `breaks`."""

    where, open_still = "h:4840", True

    def __init__(self, answers: int) -> None:
        self.answers, self.breaks, self.aborted = answers, asyncio.Event(), False

    async def call(self, request: Any, response: Any) -> Any:
        self.answers -= 1
        if self.answers < 0:
            await self.breaks.wait()
            raise NotConnected("the connection is gone")
        read = isinstance(request, ua.ReadRequest)
        return SimpleNamespace(Results=[ua.DataValue(ua.Variant(0)) if read else ua.StatusCode()])

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(("verb", "answers"), [("set", 0), ("set", 1), ("set", 2), ("call", 0), ("read", 0)])
@pytest.mark.parametrize("replaced", [True, False])
async def test_a_channel_that_fails_takes_down_itself_and_none_that_came_after_it(
    verb: str, answers: int, replaced: bool, tmp_path: Path
) -> None:
    devices = parse(BY_ID, "devices.toml")
    links = opcua.Opcua(devices, "s", tmp_path, ManualClock())
    link: Any = links._links["mixer"]
    link._channel = old = Line(answers)
    command = Command(id="c", device="m1", verb=verb, issuer="me", issued_at_ns=1, expires_at_ns=2**63)
    doing = asyncio.create_task(links.read("m1", {}) if verb == "read" else links.deliver(command))
    await until(lambda: old.answers < 0)
    if replaced:
        link._channel = Line(0)
    new = link._channel
    old.breaks.set()
    await asyncio.gather(doing, return_exceptions=True)
    assert old.aborted
    assert (link._channel, new.aborted) == ((new, False) if replaced else (None, True))


@pytest.mark.parametrize(
    ("code", "event"),
    [
        (S.Good, None),
        (S.GoodCompletesAsynchronously, None),
        (S.BadUserAccessDenied, Event.REJECT),
        (S.BadOutOfRange, Event.REJECT),
        (S.BadOutOfRange | 0x0480, Event.REJECT),  # with bits of information
        (S.BadOutOfService, Event.FAIL),
        (S.BadSessionIdInvalid, Event.RETURN),
        (S.BadTimeout, Event.LOSE),
        (S.UncertainLastUsableValue, Event.LOSE),
    ],
)
def test_what_a_status_means(code: int, event: Event | None) -> None:
    outcome = judged(code, "it")
    assert (outcome and outcome[0]) == event


def test_only_what_control_sends_may_leave_it() -> None:
    for may in (ua.WriteRequest, ua.CallRequest, ua.ReadRequest, ua.BrowseRequest, ua.CreateSessionRequest):
        opcua.check(struct_to_binary(may()))
    for may_not in (ua.AddNodesRequest, ua.DeleteNodesRequest, ua.HistoryUpdateRequest, ua.CreateSubscriptionRequest):
        with pytest.raises(guard.Forbidden, match="is not one that control may send"):
            opcua.check(struct_to_binary(may_not()))


TEXT = profile("mixer", "m*", SAFE, PLANT="Plant", URL="opc.tcp://h:4840", USER="u", PASS="password")
SPEED = 'set = {node = "Objects/Plant/{device}/Speed", type = "Float", arg = "speed"}'


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("opc.tcp://h:4840", "http://h", "mixer.opcua.server: write 'opc.tcp://host:4840/path'"),
        ("opc.tcp://h:4840", "opc.tcp://u:p@h", "username and password apart"),
        ("opc.tcp://h:4840", "opc.tcp://[", "mixer.opcua.server: write 'opc.tcp://host:4840/path'"),
        ("Basic256Sha256,", "Basic128,", "opcua.security: write 'policy,mode' of Basic256Sha256"),
        ('key = "key"\n', "", "opcua.key: security and the secrets certificate, key, server_certificate belong together"),
        ('username = "u"\n', "", "opcua.password: is of no use without username"),
        ('"password"', '"../password"', "secret name '../password' cannot be used"),
        (SPEED, "", "an OPC UA verb, and no other, has either a `set`"),
        (SPEED, SPEED + '\ncall = {object = "Objects/{device}", method = "Go"}', "has either a `set`"),
        (SPEED, 'write = {to = "coil", address = 1, value = 1}', "a Modbus verb, and no other, has a `write`"),
        ("{device}/Speed", "*/Speed", "name every level, for one node is meant: no *"),
        ("{device}/Speed", "m1/Speed", "is one node, and the profile is for several devices: write {device} in it"),
        ("Objects/Plant/{device}/Speed", "ns=2;i=5{device}", "a NodeId has {device} in its text only"),
        ("Objects/Plant/{device}/Speed", "Objects//Speed", "verbs.set_speed.set.node: opcua node 'Objects//Speed'"),
        ('"Float", arg = "speed"', '"String", arg = "speed"', "'speed' is no argument of the verb that is always there and"),
        ('"Float", arg = "speed"', '"Float", arg = "spede"', "'spede' is no argument of the verb"),
        ('"Float", arg = "speed"', '"Float"', "name either the argument (arg = 'speed') or the value"),
        ('"Float", arg', '"Real", arg', "Real"),
        ('"Int32", value = 1', '"Byte", value = 256', "value=256 is no Byte: whole numbers from 0 to 255 are"),
        ('"Int32", value = 1', '"Int32", value = 1.5', "value=1.5 is no Int32"),
        ('"Int32", value = 1', '"Boolean", value = 1', "value=1 is no Boolean"),
        ('"300ms"', '"5s"', "verbs.stubborn.set.within: write more than 0 and at most 4s"),
        ('"300ms"', '"soon"', "'soon' is not a duration"),
        ('method = "Jam"', 'method = "A/B"', "call.method: 'A/B': write the method's own browse name"),
        ('type = "Int64", value = 2', 'type = "Int64", value = "2"', "value='2' is no Int64"),
    ],
)  # fmt: skip
def test_each_mistake_in_the_document_is_told(old: str, new: str, why: str) -> None:
    parse(TEXT, "devices.toml")
    assert old in TEXT
    with pytest.raises(ConfigError) as told:
        parse(TEXT.replace(old, new), "devices.toml")
    assert why in str(told.value)
    assert str(told.value).startswith("devices.toml: ")


def test_a_devices_name_leads_to_no_node_but_its_own() -> None:
    found = place_of("ns=2;s=Plant.{device}.Speed", "m;i=85")
    assert (found.namespace, found.identifier) == (2, "Plant.m;i=85.Speed")  # type: ignore[union-attr]  # that is the claim
