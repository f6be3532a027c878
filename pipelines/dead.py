"""Dead letters: what could not be used goes to `{site}.dead` as it came, with the reason and origin in its headers."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.wire import Headers


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One unusable reading or frame."""

    payload: bytes
    reason: str  # a short word from a small set: it becomes a metric label
    message: str  # what is wrong and how to mend it
    origin: str  # where it came from: an MQTT topic, 'file:line', 'topic[partition]@offset'

    def headers(self, service: str) -> Headers:
        """As Kafka record headers."""
        return [
            ("service", service.encode()),
            ("reason", self.reason.encode()),
            ("message", self.message.encode()),
            ("origin", self.origin.encode()),
        ]
