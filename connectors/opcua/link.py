"""A subscription on an OPC UA server: set up, kept over broken links, and listened to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncua import ua
from asyncua.common.utils import Buffer as Bytes
from asyncua.ua.uaerrors import UaError

from connectors.opcua import Deadband, OpcuaSource, session, wire
from connectors.opcua.browse import Finder, Found, Limits, batches
from connectors.opcua.channel import CLOSE_S_MAX, Channel, Refused, parameters
from connectors.opcua.identity import Identity
from connectors.opcua.session import Session
from pipelines.clock import Clock
from pipelines.errors import BadData, NotConnected
from pipelines.units import duration_s

PUBLISHES = 4  # requests that wait at the server for something to tell
NOTIFICATIONS_MAX = 10_000  # in one message; what is more comes in the next, at once
KEEP_ALIVE_S = 5.0  # a server that has nothing to tell says so that often
LATE_S_MAX = 5.0  # how much later that may come
log = logging.getLogger("collect")
GONE = frozenset({
    ua.StatusCodes.BadNoSubscription, ua.StatusCodes.BadSubscriptionIdInvalid, ua.StatusCodes.BadSessionIdInvalid,
    ua.StatusCodes.BadSessionClosed,
})  # fmt: skip
NO_SUCH_FILTER = frozenset({
    ua.StatusCodes.BadFilterNotAllowed, ua.StatusCodes.BadMonitoredItemFilterUnsupported,
    ua.StatusCodes.BadMonitoredItemFilterInvalid, ua.StatusCodes.BadDeadbandFilterInvalid,
})  # fmt: skip


@dataclass
class Subscription:
    """What a server keeps for us, and how far we have listened."""

    id: int
    session: Session
    interval_s: float
    keep_alive_s: float
    items: dict[Found, int] = field(default_factory=dict)  # the server's number of each monitored item
    next_sequence: int = 1
    acknowledge: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Events:
    """Who is told what."""

    values: Callable[[wire.Notifications], None]
    missed: Callable[[int], None]  # messages that the server no longer has
    woken: Callable[[], None]  # the link broke


class Link:
    """One connection to the server, with a subscription that may be older than it. `NotConnected` means that it is over."""

    def __init__(
        self,
        channel: Channel,
        source: OpcuaSource[Any],
        subscription: Subscription,
        limits: Limits,
        events: Events,
        clock: Clock,
    ) -> None:
        self._channel, self._source, self.subscription, self.limits = channel, source, subscription, limits
        self._events, self._clock = events, clock
        self._answers: asyncio.Queue[asyncio.Future[Bytes]] = asyncio.Queue()
        self._held: list[wire.Notifications] = []
        self._heard_s, self._heard = clock.monotonic_s(), False
        self._error: Exception | None = None
        self._listener: asyncio.Task[None] | None = None
        self._sending_again = asyncio.Lock()

    def listen(self) -> None:
        """Begin to take what the server publishes."""
        self._listener = asyncio.create_task(self._listen())

    def check(self) -> None:
        """`NotConnected` if the link is over."""
        if self._error is None and not self._channel.open_still:
            self._error = NotConnected(f"OPC UA server {self._channel.where} closed the connection")
        silent_s = self._clock.monotonic_s() - self._heard_s
        if self._error is None and silent_s > self.subscription.keep_alive_s + LATE_S_MAX:
            if not self._heard:
                self.subscription.id = 0  # taken up in vain
            self._error = NotConnected(f"OPC UA server {self._channel.where} has been silent for {silent_s:.0f} s")
        if self._error is not None:
            raise self._error

    async def find(self) -> list[Found]:
        """The nodes that the source's paths lead to now."""
        return await Finder(self._channel, self.limits).find(self._source.columns)

    async def subscribe(self, found: Sequence[Found], handles: Sequence[int]) -> list[Found]:
        """Have nodes monitored under these handles; those of which the server will not tell."""
        refused: list[Found] = []
        bands = {c.name: c.deadband for c in self._source.columns}
        for some in batches(list(zip(found, handles, strict=True)), self.limits.items):
            plain: list[tuple[Found, int]] = []
            for (node, handle), status in await self._monitor(some, bands):
                if status in NO_SUCH_FILTER and bands[node.column] is not None:
                    plain.append((node, handle))
                    continue
                refused.append(node)
                log.warning(
                    "%s: %s cannot be monitored: %s",
                    self._source.stream,
                    node.path,
                    ua.StatusCode(ua.UInt32(status)).name,
                )
            if plain:
                log.warning(
                    "%s: the server has no dead-band for %d nodes, such as %s: all their changes are taken",
                    self._source.stream, len(plain), plain[0][0].path,
                )  # fmt: skip
                refused += [node for (node, _), _ in await self._monitor(plain, {})]
        return refused

    async def _monitor(
        self, some: Sequence[tuple[Found, int]], bands: dict[str, Deadband | None]
    ) -> list[tuple[tuple[Found, int], int]]:
        """Create monitored items; those that are refused, with the status."""
        request = ua.CreateMonitoredItemsRequest()
        request.Parameters.SubscriptionId = ua.UInt32(self.subscription.id)
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        request.Parameters.ItemsToCreate = [self._item(node, handle, bands.get(node.column)) for node, handle in some]
        results = (await self._channel.call(request, ua.CreateMonitoredItemsResponse)).Results
        refused = []
        for (node, handle), result in zip(some, results, strict=True):
            if result.StatusCode.is_good():
                self.subscription.items[node] = int(result.MonitoredItemId)
            else:
                refused.append(((node, handle), int(result.StatusCode.value)))
        return refused

    def _item(self, node: Found, handle: int, deadband: Deadband | None) -> Any:
        item = ua.MonitoredItemCreateRequest()
        item.ItemToMonitor = ua.ReadValueId(NodeId=node.node, AttributeId=ua.AttributeIds.Value)
        item.MonitoringMode = ua.MonitoringMode.Reporting
        asked = item.RequestedParameters
        asked.ClientHandle, asked.QueueSize, asked.DiscardOldest = (
            ua.UInt32(handle),
            ua.UInt32(self._source.queue),
            True,
        )
        asked.SamplingInterval = duration_s(self._source.sampling) * 1000
        if deadband is not None or self._source.repeats:
            trigger = (
                ua.DataChangeTrigger.StatusValueTimestamp if self._source.repeats else ua.DataChangeTrigger.StatusValue
            )
            kind = (
                ua.DeadbandType.None_
                if deadband is None
                else ua.DeadbandType.Percent
                if deadband.percent
                else ua.DeadbandType.Absolute
            )
            asked.Filter = ua.DataChangeFilter(trigger, ua.UInt32(kind), deadband.value if deadband else 0.0)
        return item

    async def unsubscribe(self, nodes: Sequence[Found]) -> None:
        """Have nodes monitored no longer."""
        items = [self.subscription.items.pop(node) for node in nodes if node in self.subscription.items]
        for some in batches(items, self.limits.items):
            request = ua.DeleteMonitoredItemsRequest()
            request.Parameters.SubscriptionId = ua.UInt32(self.subscription.id)
            request.Parameters.MonitoredItemIds = list(some)
            await self._channel.call(request, ua.DeleteMonitoredItemsResponse)

    async def close(self) -> None:
        """Close the connection. The server keeps the session and its queues for a while.

        Not while a message is being sent again: some servers (asyncua's) do that once only.
        """
        self._break(NotConnected("the OPC UA link was closed"))
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S_MAX), self._sending_again:
                    pass
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener
        self._let_go()  # it was acknowledged
        await self._channel.close()

    async def _listen(self) -> None:
        try:
            await self.catch_up()
            for _ in range(PUBLISHES):
                self._ask()
            while True:
                answer = await self._answers.get()
                self._heard_s, self._heard = self._clock.monotonic_s(), True
                await self._answered(answer)
        except BadData as e:
            self._break(NotConnected(f"OPC UA server {self._channel.where}: {e}"))
        except Exception as e:  # a bug is the collector's to tell
            self._break(e)

    async def _answered(self, answer: asyncio.Future[Bytes]) -> None:
        try:
            message = wire.published(parameters(answer.result(), self._channel.where))
        except Refused as e:
            if e.status == ua.StatusCodes.BadTooManyPublishRequests:
                return  # it takes fewer; the others stay there
            self._raise_if_gone(e)
            if e.status != ua.StatusCodes.BadTimeout:
                raise
            self._ask()
            return
        except (OSError, UaError) as e:
            raise NotConnected(
                f"OPC UA server {self._channel.where} closed the connection ({e or type(e).__name__})"
            ) from e
        self._ask()
        if message.subscription == self.subscription.id:
            await self._gap(message.sequence)
            self._take(message)

    def _ask(self) -> None:
        request = ua.PublishRequest()
        mine = self.subscription
        request.Parameters.SubscriptionAcknowledgements = [
            ua.SubscriptionAcknowledgement(ua.UInt32(mine.id), ua.UInt32(n)) for n in mine.acknowledge
        ]
        mine.acknowledge = []
        self._channel.send(request).add_done_callback(self._arrived)

    def _arrived(self, answer: asyncio.Future[Bytes]) -> None:
        if not answer.cancelled():
            answer.exception()  # seen, even if nobody listens any more
            self._answers.put_nowait(answer)

    async def _gap(self, sequence: int) -> None:
        """Have what is missing before this message sent again."""
        missing = (sequence - self.subscription.next_sequence) % 2**32
        if not 0 < missing < 2**31:
            return
        for number in range(self.subscription.next_sequence, sequence):
            if not await self._again(number):
                self._events.missed(sequence - number)
                break
        self.subscription.next_sequence = sequence

    async def catch_up(self) -> None:
        """Have everything sent again that we have not seen, as far as the server has it."""
        while await self._again(self.subscription.next_sequence):
            pass

    async def _again(self, number: int) -> bool:
        async with self._sending_again:
            return await self._republished(number)

    async def _republished(self, number: int) -> bool:
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = ua.UInt32(self.subscription.id)
        request.Parameters.RetransmitSequenceNumber = ua.UInt32(number)
        try:
            body = await self._channel.body(request)
            message = wire.republished(parameters(body, self._channel.where), self.subscription.id)
        except Refused as e:
            self._raise_if_gone(e)
            return False
        if message.sequence != number or message.keep_alive:
            return False
        self._take(message)
        return True

    def _raise_if_gone(self, error: Refused) -> None:
        if error.status in GONE:
            self.subscription.id = 0  # the next link makes a new one
            raise error

    def _take(self, message: wire.Published) -> None:
        mine = self.subscription
        if message.ended is not None:
            mine.id = 0
            raise NotConnected(
                f"OPC UA server {self._channel.where} ended the subscription: {ua.StatusCode(ua.UInt32(message.ended)).name}"
            )
        if message.keep_alive or 0 < (mine.next_sequence - message.sequence) % 2**32 < 2**31:
            return  # nothing new, or what we had already
        mine.next_sequence = message.sequence % (2**32 - 1) + 1
        mine.acknowledge.append(message.sequence)
        self._held.append(message.data)
        if not message.more:  # what was sampled together stays together
            self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, []
        if held:
            self._events.values(wire.Notifications.joined(held) if len(held) > 1 else held[0])

    def _break(self, error: Exception) -> None:
        self._error = self._error or error
        self._events.woken()


