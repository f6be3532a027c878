"""Listens to a broker for a while and tells what is there. For the operator's machine: `collect` does not have it.

It subscribes at QoS 0 without a session, so the broker keeps nothing for it, and it cannot publish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from connectors.mqtt import wire
from connectors.mqtt.connection import Connection
from connectors.mqtt.link import Account, Link
from connectors.mqtt.spb import BIRTH_BYTES_MAX
from connectors.mqtt.spb_survey import Kind, Name
from connectors.mqtt.streams import Stream, Unclear, streams
from connectors.mqtt.survey import SAMPLES_BYTES_MAX, TOPICS_MAX, Survey
from pipelines.clock import Clock
from pipelines.errors import NotConnected

LINGER_S = 0.2
MESSAGES_MAX = 1_000  # taken at once


@dataclass(frozen=True)
class Found:
    """What was seen."""

    broker: str
    seconds: float
    messages: int
    topics: int
    streams: list[Stream]
    sparkplug: list[Kind]
    unclear: list[Unclear]
    unborn: list[Name]  # Sparkplug devices whose births were not heard
    notes: list[str]  # what was left out


async def listen(
    connection: Connection,
    account: Account,
    topic_filter: str,
    seconds: float,
    clock: Clock,
    progress: Callable[[float, Survey], None],
) -> Found:
    """Listen for `seconds`. `NotConnected` if the broker refuses; a link that breaks later ends the listening."""
    survey = Survey()
    link = await _open(connection, account, topic_filter, clock)
    start_s, broken = clock.monotonic_s(), ""
    try:
        while (left_s := start_s + seconds - clock.monotonic_s()) > 0:
            await link.gather(1, min(LINGER_S, left_s))
            survey.take(*link.take(MESSAGES_MAX))
            progress(seconds - left_s, survey)
    except NotConnected as e:
        if not survey.messages:
            raise
        broken = f"the link broke after {clock.monotonic_s() - start_s:.0f} s: {e}"
    finally:
        await link.close()
    return told(survey, connection.broker, clock.monotonic_s() - start_s, [broken] if broken else [])


def told(survey: Survey, broker: str, seconds: float, notes: list[str]) -> Found:
    """What a survey says. Pure."""
    known, unclear = streams(survey, seconds)
    sparkplug = survey.sparkplug
    if survey.left_out:
        notes.append(
            f"{survey.left_out:,} messages are left out: at most {TOPICS_MAX:,} topics are looked at; narrow --topic"
        )
    if survey.full:
        notes.append(f"not all was looked at: {SAMPLES_BYTES_MAX // 2**20} MiB of payloads are kept; narrow --topic")
    if survey.too_large:
        notes.append(f"{survey.too_large:,} payloads are larger than a source takes")
    if sparkplug.strange:
        notes.append(f"{sparkplug.strange:,} messages in the namespace of Sparkplug B are none")
    return Found(
        broker, seconds, survey.messages, len(survey.topics) + len(sparkplug.edges), known, sparkplug.kinds(), unclear,
        sparkplug.unborn, notes,
    )  # fmt: skip


async def _open(connection: Connection, account: Account, topic_filter: str, clock: Clock) -> Link:
    wanted = connection.version

    async def link(version: int) -> Link:
        return await Link.open(account, topic_filter, version, clock, payload_bytes_max=BIRTH_BYTES_MAX, lasting=False)

    try:
        return await link(wire.V311 if wanted == "3.1.1" else wire.V5)
    except wire.VersionRefused:
        if wanted != "auto":
            raise
        return await link(wire.V311)
