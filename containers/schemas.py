"""What foreign topics need for their schemas: files in the image of `process`, or a registry that it reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from connectors.kafka import KafkaSource
from connectors.kafka import files as schema_files
from containers.site import GATEWAY, SiteFile
from pipelines import dimensions
from pipelines.errors import ConfigError
from pipelines.plan import Plan

PROCESS = "process"


def check_files(plan: Plan, pipeline: str) -> None:
    """`ConfigError` if a file beside the pipeline file, a dimension's or a schema, is not well."""
    folder = dimensions.folder_of(pipeline)
    dimensions.load(plan, folder)
    schema_files.check(plan, folder)


def files(plan: Plan, pipeline: str, service: str) -> Mapping[str, bytes]:
    """The files of schemas that a service needs, by path."""
    return schema_files.files(plan, dimensions.folder_of(pipeline)) if service == PROCESS else {}


def registries(plan: Plan) -> dict[str, str]:
    """The URLs of the registries that `process` asks, by stream."""
    sources: dict[str, Any] = dict(plan.sources)
    asked = {stream: s.registry for stream, s in sources.items() if isinstance(s, KafkaSource)}
    return {stream: registry.url for stream, registry in asked.items() if registry}


def check_reached(site: SiteFile, plan: Plan) -> None:
    """`ConfigError` if a registry is out of reach: on the network that deploy makes for Kafka nothing else is reached but the
    site's own machine.
    """
    if site.site.networks.bus:
        return
    for stream, url in registries(plan).items():
        host = urlsplit(url).hostname or ""
        if site.site.hosts.get(host) != GATEWAY:
            raise ConfigError(
                f"{site.path}: the stream {stream} needs the schema registry {url}, and process, which is on the network bus "
                f"alone, does not reach {host}: if it runs on the site's own machine, write  {host} = 'gateway'  under [hosts]; "
                "else name under [networks] a bus that leads to it and to the brokers"
            )
