"""Sends a command, as people do: it goes to the command topic, and control judges it."""

from __future__ import annotations

from connectors.control.commands import Command, decode
from pipelines import topics
from pipelines.errors import BadData, ConfigError, Unavailable
from pipelines.runtime import kafka
from pipelines.runtime.account import exists


async def send(brokers: str, site: str, command: Command) -> None:
    """Return when Kafka has it. `ConfigError` if it is none, or the site has no control; `Unavailable` without a broker."""
    raw, key = command.encode(), command.device.encode()
    try:
        decode(raw, key)
    except BadData as e:
        raise ConfigError(str(e)) from e
    if not await exists(brokers, topics.commands(site)):
        raise ConfigError(
            f"site {site} has no control at {brokers}: it runs where a pipeline has a control.command(…), or the site file names "
            "a devices.toml; deploy it first"
        )
    producer = await kafka.producer(brokers)
    try:
        await producer.send_and_wait(topics.commands(site), raw, key=key)
    except kafka.KafkaError as e:
        kafka.raise_refusal(e)
        raise Unavailable(f"Kafka did not take command {command.id} of {site}: {e!r}") from e
    finally:
        await kafka.stopped(producer)
