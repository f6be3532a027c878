"""The bytes of MQTT: what a listener sends, and what it makes of anything that it receives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.mqtt import wire
from connectors.mqtt.wire import V5, V311, Accepted, Decoder, Subscribed, VersionRefused
from connectors.payloads import PAYLOAD_BYTES_MAX
from pipelines.errors import NotConnected


def packet(first: int, body: bytes) -> bytes:
    size, out = len(body), bytearray((first,))
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((*out, size)) + body


def publish(topic: bytes, payload: bytes, id_: int, version: int = V5) -> bytes:
    id_bytes = id_.to_bytes(2, "big") if id_ else b""
    properties = b"\x05\x02\x00\x00\x00\x3c" if version == V5 else b""  # it expires in a minute
    return packet(0x32 if id_ else 0x30, len(topic).to_bytes(2, "big") + topic + id_bytes + properties + payload)


def test_connect_asks_for_a_session_that_lasts_and_limits_what_is_in_flight() -> None:
    hello = wire.connect("me", version=V5, keepalive_s=20, inflight_max=8192, username="u", password="pw")
    assert hello == (
        b"\x10\x1e\x00\x04MQTT\x05\xc0\x00\x14"
        + b"\x08\x11\x00\x09\x3a\x80\x21\x20\x00"
        + b"\x00\x02me\x00\x01u\x00\x02pw"
    )
    assert (
        wire.connect("me", version=V311, keepalive_s=20, inflight_max=8192)
        == b"\x10\x0e\x00\x04MQTT\x04\x00\x00\x14\x00\x02me"
    )


def test_subscribe_at_qos_1() -> None:
    assert wire.subscribe("a/+", version=V311) == b"\x82\x08\x00\x01\x00\x03a/+\x01"
    assert wire.subscribe("a/+", version=V5) == b"\x82\x09\x00\x01\x00\x00\x03a/+\x11"


def test_acks_leave_out_what_needs_none() -> None:
    assert wire.acks([1, 0, 65_535]) == b"\x40\x02\x00\x01\x40\x02\xff\xff"
    assert wire.acks([]) == b""


def test_there_is_no_way_to_publish() -> None:
    sends = [
        wire.connect("m", version=V5, keepalive_s=1, inflight_max=1),
        wire.subscribe("a", version=V5),
        wire.acks([1]),
    ]
    kinds = {sent[0] >> 4 for sent in [*sends, wire.PINGREQ, wire.DISCONNECT]}
    assert kinds == {1, 8, 4, 12, 14}  # CONNECT, SUBSCRIBE, PUBACK, PINGREQ, DISCONNECT; PUBLISH is 3
    assert not [name for name in vars(wire) if "publish" in name.lower().removeprefix("_publish")]


def test_events() -> None:
    decoder = Decoder(V5)
    keep_alive_and_a_text = b"\x13\x00\x07\x26\x00\x01k\x00\x01v\x12\x00\x02id\x21\x00\x14"
    assert decoder.feed(packet(0x20, b"\x01\x00" + bytes((len(keep_alive_and_a_text),)) + keep_alive_and_a_text)) == [
        Accepted(True, 7)
    ]
    assert decoder.feed(packet(0x90, b"\x00\x01\x00\x01") + b"\xd0\x00") == [Subscribed()]
    assert Decoder(V311).feed(packet(0x20, b"\x00\x00")) == [Accepted(False, None)]


@pytest.mark.parametrize(
    ("version", "received", "says"),
    [
        (V5, packet(0x20, b"\x00\x86\x00"), "refused the connection: the user name or password is wrong"),
        (V311, packet(0x20, b"\x00\x05"), "refused the connection: this client is not authorised"),
        (V5, packet(0x20, b"\x00\xbb\x00"), "refused the connection: reason 0xbb"),
        (V5, packet(0x90, b"\x00\x01\x00\x87"), "refused the subscription: this client is not authorised"),
        (V5, packet(0xE0, b"\x8e"), "ended the connection: another client took over the session"),
        (V5, packet(0xE0, b""), "ended the connection: reason 0x0"),
        (V5, packet(0x34, b"\x00\x01a\x00\x01\x00"), "QoS 2, for which nobody asked"),
        (V5, packet(0x10, b""), "a packet of type 1; is there an MQTT broker at this address?"),
        (V5, packet(0x32, b"\x00\x09a"), "a packet that is cut off; is there an MQTT broker at this address?"),
        (V5, b"\x30\xff\xff\xff\xff\x01", "a length of more than 4 bytes"),
        (V5, b"HTTP/1.1 400 Bad Request\r\n" + b" " * 100, "is there an MQTT broker at this address?"),
    ],
)
def test_what_breaks_a_link(version: int, received: bytes, says: str) -> None:
    with pytest.raises(NotConnected, match=says.replace("?", r"\?").replace("(", r"\(")):
        Decoder(version).feed(received)


@pytest.mark.parametrize("answer", [b"\x00\x84\x00", b"\x00\x01"])
def test_a_broker_that_does_not_speak_5_says_so_in_either_style(answer: bytes) -> None:
    with pytest.raises(VersionRefused, match="does not speak this version of MQTT"):
        Decoder(V5).feed(packet(0x20, answer))


messages = st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=300), st.integers(0, 65_535)), max_size=8)


@settings(deadline=None)
@given(messages, st.lists(st.integers(1, 400), max_size=20), st.sampled_from([V5, V311]))
def test_messages_however_the_bytes_are_cut(
    sent: list[tuple[bytes, bytes, int]], cuts: list[int], version: int
) -> None:
    stream = b"".join(publish(topic, payload, id_, version) for topic, payload, id_ in sent)
    decoder = Decoder(version)
    for cut in [*cuts, len(stream) + 1]:
        decoder.feed(stream[:cut])
        stream = stream[cut:]
    got = decoder.messages
    assert list(zip(got.topics, got.payloads, got.ids, strict=True)) == sent


@pytest.mark.parametrize("extra", [1, 70_000, 1_000_000])
@pytest.mark.parametrize("chunk", [1_000, 65_536, 10_000_000])
def test_of_a_payload_that_is_too_large_only_the_beginning_is_kept(extra: int, chunk: int) -> None:
    stream = publish(b"a", b"x" * (PAYLOAD_BYTES_MAX + extra), 1) + publish(b"b", b"y", 2)
    decoder, held = Decoder(V5), 0
    for at in range(0, len(stream), chunk):
        decoder.feed(stream[at : at + chunk])
        held = max(held, len(decoder._buffer))
    assert [len(p) for p in decoder.messages.payloads] == [PAYLOAD_BYTES_MAX + 1, 1]
    assert decoder.messages.ids == [1, 2]
    assert held < 300_000


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=10), st.sampled_from([V5, V311]))
def test_any_bytes_are_messages_or_break_the_link(chunks: list[bytes], version: int) -> None:
    decoder = Decoder(version)
    try:
        for chunk in chunks:
            decoder.feed(chunk)
    except NotConnected:
        pass


def test_taking_messages_keeps_the_rest() -> None:
    decoder = Decoder(V5)
    decoder.feed(b"".join(publish(b"t", b"%d" % i, i + 1) for i in range(5)))
    taken = decoder.messages.take(2)
    assert (taken.payloads, taken.ids, len(taken)) == ([b"0", b"1"], [1, 2], 2)
    assert decoder.messages.payloads == [b"2", b"3", b"4"]
