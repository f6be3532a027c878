"""How an operator's machine reaches the Kafka of sites: to read how their firmware stands, and to say that there is news."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from connectors.firmware.life import Entry
from connectors.firmware.status import SiteStatus, read
from containers.fleet.parallel import each
from containers.reach import at_kafka
from containers.site import SiteFile
from pipelines import topics
from pipelines.errors import SitestreamError, Unavailable
from pipelines.runtime import kafka

T = TypeVar("T")
Found = Mapping[str, tuple[SiteStatus | None, list[Entry]]]
"""By site; sites that do not answer are not in it."""
ANSWER_S_MAX = 60.0


def statuses(sites: Sequence[SiteFile]) -> tuple[Found, dict[str, str]]:
    """What sites say of themselves and their devices, and why others do not answer."""
    found: dict[str, tuple[SiteStatus | None, list[Entry]]] = {}
    away: dict[str, str] = {}
    for site, got in _each(sites, lambda s: lambda brokers: read(brokers, s.site.site)).items():
        if isinstance(got, SitestreamError):
            away[site] = str(got)
        else:
            found[site] = got
    return found, away


def hint(sites: Sequence[SiteFile], counter: int) -> dict[str, str]:
    """Say to sites that a plan with this counter is signed; why some did not hear it (they look by themselves, too)."""
    told = _each(sites, lambda s: lambda brokers: _tell(brokers, s.site.site, counter))
    return {site: str(error) for site, error in told.items() if isinstance(error, SitestreamError)}


async def _tell(brokers: str, site: str, counter: int) -> None:
    producer = await kafka.producer(brokers)
    try:
        value = json.dumps({"counter": counter}).encode()
        await producer.send_and_wait(topics.firmware_desired(site), value, key=b"plan")
    except kafka.KafkaError as e:
        kafka.raise_refusal(e)
        raise Unavailable(f"{topics.firmware_desired(site)} could not be written: {e!r}") from e
    finally:
        await kafka.stopped(producer)


def _each(
    sites: Sequence[SiteFile], work: Callable[[SiteFile], Callable[[str], Coroutine[Any, Any, T]]]
) -> dict[str, T | SitestreamError]:
    found = each(sites, lambda s: at_kafka(s, None, work(s)), timeout_s=ANSWER_S_MAX)
    return {s.site.site: got for s, got in zip(sites, found, strict=True)}
