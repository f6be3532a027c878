"""How the things of a site are called on its engine, and the labels by which they are found again."""

from __future__ import annotations

PREFIX = "sitestream"
SITE = f"{PREFIX}.site"
SERVICE = f"{PREFIX}.service"
REVISION = f"{PREFIX}.revision"
FINGERPRINT = f"{PREFIX}.fingerprint"
PIPELINE = f"{PREFIX}.pipeline"
IMAGE = f"{PREFIX}.image"  # of an image: its tag
IMAGES = f"{PREFIX}.images"  # of a container: tags of its image and of those under it, JSON
CONFIG = f"{PREFIX}.config"
PARTS = f"{PREFIX}.parts"  # JSON
SETTINGS = f"{PREFIX}.settings"  # JSON
STATE = f"{PREFIX}.state"  # JSON: version of each stateful step
RECORD = f"{PREFIX}.record"  # JSON
LOCK = f"{PREFIX}.lock"  # JSON
HISTORY = f"{PREFIX}.history"  # JSON
CREATED = f"{PREFIX}.created"  # JSON: what the engine was told when it created the container
AGENT = f"{PREFIX}.agent"  # of all that belongs to a site's agent: the site
AGENT_TOKEN = f"{PREFIX}.agent-token"  # of an agent's container: by this a process knows its own
DATA_SUFFIX = "-data"


def container(site: str, service: str, revision: int) -> str:
    """A service's container of one revision."""
    return f"{PREFIX}-{site}-{service}-r{revision}"


def network(site: str, role: str) -> str:
    """A network of the site: ot, bus or wan."""
    return f"{PREFIX}-{site}-{role}"


def config(site: str, service: str, fingerprint: str) -> str:
    """The volume with a service's settings and secrets; its content never changes."""
    return f"{PREFIX}-{site}-{service}-config-{fingerprint}"


def data(site: str, service: str) -> str:
    """The volume with what a service keeps."""
    return f"{PREFIX}-{site}-{service}{DATA_SUFFIX}"


def record(site: str, revision: int | str) -> str:
    """The empty volume whose label is the record of a revision."""
    return f"{PREFIX}-{site}-revision-{revision}"


def lock(site: str, number: int | str) -> str:
    """The empty volume whose label says who may change the site; the one with the highest number counts."""
    return f"{PREFIX}-{site}-lock-{number}"


def history(site: str, number: int | str, begun: str = "") -> str:
    """The empty volume whose label tells of an attempt to change the site; with BEGUN until it has ended."""
    return f"{PREFIX}-{site}-history-{number}{begun}"


def agent(site: str, what: str = "") -> str:
    """The container of a site's agent, or with `what` something of it: state, config-HASH."""
    return f"{PREFIX}-{site}-agent{what and '-'}{what}"
