"""Writes to nodes of OPC UA servers, reads back what it wrote, and calls methods, as devices.toml allows it.

The channel is the one that `collect` reads through, with another check on its way out: `Write` and `Call` may leave,
subscriptions may not. A node is looked for and read before it is written to, so that a server that does not answer certainly
got nothing. Nothing is repeated here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncua import ua

from connectors.backoff import Backoff
from connectors.control.commands import Command, Value
from connectors.control.devices import Devices, Profile
from connectors.control.found import Found
from connectors.control.ledger import Event
from connectors.control.nodes import DEVICE, Call, OwnNode, Scalar, Server, Set, Typed, place_of
from connectors.control.statuses import comes_later, judged
from connectors.opcua import guard, session
from connectors.opcua.browse import OBJECTS, ROOT, VARIABLES, Limits, children
from connectors.opcua.channel import Channel, Refused
from connectors.opcua.identity import Identity
from connectors.opcua.paths import Level, NodePath
from pipelines.clock import Clock
from pipelines.errors import ConfigError, NotConnected
from pipelines.units import duration_s

log = logging.getLogger("control")
PREPARE_S_MAX = 3.0  # to find the node and to read it
WRITE_S_MAX = 2.0
LOOK_AGAIN_S = 0.1
SESSION_S = 60.0  # the server forgets us that long after our last word
KEEP_S = 10.0  # so we say one that often
METHODS = 4  # bit of a node class
SERVER_STATE = ua.NodeId(ua.Int32(2259))
_MAY = frozenset({
    "OpenSecureChannel", "CloseSecureChannel", "GetEndpoints", "CreateSession", "ActivateSession", "CloseSession", "Browse",
    "BrowseNext", "Read",
})  # fmt: skip
ALLOWED = {n: name for n, name in guard.ALLOWED.items() if name in _MAY} | {673: "Write", 712: "Call"}
Outcome = tuple[Event, str]


def check(message: bytes) -> None:
    """`Forbidden` if a message is not one of the requests that control sends."""
    if guard.request_id(message) not in ALLOWED:
        raise guard.Forbidden(f"request {guard.request_id(message)} is not one that control may send: it was held back")


class Opcua:
    """The links to the OPC UA servers of a document, made when they are needed. `ConfigError` if a secret is missing or wrong."""

    def __init__(self, devices: Devices, site: str, secrets_dir: Path, clock: Clock) -> None:
        self._devices, self._clock = devices, clock
        self._links = {
            name: _Link(p.opcua, site, secrets_dir, clock)
            for name, p in devices.profiles.items()
            if p.opcua is not None
        }

    def reachable(self, device: str) -> bool:
        """Whether a command can be carried out or refused now; if not, the server is tried now and then from now on."""
        return self._of(device)[1].up()

    async def deliver(self, command: Command) -> Outcome:
        """Carry out a command: SUCCEED, FAIL, REJECT, RETURN (nothing was sent) or LOSE (nobody knows), and the detail."""
        profile, link = self._of(command.device)
        verb = profile.verbs[command.verb]
        if link.refusal:
            return Event.REJECT, link.refusal
        if self._clock.now_ns() >= command.expires_at_ns:
            return Event.RETURN, "it expired before it was written"
        if verb.set is not None:
            return await link.set(verb.set, command.device, command.args)
        assert verb.call is not None  # the document is checked
        return await link.call(verb.call, command.device, command.args)

    async def read(self, device: str, want: Mapping[str, Value]) -> Found:
        """The settings of a device; see `Writer.read`."""
        profile, link = self._of(device)
        return await link.settings(profile.sets, device, want)

    async def write(self, device: str, setting: str, value: Value) -> Outcome:
        """Write a setting; see `Writer.write`."""
        profile, link = self._of(device)
        if link.refusal:
            return Event.REJECT, link.refusal
        return await link.set(profile.sets[setting], device, {setting: value})

    async def close(self) -> None:
        """Close all links."""
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def _of(self, device: str) -> tuple[Profile, _Link]:
        found = self._devices.named_profile_of(device)
        assert found is not None  # the guard lets no other through
        return found[1], self._links[found[0]]


class _Link:
    """A session with one server."""

    def __init__(self, server: Server, site: str, secrets_dir: Path, clock: Clock) -> None:
        self._server, self._clock, self._name = server, clock, f"sitestream-{site}-control"
        self._identity = Identity.of(
            server.sealed, server.username or None, server.said, secrets_dir, "urn:sitestream:control"
        )
        self._backoff, self._next_s = Backoff(), 0.0
        self._channel: Channel | None = None
        self._session: session.Session | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._nodes: dict[tuple[str, str], ua.NodeId] = {}
        self.refusal = ""  # why the server takes us for nobody: whoever waits for it, waits in vain

    def up(self) -> bool:
        if self._channel is not None and self._channel.open_still:
            return True
        if self._connecting is None and self._clock.monotonic_s() >= self._next_s:
            self._connecting = asyncio.create_task(self._connect())
        return bool(self.refusal)

    async def _connect(self) -> None:
        channel = None
        try:
            channel = await session.reach(self._identity, self._server.server, self._clock, check)
            made = await session.create(channel, self._identity, self._server.server, self._name, SESSION_S)
        except (NotConnected, ConfigError) as e:
            refusal = str(e) if isinstance(e, ConfigError) else ""
            if refusal != self.refusal:
                log.warning("%s", e)
            self.refusal = refusal
            self._next_s = self._clock.monotonic_s() + self._backoff.delay_s()
            if channel is not None:
                await channel.drop()
        else:
            self._channel, self._session, self.refusal = channel, made, ""
            self._nodes.clear()
            self._backoff.reset()
            self._keeper = asyncio.create_task(self._keep(channel))
        finally:
            self._connecting = None

    async def _keep(self, channel: Channel) -> None:
        """Say a word now and then, so that the server keeps the session, and a line that is dead is known to be."""
        with contextlib.suppress(NotConnected, TimeoutError):
            while channel.open_still:
                await asyncio.sleep(KEEP_S)
                async with asyncio.timeout(WRITE_S_MAX):
                    await _read(channel, SERVER_STATE)
        self.down(channel)

    def down(self, channel: Channel) -> None:
        """It does not answer on this channel: another try after a while, unless there is another one by now."""
        channel.abort()
        if self._channel is not channel:
            return
        self._channel = None
        self._next_s = self._clock.monotonic_s() + self._backoff.delay_s()
        if self._keeper is not None and self._keeper is not asyncio.current_task():
            self._keeper.cancel()

    async def close(self) -> None:
        for task in filter(None, (self._connecting, self._keeper)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._channel is not None and self._session is not None and self._channel.open_still:
            with contextlib.suppress(TimeoutError, NotConnected):
                async with asyncio.timeout(WRITE_S_MAX):
                    await session.close(self._channel, self._session)
            await self._channel.close()

    @contextlib.contextmanager
    def _used(self) -> Iterator[Channel]:
        """The channel, for all that is asked of it here; it is down if it does not answer. `NotConnected` if there is none."""
        if (channel := self._channel) is None:
            raise NotConnected("the link is down")
        try:
            yield channel
        except (NotConnected, TimeoutError):
            self.down(channel)
            raise

    # what is done

    async def settings(self, places: Mapping[str, Set], device: str, want: Mapping[str, Value]) -> Found:
        """Read settings, all in one request."""
        found, nodes = Found(), dict[str, ua.NodeId]()
        if self.refusal:
            raise NotConnected(self.refusal)
        try:
            with self._used() as channel:
                for name, place in places.items():
                    try:
                        async with asyncio.timeout(PREPARE_S_MAX):
                            nodes[name] = await self._find(channel, place.node, device, VARIABLES)
                    except ConfigError as e:
                        found.fault(name, str(e))
                async with asyncio.timeout(PREPARE_S_MAX):
                    answers = await _read_all(channel, list(nodes.values())) if nodes else []
        except (NotConnected, TimeoutError) as e:
            raise NotConnected(f"it does not answer: {e or type(e).__name__}") from e
        for name, answer in zip(nodes, answers, strict=True):
            value, at = _single(answer), places[name].node.replace(DEVICE, device)
            if value is None:
                found.fault(name, f"{at} cannot be read ({_status(answer)})")
            else:
                raw = places[name].raw({name: want[name]}) if name in want else None
                same = raw is not None and raw == value and isinstance(raw, bool) == isinstance(value, bool)
                found.take(name, value, want, same=same)
        return found

    async def set(self, what: Set, device: str, args: dict[str, Value]) -> Outcome:
        """Write a value and read it back."""
        at = what.node.replace(DEVICE, device)
        try:
            with self._used() as channel:
                async with asyncio.timeout(PREPARE_S_MAX):
                    node = await self._find(channel, what.node, device, VARIABLES)
                    before = await _read(channel, node)
        except ConfigError as e:
            return Event.REJECT, str(e)
        except (NotConnected, TimeoutError) as e:
            return _returned(e)
        if what.read_back and not _good(before):
            return Event.FAIL, f"{at} cannot be read back ({_status(before)}): not written"
        value, request = what.raw(args), ua.WriteRequest()
        written = ua.DataValue(ua.Variant(value, ua.VariantType[what.type]))
        request.Parameters.NodesToWrite = [ua.WriteValue(node, ua.AttributeIds.Value, None, written)]
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                (status,) = (await channel.call(request, ua.WriteResponse)).Results
        except (NotConnected, TimeoutError, ValueError) as e:
            return self._lost(channel, e)
        if outcome := judged(int(status.value), f"{at}: the server"):
            return outcome
        if what.read_back:
            return await self._confirm(channel, node, what, at, value)
        if comes_later(int(status.value)):
            return Event.LOSE, f"{_shown(value)} was taken, to be written later"
        return Event.SUCCEED, f"{_shown(value)} is written"

    async def _confirm(self, channel: Channel, node: ua.NodeId, what: Set, at: str, value: Scalar) -> Outcome:
        """Read until the value is there or the time is over."""
        found: Any = None
        try:
            async with asyncio.timeout(duration_s(what.within)):
                while True:
                    found = await _read(channel, node)
                    if _good(found) and found.Value.Value == value:
                        return Event.SUCCEED, f"{at} reads {_shown(value)}"
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            if found is not None and _good(found):
                now = _shown(found.Value.Value)
                return Event.FAIL, f"{_shown(value)} was written, and {at} reads {now} after {what.within}"
            return Event.LOSE, f"{_shown(value)} was written, and {at} could not be read for {what.within}"
        except NotConnected as e:
            self.down(channel)
            return Event.LOSE, f"{_shown(value)} was written, and {at} could not be read: {e}"

    async def call(self, what: Call, device: str, args: dict[str, Value]) -> Outcome:
        """Call a method."""
        try:
            with self._used() as channel:
                async with asyncio.timeout(PREPARE_S_MAX):
                    owner = await self._find(channel, what.object, device, OBJECTS | VARIABLES)
                    method = await self._method(channel, owner, what)
        except ConfigError as e:
            return Event.REJECT, str(e)
        except (NotConnected, TimeoutError) as e:
            return _returned(e)
        request = ua.CallRequest()
        inputs = [_variant(given, args) for given in what.inputs]
        request.Parameters.MethodsToCall = [ua.CallMethodRequest(owner, method, inputs)]
        try:
            async with asyncio.timeout(duration_s(what.within)):
                (result,) = (await channel.call(request, ua.CallResponse)).Results
        except (NotConnected, TimeoutError, ValueError) as e:
            return self._lost(channel, e)
        bad = [n for n, s in enumerate(result.InputArgumentResults or ()) if not s.is_good()]
        which = f" (input {bad[0]}: {result.InputArgumentResults[bad[0]].name})" if bad else ""
        if outcome := judged(int(result.StatusCode.value), f"{what.method}{which}: the server"):
            return outcome
        if comes_later(int(result.StatusCode.value)):
            return Event.LOSE, f"{what.method} was taken, to be done later"
        gave = ", ".join(repr(o.Value) for o in result.OutputArguments or ())
        return Event.SUCCEED, f"{what.method} returned {gave or 'nothing'}"

    def _lost(self, channel: Channel, e: Exception) -> Outcome:
        """What has become of a request that has no result of its own."""
        if isinstance(e, Refused) and (outcome := judged(e.status, "the server")):
            if outcome[0] is Event.RETURN:
                self.down(channel)
            return outcome
        self.down(channel)
        return Event.LOSE, f"it was written to and did not answer: {e or type(e).__name__}"

    # where it is

    async def _find(self, channel: Channel, text: str, device: str, classes: int) -> ua.NodeId:
        """The node of a device; known from the last time as long as the line holds. `ConfigError` if there is not one."""
        if (text, device) not in self._nodes:
            self._nodes[text, device] = await self._look(channel, place_of(text, device), device, classes)
        return self._nodes[text, device]

    async def _look(self, channel: Channel, place: NodePath | OwnNode, device: str, classes: int) -> ua.NodeId:
        if isinstance(place, OwnNode):
            return ua.NodeId(ua.String(place.identifier), ua.Int16(place.namespace))
        if place.node_id is not None:
            return ua.NodeId.from_string(place.node_id)
        here = [ROOT]
        for n, level in enumerate(place.levels):
            mask = classes if n == len(place.levels) - 1 else OBJECTS | VARIABLES
            wanted = Level(device) if level.is_key else level
            below = await children(channel, here, Limits(), mask)
            here = list(dict.fromkeys(c.node for some in below for c in some if wanted.matches(c.name, c.namespace)))
        return _only(here, place.text.replace(DEVICE, device))

    async def _method(self, channel: Channel, owner: ua.NodeId, what: Call) -> ua.NodeId:
        path = NodePath.of(what.method, "device")
        if path.node_id is not None:
            return ua.NodeId.from_string(path.node_id)
        (below,) = await children(channel, [owner], Limits(), METHODS)
        found = [c.node for c in below if path.levels[0].matches(c.name, c.namespace)]
        return _only(found, f"{what.object}: method {what.method}")


def _returned(e: Exception) -> Outcome:
    return Event.RETURN, f"it does not answer, and was not written to: {e or type(e).__name__}"


def _only(found: list[ua.NodeId], what: str) -> ua.NodeId:
    if len(found) != 1:
        cure = "is the path right?" if not found else "write the namespace before the name, such as '2:Speed'"
        raise ConfigError(f"{what} is {len(found) or 'no'} node{'s' if found else ''} of the server: {cure}")
    return found[0]


async def _read(channel: Channel, node: ua.NodeId) -> Any:
    """The value of a node with its status."""
    return (await _read_all(channel, [node]))[0]


async def _read_all(channel: Channel, nodes: Sequence[ua.NodeId]) -> list[Any]:
    request = ua.ReadRequest()
    request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value) for node in nodes]
    request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
    results = list((await channel.call(request, ua.ReadResponse)).Results)
    if len(results) != len(nodes):
        raise NotConnected(f"OPC UA server {channel.where} answered {len(nodes)} questions with {len(results)} answers")
    return results


def _good(found: Any) -> bool:
    return found.Value is not None and (found.StatusCode is None or found.StatusCode.is_good())


def _single(found: Any) -> Scalar | None:
    """The value that was read; None if there is none that a setting can have."""
    value = found.Value.Value if _good(found) else None
    return value if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)) else None


def _shown(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else repr(value)


def _status(found: Any) -> str:
    return str(found.StatusCode.name) if found.StatusCode is not None else "no value"


def _variant(given: Typed, args: dict[str, Value]) -> ua.Variant:
    return ua.Variant(given.raw(args), ua.VariantType[given.type])
