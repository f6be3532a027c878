"""The site's own Kafka as one more service, for sites that want one: what must run, and how its topics and rights are made.

Nobody but the services reaches it, so topics and rights are made inside its container, as the broker itself.
"""

from __future__ import annotations

import msgspec

from containers import bus, images, names
from containers.desired import certificate_of, check_reached, desired, layer_store, network, services_at
from containers.engine import Engine
from containers.images import GRANTS, Base
from containers.profiles import (
    BROKER,
    CONFIG_DIR,
    DATA_DIR,
    KAFKA_DIR,
    METRICS_PORT,
    SECRETS_FOLDER,
    SETTINGS_FILE,
    Limits,
    Mount,
    Profile,
    container_config,
)
from containers.site import SiteFile
from containers.wanted import Desired, hash_of
from pipelines.errors import Unavailable
from pipelines.plan import Plan
from pipelines.runtime.grants import Answer, Request
from pipelines.settings import Settings
from pipelines.units import size_bytes

FLUSH = "1s"


def services_of(site: SiteFile, plan: Plan) -> list[Profile]:
    """All services of a site, in the order in which they are replaced: the broker first, for the others need it."""
    return [*([BROKER] if site.site.own_broker else []), *services_at(site, plan)]


def everything(
    site: SiteFile,
    plan: Plan,
    base: Base,
    identities: bus.Files | None = None,
    *,
    secrets: bool = True,
    fetch: bool = False,
) -> list[Desired]:
    """As `desired.desired`, and before them the site's own broker if it has one."""
    check_reached(site, plan)
    others = desired(site, plan, base, identities, secrets=secrets, fetch=fetch)
    return [*([_broker(site, base, identities or {}, fetch)] if site.site.own_broker else []), *others]


def _broker(site: SiteFile, base: Base, identities: bus.Files, fetch: bool) -> Desired:
    contents, settings = images.broker_contents(BROKER, base), _settings(site)
    networks = tuple(network(site, n) for n in BROKER.networks)
    mounts = (Mount(names.data(site.site.site, BROKER.service), DATA_DIR, read_only=False),)
    limits = Limits(size_bytes(settings.options["memory"]), BROKER.cpus)
    frame = container_config(BROKER, "", networks=networks, hosts={}, mounts=mounts, limits=limits, labels={})
    certified = identities.get(BROKER.service)
    parts = {
        "base image": base.id,
        "packages": hash_of(contents.pins),
        "kafka": contents.kafka,
        "code": contents.code,
        "settings": hash_of(settings),
        "container": hash_of((frame, networks)),
    }
    if certified is not None:
        parts["certificate"] = certificate_of(certified)
    return Desired(
        profile=BROKER,
        tags=(*contents.tags_below, images.service_tag(BROKER, contents)),
        images=images.made(BROKER, contents, layer_store(), fetch=fetch),
        pins=contents.pins,
        settings=settings,
        secrets=certified or (),
        networks=networks,
        hosts={},
        mounts=mounts,
        limits=limits,
        pipeline=contents.kafka,
        parts=parts,
        state={},
    )


def _settings(site: SiteFile) -> Settings:
    kafka = site.site.kafka
    return Settings(
        site=site.site.site,
        brokers=site.site.bootstrap,
        pipeline="",
        data_dir=DATA_DIR,
        secrets_dir=f"{CONFIG_DIR}/{SECRETS_FOLDER}",
        kafka_security="mtls",
        metrics_port=METRICS_PORT,
        options={
            "memory": kafka.memory or BROKER.memory, "disk": kafka.disk, "flush": kafka.flush or FLUSH, "jars": KAFKA_DIR,
        },
    )  # fmt: skip


def grant(engine: Engine, container: str, asked: Request) -> Answer:
    """Make topics and rights inside the broker's container; `Unavailable`, with what was said there, if that fails."""
    done = engine.execute(container, grant_words(asked))
    if not done.well:
        said = done.errors.strip() or "it does not run"
        raise Unavailable(f"topics and rights could not be made in {container}: {said}: see  pipeline logs broker")
    return msgspec.json.decode(done.output, type=Answer)


def grant_words(asked: Request) -> tuple[str, ...]:
    """What is run inside the broker's container to make topics and rights."""
    return ("python3", "-P", "-m", GRANTS, "--config", f"{CONFIG_DIR}/{SETTINGS_FILE}", asked.word())
