"""What an agent reports of its site: signed by the site, read by operators. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from containers.agent.identity import Identity, signed_by
from containers.repository.errors import ForgedSignature, Malformed
from containers.rollout import Actual

MEDIA_TYPE = "application/vnd.sitestream.status.v1+json"
TAG = "status"
REPORT_S = 900.0  # so often it reports although nothing is new; each report is a kilobyte that stays in the repository
SILENT_S = 3 * REPORT_S


class Status(msgspec.Struct, frozen=True):
    """How a site is. Versions are those of signed documents."""

    site: str
    at_s: float  # since the epoch, by the site's clock
    agent: str  # its version
    running: int  # that is known to run well; 0: none
    newest: int  # that was believed
    what: str  # name and fingerprint of the pipeline of `running`
    trouble: str  # what is not well, and what to do; empty: nothing
    actual: Actual
    failed: int = 0  # that was given up; 0: none since `running`
    agent_image: str = ""  # its tag
    before: int = 0  # that ran well until another took its place; 0: none is known

    @property
    def news(self) -> Status:
        """What of it is worth a report: all but the time."""
        return msgspec.structs.replace(self, at_s=0.0)


class _Signed(msgspec.Struct, frozen=True):
    body: bytes
    signature: bytes


@dataclass(frozen=True)
class Reported(Actual):
    """A site as its agent reported it, `age_s` ago."""

    status: Status | None = None
    age_s: float = 0.0

    @property
    def silent(self) -> bool:
        """Whether it should have reported again."""
        return self.age_s > SILENT_S


def path(site: str) -> str:
    """The name in the repository below which a site may write: nothing that is believed lies there."""
    return f"status/{site}"


def shown(actual: Actual) -> Actual:
    """What of a site is reported: what runs now, without settings."""
    bare = [replace(c, parts={}, settings={}, versions={}) for c in actual.current.values()]
    return Actual(tuple(bare), actual.records[-1:])


def encode(status: Status, identity: Identity) -> bytes:
    """As it lies in the repository."""
    body = msgspec.json.encode(status)
    return msgspec.json.encode(_Signed(body, identity.sign(body)))


def decode(content: bytes, site: str, public: str) -> Status:
    """A report of a site with these public keys. `ForgedSignature`, `Malformed`."""
    try:
        signed = msgspec.json.decode(content, type=_Signed)
        if not signed_by(public, signed.body, signed.signature):
            raise ForgedSignature(
                f"the report of site {site} was not signed with its key: somebody else wrote it, or the site was enrolled anew; "
                "compare agent.key with what  pipeline agent enrol  says"
            )
        found = msgspec.json.decode(signed.body, type=Status)
    except msgspec.MsgspecError as e:
        raise Malformed(f"the report of site {site} cannot be read ({e})") from e
    if found.site != site:
        raise ForgedSignature(f"the report that lies at site {site} is one of site {found.site}: it was put there")
    return found


def reported(status: Status, now_s: float) -> Reported:
    """A report as a reading of the site."""
    a = status.actual
    return Reported(a.containers, a.records, a.configs, status, max(0.0, now_s - status.at_s))


def before(said: Status, published: int, *, back: bool = False) -> int:
    """The release that ran at a site before the one that is published for it; 0: none is known.

    What runs, if the published one does not: it has failed there, or was not taken up yet. If that one leads `back` itself, it is
    the one: who goes back twice because nothing came of it does not mean to and fro.
    """
    if said.running == published:
        return said.before
    return published if back else said.running


def about(seconds: float) -> str:
    """A time for people: '3 days', '45 minutes'."""
    for unit, scale in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{seconds // scale:.0f} {unit}"
    return f"{seconds:.0f} seconds"
