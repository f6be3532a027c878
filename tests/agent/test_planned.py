"""What a plan says of a site that pulls: from its report and the release that it runs; no engine is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from containers import broker, rollout, saved_plan
from containers.agent import document, identity, status
from containers.agent.document import Rules
from containers.agent.planned import planned
from containers.agent.status import SILENT_S, Status
from containers.deployer import Deployment
from containers.oci import Image, Layer
from containers.repository import artifact
from containers.repository.layout import Folder
from containers.rollout import Actual, Record
from containers.site import SiteFile
from containers.wanted import Desired
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError, Unavailable
from pipelines.load import load
from tests.containers.kit import BASE, SITE, as_found, site_of, write_site
from tests.repository.plant import START, at

ME = identity.generate()
TEXT = f'{SITE}[agent]\nrepository = "registry.example/press"\nkey = "{ME.public}"\n'
RELEASE = 7


class Told:
    """A site at which the files of `folder` run as release 7, as its report and the repository tell."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.repo, self.clock = folder, Folder(folder / "repository"), ManualClock(at(START))
        self.site, plan = site_of(folder, TEXT)
        self.wanted = broker.everything(self.site, plan, BASE)
        self.report()
        self.release(self.wanted)

    def report(self, **changes: Any) -> None:
        """What its agent said last: all runs as it was published, but for these changes of its containers."""
        containers = [as_found(d, **changes) for d in self.wanted]
        record = Record(3, {c.service: c.name for c in containers}, "2026")
        actual = status.shown(Actual(tuple(containers), (record,)))
        said = Status("hall1", at(START) / 1e9, "0.1.0", RELEASE, RELEASE, "", "", actual)
        artifact.put_document(self.repo, status.path("hall1"), status.TAG, status.encode(said, ME), status.MEDIA_TYPE)

    def release(self, wanted: list[Desired]) -> None:
        """What the repository has as release 7."""
        images = [Image(t, "{}", (Layer("sha256:base"), Layer(f"sha256:{t}"))) for d in wanted for t in d.tags]
        made = document.of(
            "hall1", "tiny 1", "me", "2026", Rules(1, 0, 0), wanted, images, identity.sealing_key(ME.public)
        )
        artifact.put_document(self.repo, "site/hall1", artifact.kept(RELEASE), document.encode(made), "x", b"nobody's")

    def plan(self, **changes: str) -> Deployment:
        """For the files as they are, or with these changes."""
        site: SiteFile = self.site
        write_site(self.folder, TEXT, **changes)
        return planned(self.repo, site, load(site.pipeline).plan(), BASE, self.clock)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def marks(of: Deployment) -> dict[str, tuple[str, ...]]:
    return {c.service: c.why for c in of.changes if c.mark != "="}


def test_what_is_published_already_changes_nothing(told: Told) -> None:
    todo = told.plan()
    assert not todo.needed
    assert todo.actual.revision == 3


def test_what_changes_is_told_as_for_a_site_that_is_pushed_to(told: Told) -> None:
    todo = told.plan(window="2s")
    assert rollout.summary(todo.changes) == "+0 ~1 -0; 1 state-breaking"
    assert marks(todo) == {"process": ("pipeline",)}
    (process,) = [c for c in todo.changes if c.service == "process"]
    assert [v.what for v in process.state], "what becomes of its state"


def test_what_the_site_does_not_confirm_is_not_believed(told: Told) -> None:
    forged = [replace(d, parts={**d.parts, "pipeline": "forged"}) for d in told.wanted]
    told.release(forged)
    assert not told.plan().needed, "the report decides what runs"
    assert "base image" in marks(told.plan(window="2s"))["process"], "and nothing is known of what it was made of"


def test_without_the_release_it_is_known_what_changes_but_not_why(told: Told) -> None:
    told.repo = _without_releases(told)
    assert marks(told.plan()) == {}
    assert list(marks(told.plan(window="2s"))) == ["process"]


def _without_releases(told: Told) -> Folder:
    repo, said = Folder(told.folder / "other"), artifact.get_document(told.repo, status.path("hall1"), status.TAG)
    assert said
    artifact.put_document(repo, status.path("hall1"), status.TAG, said.content, said.media_type)
    return repo


def test_what_is_ill_is_left_alone_as_the_agent_does_and_what_has_ended_is_not(told: Told) -> None:
    told.report(health="unhealthy")
    assert not told.plan().needed
    told.report(state="exited")
    assert told.plan().needed


def test_a_site_that_is_silent_is_offline_to_a_plan(told: Told) -> None:
    told.clock.advance(SILENT_S + 3600)
    with pytest.raises(Unavailable, match="its agent reported last 105 minutes ago"):
        told.plan()


def test_a_saved_plan_is_stale_when_the_report_or_the_files_say_something_else(told: Told) -> None:
    saved = saved_plan.expected(told.plan(window="2s"))
    saved.check("hall1", told.plan(window="2s"))
    with pytest.raises(ConfigError, match="stale for site hall1: files have changed that decide about process"):
        saved.check("hall1", told.plan(window="3s"))
    told.report(id="another")
    with pytest.raises(ConfigError, match="stale for site hall1: other containers run"):
        saved.check("hall1", told.plan(window="2s"))


def test_only_layers_that_the_running_release_has_not_are_fetched(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def image(tag: str, *layers: str) -> Image:
        return Image(tag, "{}", tuple(Layer(f"sha256:{name}", name, 10**n) for n, name in enumerate(layers)))

    made = (image("p:1", "base", "packages"), image("process:2", "base", "packages", "code"))
    monkeypatch.setattr("containers.agent.planned.images_of", lambda _: [*made, made[0]])
    assert told.plan(window="2s").lacking == {"p:1": 10, "process:2": 100}
