"""The files beside the pipeline file that are in the image of `process`, and the schema registries that it reaches."""

from __future__ import annotations

from urllib.parse import urlsplit

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


def files(plan: Plan, pipeline: str, service: str) -> dict[str, dict[str, bytes]]:
    """The files beside the pipeline file that a service needs, by kind and path."""
    if service != PROCESS:
        return {}
    folder = dimensions.folder_of(pipeline)
    return {"dimensions": dimensions.files(plan, folder), "schemas": schema_files.files(plan, folder)}


def registries(plan: Plan) -> dict[str, str]:
    """The URLs of the registries that `process` asks, by stream."""
    return {stream: source.registry.url for stream, source in schema_files.sources(plan) if source.registry}


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
