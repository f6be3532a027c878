"""Rights at sites that pull: what a newer version needs no more goes when the site has said that it runs, and never before."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from containers import bus
from containers.acls import bearer
from containers.agent import identity, status
from containers.agent.publish import Publisher
from containers.agent.status import Status
from containers.certs import principal
from containers.repository import artifact
from containers.repository.layout import Folder
from containers.rollout import Actual
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.plan import Plan
from pipelines.runtime import kafka
from tests.bus.fleet import Fleet, site_toml
from tests.containers.kit import site_of
from tests.repository.plant import RELEASE_KEYS, make_root

EVERYTHING = "containers.agent.publish.broker.everything"
WHO = principal(bearer("hall1", "process"))
LATE = 'second.late.to(parquet.dataset("tiny/late"))'
TABLE = 'second.where(Second.mean > 1).to(parquet.dataset("tiny/loud"), name="loud")'


@dataclass
class Operator:
    """Publishes as `pipeline publish` does, but for images and secrets; and reports as the site does."""

    fleet: Fleet
    folder: Path
    version: int = 0
    me: identity.Identity = field(default_factory=identity.generate)

    def __post_init__(self) -> None:
        self.publisher = self.another()

    def another(self) -> Publisher:
        no: Any = None
        repo = Folder(self.folder / "repository")
        return Publisher(repo, RELEASE_KEYS[:1], [make_root()], no, SystemClock(), 90)

    def files(self, more: str) -> tuple[SiteFile, Plan]:
        """The site's files, with a pipeline that has more than the usual."""
        agent = f'[agent]\nrepository = "registry.example/press"\nkey = "{self.me.public}"\nexchange = false\n'
        folder = self.folder / f"files-{self.version}-{hash(more) % 1000}"
        folder.mkdir(exist_ok=True)
        return site_of(folder, site_toml(self.fleet, "hall1") + agent, more=more)

    def publish(self, more: str, by: Publisher | None = None) -> SiteFile:
        """All of it, but for the images."""
        site, plan = self.files(more)
        no: Any = None
        self.version = (by or self.publisher).publish(site, plan, no).version
        return site

    def reports(self, running: int, *, by: identity.Identity | None = None, before: int = 0) -> None:
        """The site says which release runs, and which ran before."""
        said = Status("hall1", 1.0, "0.1.0", running, self.version, "", "", Actual(), before=before)
        content = status.encode(said, by or self.me)
        artifact.put_document(self.publisher.repo, status.path("hall1"), status.TAG, content, status.MEDIA_TYPE)

    def rights(self) -> set[str]:
        """What `process` may write now, as the broker says."""

        async def ask() -> set[str]:
            admin = await kafka._admin(self.fleet.kafka.bootstrap)
            try:
                return {a.name for a in await kafka._acls_of(admin, WHO) if a.operation == "write"}
            finally:
                await kafka.stopped(admin)

        return asyncio.run(ask())


@pytest.fixture
def operator(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """A site at which release 1 runs, which has a stream of late rows, and nothing else is granted."""
    made = Operator(fleet, tmp_path)
    monkeypatch.setattr(EVERYTHING, lambda *_, **__: [])
    site = made.publish(LATE)
    made.reports(made.version)
    made.publisher.settle(site)
    assert late(made)
    return made


def late(operator: Operator) -> bool:
    return any("late" in name for name in operator.rights())


def loud(operator: Operator) -> bool:
    return any("loud" in name for name in operator.rights())


def test_rights_go_when_the_site_says_that_the_new_version_runs(operator: Operator) -> None:
    site = operator.publish(TABLE)
    assert late(operator)
    assert loud(operator)
    new = operator.version
    for running, by in ((new - 1, None), (new, identity.generate())):  # it runs the old one yet; somebody else says so
        operator.reports(running, by=by)
        assert operator.publisher.settle(site) == 0
        assert late(operator)
    operator.reports(new)
    assert operator.publisher.settle(site) == 2  # of process and upload
    assert not late(operator)
    assert loud(operator)
    assert operator.publisher.settle(site) == 0


def test_the_next_publish_takes_away_what_neither_what_runs_nor_the_new_one_needs(operator: Operator) -> None:
    operator.publish(TABLE)
    operator.publish("")  # before the site has said anything: nothing goes
    assert late(operator)
    assert loud(operator)
    operator.reports(operator.version)
    operator.publish(LATE)
    assert late(operator), "what is published now needs it"
    assert not loud(operator)


def test_a_release_that_failed_takes_nothing_from_the_one_that_runs_on(operator: Operator) -> None:
    operator.publish("")
    operator.reports(operator.version - 1)  # it went back
    operator.publish(TABLE)
    assert late(operator)
    operator.reports(operator.version)
    operator.publish(TABLE)
    assert not late(operator)


def test_who_goes_back_has_the_rights_of_then_again(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    first, site = operator.version, operator.publish(TABLE)
    operator.reports(operator.version, before=first)
    operator.publisher.settle(site)
    assert not late(operator)
    put, standing = Publisher._put, operator.publisher.standing("hall1")
    assert standing
    operator.publish("")  # and it is not taken up

    def meanwhile(self: Publisher, *words: Any) -> int:
        """Another operator, who does not know of this yet, takes away what the version that runs does not need."""
        assert late(operator), "before the site can find what needs it"
        bus.take_away(site, [standing.document.rights], SystemClock())
        assert not late(operator)
        return put(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "_put", meanwhile)
        operator.version = operator.publisher.publish_again(site, first).version
    assert late(operator)
    assert loud(operator), "it runs yet"
    operator.reports(operator.version)
    operator.publisher.settle(site)
    assert late(operator)
    assert not loud(operator)


def test_two_operators_at_the_same_time_leave_the_newest_its_rights(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = operator.publish("")
    operator.reports(operator.version)
    take_away, put = bus.take_away, Publisher._put

    def meanwhile(*words: Any) -> Any:
        """Another operator publishes, and we take away just after it gave its rights: it gives them again."""
        monkeypatch.undo()
        monkeypatch.setattr(EVERYTHING, lambda *_, **__: [])
        removed = []

        def late_put(self: Publisher, *more: Any) -> int:
            removed.append(take_away(*words))
            assert not loud(operator)
            return put(self, *more)

        with monkeypatch.context() as patch:
            patch.setattr(Publisher, "_put", late_put)
            operator.publish(TABLE, operator.another())
        assert loud(operator)
        return take_away(*words)  # once more, so that it is for us to mend it

    monkeypatch.setattr("containers.agent.publish.bus.take_away", meanwhile)
    operator.publisher.settle(site)
    assert loud(operator)


def test_where_nothing_was_published_or_there_are_no_rights_nothing_is_done(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = operator.files("")
    monkeypatch.setattr("containers.agent.publish.bus.take_away", lambda *_: pytest.fail("rights were taken away"))
    (tmp_path / "other").mkdir()
    fresh = Operator(operator.fleet, tmp_path / "other")
    assert fresh.publisher.settle(site) == 0
    (tmp_path / "plain").mkdir()
    plain, plan = site_of(tmp_path / "plain")
    assert bus.rights_of(plain, plan, ["process"]) == "", "a site without mTLS has none"