async def resume(
    channel: Channel, identity: Identity, url: str, name: str, keep_s: float, old: Subscription
) -> Session | None:
    """Bind an old subscription to a new channel: its session is taken up, else it is transferred. None if it is gone."""
    with contextlib.suppress(Refused):
        await session.activate(channel, identity, old.session)
        return old.session
    channel.authenticate(ua.NodeId())
    fresh = await session.create(channel, identity, url, name, keep_s)
    request = ua.TransferSubscriptionsRequest()
    request.Parameters.SubscriptionIds = [ua.UInt32(old.id)]
    request.Parameters.SendInitialValues = False
    try:
        (result,) = (await channel.call(request, ua.TransferSubscriptionsResponse)).Parameters.Results
    except (Refused, ValueError):
        old.session = fresh
        return None
    old.session = fresh
    return fresh if result.StatusCode.is_good() else None


async def create(channel: Channel, owner: Session, every_s: float, keep_s: float) -> Subscription:
    """A new subscription in this session, without items."""
    request = ua.CreateSubscriptionRequest()
    asked = request.Parameters
    alive = max(1, math.floor(min(KEEP_ALIVE_S, keep_s / 3) / every_s))
    asked.RequestedPublishingInterval = every_s * 1000
    asked.RequestedMaxKeepAliveCount = ua.UInt32(alive)
    asked.RequestedLifetimeCount = ua.UInt32(max(3 * alive, math.ceil(keep_s / every_s)))
    asked.MaxNotificationsPerPublish = ua.UInt32(NOTIFICATIONS_MAX)
    asked.PublishingEnabled = True
    got = (await channel.call(request, ua.CreateSubscriptionResponse)).Parameters
    interval_s = got.RevisedPublishingInterval / 1000
    return Subscription(int(got.SubscriptionId), owner, interval_s, interval_s * got.RevisedMaxKeepAliveCount)
