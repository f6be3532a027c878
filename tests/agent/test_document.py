"""What lies in the repository for a site: what goes in comes out, secrets for the site alone, anything else is refused."""

from __future__ import annotations

import json

import msgspec
import pytest

from containers.agent import document, identity, status
from containers.agent.document import Rules
from containers.deployer import images_of
from containers.repository.errors import ForgedSignature, Malformed
from containers.rollout import Actual, Record
from pipelines.errors import ConfigError
from tests.agent.world import World
from tests.containers.kit import found

RULES = Rules(60.0, 0.0, 0.1)


def made(world: World, site: str = "hall1") -> bytes:
    public = identity.sealing_key(world.identity.public)
    wanted = world.wanted(1)
    return document.encode(
        document.of(site, "tiny 1", "me@here", "2026-06-02", RULES, wanted, images_of(wanted), public)
    )


def test_what_is_wanted_comes_out_as_it_went_in(world: World) -> None:
    content = made(world)
    assert b"secret of 1" not in content
    assert document.decode(content, "hall1").wanted(world.identity.sealing.private) == world.wanted(1)
    first, again = document.decode(content, "hall1"), world.wanted(1)[0]
    opened = first.wanted(world.identity.sealing.private)[0]
    assert opened.container(3, "10.0.0.1") == again.container(3, "10.0.0.1")
    assert opened.config_files == again.config_files
    assert (opened.fingerprint, opened.edition) == (again.fingerprint, again.edition)


def test_another_site_cannot_open_the_secrets(world: World) -> None:
    other = identity.generate()
    with pytest.raises(ConfigError, match="a secret was sealed for another key than this site's"):
        document.decode(made(world), "hall1").wanted(other.sealing.private)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"the release for hall1 has format 2, and this agent reads 1: bring a newer agent to the site"),
        ({"site": "hall2"}, r"the release is for site hall2, and this is hall1: it is not used"),
        ({"rules": {}}, r"the release for hall1 cannot be read \(Object missing required field `health_timeout_s`"),
        ({"images": {}}, r"lacks images that it names \(sitestream/process:1, sitestream/upload:1\)"),
    ],
)
def test_a_document_that_cannot_be_used(world: World, change: dict[str, object], message: str) -> None:
    content = json.dumps({**json.loads(made(world)), **change}).encode()
    with pytest.raises(ConfigError, match=message):
        document.decode(content, "hall1")
    with pytest.raises(ConfigError, match="cannot be read"):
        document.decode(content[:-9], "hall1")


def report(who: identity.Identity, site: str = "hall1") -> bytes:
    actual = status.shown(Actual((found(parts={"code": "x"}),), (Record(1, {"process": found().name}, "2026"),)))
    return status.encode(status.Status(site, 1000.0, "0.1.0", 4, 5, "tiny 1", "no disk", actual), who)


def test_a_report_counts_only_with_the_sites_signature() -> None:
    ours, other = identity.generate(), identity.generate()
    said = status.decode(report(ours), "hall1", ours.public)
    reading = status.reported(said, 1030.0)
    assert (reading.age_s, reading.silent, reading.revision) == (30.0, False, 1)
    assert status.reported(said, 1000.0 + status.SILENT_S + 1).silent
    assert reading.current["process"].parts == {}
    with pytest.raises(ForgedSignature, match="the report of site hall1 was not signed with its key"):
        status.decode(report(other), "hall1", ours.public)
    changed = json.loads(report(ours))
    changed["body"] = changed["body"][:-8] + "AAAAAAA="
    with pytest.raises(ForgedSignature):
        status.decode(json.dumps(changed).encode(), "hall1", ours.public)
    with pytest.raises(ForgedSignature, match="that lies at site hall2 is one of site hall1"):
        status.decode(report(ours), "hall2", ours.public)
    with pytest.raises(Malformed, match="cannot be read"):
        status.decode(b"nonsense", "hall1", ours.public)
    with pytest.raises(ConfigError, match="this is no public key of a site"):
        status.decode(report(ours), "hall1", "nonsense")


def test_private_keys_are_not_shown() -> None:
    who = identity.generate()
    assert who.sealing.private not in repr(who)
    assert who.signing not in repr(who)
    assert msgspec.json.decode(msgspec.json.encode(who), type=identity.Identity) == who
