"""What was heard of a broker, topic by topic: counts and the newest payloads, within limits. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from connectors.mqtt.spb_survey import NAMESPACE, Sparkplug
from connectors.mqtt.wire import Messages
from connectors.payloads import PAYLOAD_BYTES_MAX
from pipelines.batch import Times

TOPICS_MAX = 10_000  # messages of further topics are counted only
LEVELS_MAX = 32  # of a topic
SAMPLES_MAX = 32  # payloads kept of each topic, the newest
SAMPLES_BYTES_MAX = 32 * 2**20  # of all topics; beyond, no more are kept
Sample = tuple[bytes, int]  # a payload, and when it came (ns)


@dataclass(slots=True)
class Heard:
    """What came in one topic."""

    live: int = 0  # messages but those that the broker had retained
    samples: deque[Sample] = field(default_factory=deque)


class Survey:
    """Takes messages in, and keeps what is needed to tell what they are."""

    def __init__(self) -> None:
        self.topics: dict[str, Heard] = {}
        self.sparkplug = Sparkplug()
        self.messages = self.left_out = self.too_large = 0
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether payloads were not kept for want of room."""
        return self._bytes > SAMPLES_BYTES_MAX

    def take(self, messages: Messages, arrived: Times) -> None:
        """Some messages, and the time of arrival of each in ns."""
        self.messages += len(messages)
        for raw, payload, number, at in zip(
            messages.topics, messages.payloads, messages.ids, arrived.tolist(), strict=True
        ):
            topic = raw.decode(errors="backslashreplace")
            if topic.startswith(NAMESPACE):
                self.left_out += not self.sparkplug.take(topic, payload)
            elif payload:  # an empty one only removes what was retained
                self._keep(topic, payload, at, live=number != -1)

    def _keep(self, topic: str, payload: bytes, at: int, *, live: bool) -> None:
        heard = self.topics.get(topic)
        if heard is None:
            if len(self.topics) >= TOPICS_MAX or topic.count("/") >= LEVELS_MAX:
                self.left_out += 1
                return
            heard = self.topics[topic] = Heard()
        heard.live += live
        if len(payload) > PAYLOAD_BYTES_MAX:
            self.too_large += 1
            return
        if len(heard.samples) == SAMPLES_MAX:
            self._bytes -= len(heard.samples.popleft()[0])
        if not self.full:
            self._bytes += len(payload)
            heard.samples.append((payload, at))
