"""What a Publish brings, decoded in runs: the same as the library's own decoder gives, one by one."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from connectors.opcua import guard, wire
from pipelines.errors import BadData

START: Any = datetime(2026, 1, 1, tzinfo=UTC)
NS = 1_767_225_600 * 10**9
V = ua.VariantType
SCALARS = [
    ua.Variant(True, V.Boolean), ua.Variant(-3, V.SByte), ua.Variant(200, V.Byte), ua.Variant(-30_000, V.Int16),
    ua.Variant(60_000, V.UInt16), ua.Variant(-2**31, V.Int32), ua.Variant(2**32 - 1, V.UInt32), ua.Variant(-2**63, V.Int64),
    ua.Variant(2**53 + 1, V.UInt64), ua.Variant(1.5, V.Float), ua.Variant(0.1, V.Double),
]  # fmt: skip
OTHERS = [
    ua.Variant("text ü", V.String), ua.Variant(None, V.String), ua.Variant(), ua.Variant(START, V.DateTime),
    ua.Variant(uuid.uuid4(), V.Guid), ua.Variant(b"bytes", V.ByteString),
    ua.Variant(ua.NodeId.from_string("ns=2;s=x"), V.NodeId),
    ua.Variant(ua.StatusCode(ua.UInt32(0x80000000)), V.StatusCode), ua.Variant(ua.QualifiedName("q", 2), V.QualifiedName),
    ua.Variant(ua.LocalizedText("l", "en"), V.LocalizedText), ua.Variant([1.0, 2.0], V.Double),
    ua.Variant(["a", "b"], V.String),
    ua.Variant(ua.Range(1.0, 2.0), V.ExtensionObject), ua.Variant(ua.DataValue(ua.Variant(1.0, V.Double)), V.DataValue),
    ua.Variant([ua.Variant(1.0, V.Double), ua.Variant("x", V.String)], V.Variant),
    ua.Variant(ua.NodeId(ua.Int32(70_000)), V.NodeId),
    ua.Variant([[1, 2], [3, 4]], V.Int32),
]  # fmt: skip


def item(handle: int, value: ua.Variant | None, **more: Any) -> ua.MonitoredItemNotification:
    return ua.MonitoredItemNotification(ua.UInt32(handle), ua.DataValue(value, more.pop("status", None), **more))


def message(*items: ua.MonitoredItemNotification, sequence: int = 7, more: bool = False) -> bytes:
    result = ua.PublishResult()
    result.SubscriptionId, result.MoreNotifications = ua.UInt32(3), more
    result.AvailableSequenceNumbers = [ua.UInt32(6), ua.UInt32(7)]
    result.NotificationMessage.SequenceNumber = ua.UInt32(sequence)
    if items:
        result.NotificationMessage.NotificationData = [ua.DataChangeNotification(MonitoredItems=list(items))]
    return struct_to_binary(result)


def test_runs_of_all_layouts_are_as_the_library_reads_them() -> None:
    random.seed(3)
    items = []
    for n in range(2_000):
        value = random.choice(SCALARS + OTHERS) if random.random() < 0.2 else SCALARS[n // 400]
        status = random.choice(
            [None, ua.StatusCode(), ua.StatusCode(ua.UInt32(0x40000000)), ua.StatusCode(ua.UInt32(0x80310000))]
        )
        times = {
            name: START + timedelta(milliseconds=n)
            for name in ("SourceTimestamp", "ServerTimestamp")
            if random.random() < (0.9 if n % 500 < 300 else 0.5)
        }
        items.append(item(n, value if random.random() < 0.95 else None, status=status if n % 3 else None, **times))
    got = wire.published(message(*items))
    assert (got.subscription, got.available, got.more, got.sequence, got.ended, got.keep_alive) == (
        3,
        (6, 7),
        False,
        7,
        None,
        False,
    )
    assert got.data.handles.tolist() == list(range(2_000))
    for n, sent in enumerate(items):
        _same(got.data, n, sent.Value)


def _same(got: wire.Notifications, n: int, sent: ua.DataValue) -> None:
    held: Any = sent.Value
    scalar = held is not None and not held.is_array and held.VariantType.value in range(1, 12)
    if scalar:
        assert (got.kinds[n], got.numbers[n]) == (held.VariantType.value, float(held.Value))
        if held.VariantType.value < 10:
            assert got.wholes[n] == int(held.Value)
    elif held is not None and held.VariantType == V.String and not held.is_array and held.Value is not None:
        assert (got.kinds[n], got.texts[n]) == (wire.TEXT, held.Value)
    else:
        assert got.kinds[n] not in range(1, 13)
        assert np.isnan(got.numbers[n])
        assert n not in got.texts
    assert got.status[n] == (sent.StatusCode.value if sent.StatusCode else 0)
    when: Any = sent.SourceTimestamp or sent.ServerTimestamp
    assert got.times[n] == (0 if when is None else NS + round((when - START).total_seconds() * 1e3) * 10**6)


def test_a_keep_alive_and_an_end() -> None:
    alive = wire.published(message())
    assert (alive.keep_alive, alive.sequence, len(alive.data)) == (True, 7, 0)
    result = ua.PublishResult()
    result.NotificationMessage.NotificationData = [ua.StatusChangeNotification(ua.StatusCode(ua.UInt32(0x800A0000)))]
    assert wire.published(struct_to_binary(result)).ended == 0x800A0000
    again = wire.republished(struct_to_binary(ua.NotificationMessage(ua.UInt32(9))), 3)
    assert (again.subscription, again.sequence, again.keep_alive) == (3, 9, True)


def test_what_the_servers_queue_dropped_is_seen() -> None:
    overflow = ua.StatusCode(ua.UInt32(0x480))
    got = wire.published(message(item(1, SCALARS[-1]), item(1, SCALARS[-1], status=overflow)))
    assert got.data.overflows == 1


def test_times_that_none_can_be() -> None:
    """A server may send any 64 bits."""
    head = message(item(1, SCALARS[-1], SourceTimestamp=START))
    at = head.index(struct_to_binary(ua.DataValue(SCALARS[-1], None, SourceTimestamp=START))) + 10
    for bits, expected in (
        (b"\xff" * 7 + b"\x7f", 2**62 // 100 * 100),
        (b"\xff" * 8, 0),
        (b"\1" + b"\0" * 7, -(2**62 // 100 * 100)),
    ):
        got = wire.published(head[:at] + bits + head[at + 8 :])
        assert got.data.times.tolist() == [expected]


def test_any_cut_and_any_garbage_is_bad_data() -> None:
    whole = message(*(item(n, value, SourceTimestamp=START) for n, value in enumerate(SCALARS + OTHERS)))
    for end in range(0, len(whole) - 9, 3):
        with pytest.raises(BadData, match=r"cut short|form"):
            wire.published(whole[:end])
    random.seed(5)
    for _ in range(500):
        spoilt = bytearray(whole)
        for _ in range(random.randint(1, 20)):
            spoilt[random.randrange(len(spoilt))] = random.randrange(256)
        try:
            wire.published(bytes(spoilt))
        except BadData as e:
            assert e.reason == "not_opcua"  # noqa: PT017 - some of it can be read


def test_many_in_no_time() -> None:
    body = message(
        *(item(n, ua.Variant(n / 7, V.Double), SourceTimestamp=START, ServerTimestamp=START) for n in range(5_000))
    )
    start = datetime.now(UTC)
    for _ in range(20):
        got = wire.published(body)
    assert (datetime.now(UTC) - start).total_seconds() < 1, "5,000 values are read one by one"
    np.testing.assert_array_equal(got.data.numbers, np.arange(5_000) / 7)


def test_a_value_nested_without_end() -> None:
    deep = ua.Variant(1.0, V.Double)
    for _ in range(20):
        deep = ua.Variant([deep], V.Variant)
    with pytest.raises(BadData, match="nested more than 8 deep"):
        wire.published(message(item(1, deep)))


# what may leave

MAY = [
    "OpenSecureChannel", "CloseSecureChannel", "GetEndpoints", "FindServers", "CreateSession", "ActivateSession", "CloseSession",
    "Cancel", "Browse", "BrowseNext", "TranslateBrowsePathsToNodeIds", "RegisterNodes", "UnregisterNodes", "Read",
    "CreateSubscription", "ModifySubscription", "SetPublishingMode", "DeleteSubscriptions", "Publish", "Republish",
    "TransferSubscriptions", "CreateMonitoredItems", "ModifyMonitoredItems", "SetMonitoringMode", "DeleteMonitoredItems",
]  # fmt: skip
REQUESTS = sorted(
    n.removesuffix("Request_Encoding_DefaultBinary")
    for n in vars(ua.ObjectIds)
    if n.endswith("Request_Encoding_DefaultBinary")
)


@pytest.mark.parametrize("name", REQUESTS)
def test_only_requests_that_look_may_leave(name: str) -> None:
    number = getattr(ua.ObjectIds, f"{name}Request_Encoding_DefaultBinary")
    forms = [b"\1\0" + number.to_bytes(2, "little"), b"\2\0\0" + number.to_bytes(4, "little")]
    for form in forms:
        if name in MAY:
            guard.check(form + b"rest")
            assert guard.ALLOWED[number] == name
        else:
            with pytest.raises(guard.Forbidden, match=f"request {number} is not one that a reader may send"):
                guard.check(form + b"rest")


@pytest.mark.parametrize(
    "made", [ua.WriteRequest, ua.CallRequest, ua.HistoryUpdateRequest, ua.AddNodesRequest, ua.DeleteNodesRequest]
)
def test_what_the_library_makes_to_change_something_is_held_back(made: Any) -> None:
    with pytest.raises(guard.Forbidden):
        guard.check(struct_to_binary(made()))


def test_what_is_no_request_is_held_back() -> None:
    for wrong in (b"", b"\1", b"\3\0\0\4\0\0\0read", b"\1\1" + (631).to_bytes(2, "little"), b"\x81\0\x77\2"):
        with pytest.raises(guard.Forbidden):
            guard.check(wrong)
