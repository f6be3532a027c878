"""An agent at work: each turn asks the repository, holds the site to what is decided, and reports.

Whatever goes wrong in one part does not keep the others from their turn, and nothing that runs is touched for it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from containers import history, names
from containers.agent import decide, status
from containers.agent.decide import NOTE, Aim, Kept, Memory
from containers.agent.disk import Disk
from containers.agent.document import Document, decode
from containers.agent.identity import Identity
from containers.agent.pull import PulledLayers, Puller
from containers.agent.status import Status
from containers.deployer import Deployment
from containers.engine import Engine
from containers.profiles import BROKER
from containers.repository import artifact
from containers.repository.base import Repository
from containers.repository.errors import NotFound
from containers.repository.trust import TrustStore, update_root, verify
from containers.rollout import State
from containers.walk import Report
from containers.wanted import Desired
from pipelines.clock import Clock, SystemClock
from pipelines.errors import ConfigError, SitestreamError, Unavailable

LAYERS = "layers"
PURPOSE = "brought up to date"


@dataclass
class Agent:
    """One site's agent. `alive` is called whenever it gets on."""

    site: str
    engine: Engine
    repo: Repository
    trusted: TrustStore
    disk: Disk
    identity: Identity
    report: Report
    version: str
    clock: Clock = field(default_factory=SystemClock)
    pause: Callable[[float], None] = time.sleep
    alive: Callable[[], None] = lambda: None
    image: str = ""  # tag of our own
    aside: str = ""  # what else is to be told, see `exchange`
    _memory: Memory | None = None
    _trouble: list[str] = field(default_factory=list)
    _told: tuple[Status, float] | None = None  # the last report, and when
    _taken: bool = False  # something new was believed and not reported yet

    def turn(self) -> bool:
        """Ask, act, report; whether all of it went well. Call `start` once before."""
        before, self._trouble = self._trouble, []
        asked = self._tried(self.ask, before)
        if (
            self._taken
        ):  # who follows a rollout learns at once that it has begun here; the next report may be long in coming
            self._taken = False
            self._tried(self.tell, before)
        held = self._tried(self.hold, before)
        told = self._tried(self.tell, before)
        self.alive()
        return asked and held and told

    @property
    def memory(self) -> Memory:
        """What is remembered, from the disk; if that was lost, from the engine."""
        if self._memory is None:
            self._memory = self.disk.memory() or self._recalled()
        return self._memory

    def start(self) -> None:
        """Hold the site to what was believed last, before anybody is asked: there may be no network."""
        self._tried(self.hold, [])
        self.alive()

    def ask(self) -> None:
        """See whether there is something new, and believe it if it may be believed."""
        known, path = self.memory, artifact.site_name(self.site)
        have = known.manifest if known.newest in self.disk.kept() else ""
        try:
            found = artifact.get_document(self.repo, path, artifact.DESIRED, known=have)
        except NotFound as e:
            raise ConfigError(
                f"nothing is published for site {self.site} yet: pipeline publish --site {self.site}"
            ) from e
        if found is None:
            return
        update_root(self.trusted, lambda version: artifact.get_root(self.repo, version))
        good = verify(self.trusted, found.statement, path, found.content, self.clock)
        decode(found.content, self.site).wanted(self.identity.sealing.private)  # one that cannot be used is never begun
        new = Kept(good.version, good.expires.timestamp(), found.digest, found.content)
        self.disk.keep(new)
        self.remember(decide.believed(known, new.version, new.expires_s, new.manifest))
        self.disk.forget({known.good, new.version})
        if new.version != known.newest:
            self._taken = True
            self.report(f"release {new.version} was published")

    def hold(self) -> None:
        """Bring the site to where it should be, if it is not there. Needs no network as long as the engine has the images."""
        documents = self.disk.kept()
        goal = decide.aim(self.memory, documents, self.clock.now_ns() / 1e9)
        if goal.why_not:
            self._say(goal.why_not)
        if not goal.version:
            return
        hand, document, wanted = self.hand(documents[goal.version])
        if Deployment(wanted, hand.as_it_is(wanted), ill=False).needed:
            with hand.alone(PURPOSE):
                self._bring(hand, goal, document, wanted)
        elif goal.update:  # nothing differs, or we were stopped between the site's record and our own
            self._ended("done", judged=False, why="")
        if document.settles and decide.unsettled(self.memory, goal.version):
            with hand.alone(PURPOSE):
                self._settle(document)

    def _bring(self, hand: Puller, goal: Aim, document: Document, wanted: tuple[Desired, ...]) -> None:
        hand.mend()
        if goal.update:
            self.remember(decide.begun(self.memory))
            if self.memory.failed == goal.version:
                raise ConfigError(f"release {goal.version}: {self.memory.why}; publish another")
        rules = document.rules
        todo = hand.bring(
            wanted,
            f"{NOTE}{goal.version}",
            document.what,
            timeout_s=rules.health_timeout_s,
            soak_s=rules.soak_s,
            ill=False,
            grant=lambda container: self._grant(document, container),
        )
        state: State = "done"
        if todo:
            todo.clock, todo.pause, todo.progress = self.clock, self.pause, lambda phase: self.alive()
            state = todo.run()
        if goal.update:
            judged, why = (todo.judged, todo.why) if todo else (False, "")
            self._ended(state, judged=judged, why=why)
        if state != "done":
            raise ConfigError(f"release {goal.version}: {state}: {todo.why if todo else ''}")
        hand.prune()
        self.report(f"release {goal.version} runs")

    def _ended(self, state: State, *, judged: bool, why: str) -> None:
        """An attempt at the newest version: the site's newest record tells whether it has changed anything."""
        records = self.engine.actual(self.site).records if state == "done" else ()
        changed = bool(records) and records[-1].note == f"{NOTE}{self.memory.newest}"
        self.remember(decide.ended(self.memory, state, judged=judged, why=why, changed=changed))

    def _grant(self, document: Document, container: str) -> None:
        """Have topics and rights made inside the site's own broker, if it has one."""
        if document.grants:
            self._asked(document.grants, container)

    def _settle(self, document: Document) -> None:
        """Have rights taken away that were of versions before, or of one that failed. Done again if it was broken off."""
        _, removed = msgspec.json.decode(self._asked(document.settles), type=tuple[int, int])
        self.remember(decide.settled(self.memory))
        if removed:
            self.report(f"Kafka: {removed} rights taken away")

    def _asked(self, words: Sequence[str], container: str = "") -> str:
        """What was said when the site's own broker, by default the present one, did as the document says."""
        at = container or self.engine.actual(self.site).current[BROKER.service].name
        done = self.engine.execute(at, words)
        if not done.well:
            raise Unavailable(
                f"topics and rights could not be made in {at}: {done.errors.strip() or 'it does not run'}"
            )
        return done.output

    def prove(self) -> bool:
        """Do all that a turn does, but for changing the site, for which another agent answers: whether all of it went well."""
        self._memory, self._trouble = None, []
        return self._tried(self.ask, []) and self._tried(self._look, []) and self._tried(self.tell, [])

    def _look(self) -> None:
        documents = self.disk.kept()
        goal = decide.aim(self.memory, documents, self.clock.now_ns() / 1e9)
        if goal.version:
            hand, _, wanted = self.hand(documents[goal.version])
            hand.as_it_is(wanted)

    def hand(self, kept: Kept) -> tuple[Puller, Document, tuple[Desired, ...]]:
        """What brings the site to a document, the document, and its services."""
        document = decode(kept.document, self.site)
        layers = PulledLayers(self.disk.folder / LAYERS, self.repo)
        hand = Puller(self.site, document.rules, self.engine, layers, self.report, self.clock)
        return hand, document, document.wanted(self.identity.sealing.private)

    def tell(self) -> None:
        """Report, if there is news or the last report is old."""
        new = self.state()
        now_s = self.clock.monotonic_s()
        if self._told and self._told[0].news == new.news and now_s - self._told[1] < status.REPORT_S:
            return
        content = status.encode(new, self.identity)
        artifact.put_document(self.repo, status.path(self.site), status.TAG, content, status.MEDIA_TYPE)
        self._told = (new, now_s)

    def state(self) -> Status:
        """How the site is."""
        known, actual = self.memory, self.engine.actual(self.site)
        what = actual.records[-1].what if actual.records else ""
        return Status(
            self.site, self.clock.now_ns() / 1e9, self.version, known.good, known.newest, what,
            "; ".join([*self._trouble, *([self.aside] if self.aside else [])]), status.shown(actual), known.failed, self.image,
            known.before,
        )  # fmt: skip

    def forget(self) -> None:
        """What was remembered and reported may be another agent's by now: read the one again, do the other again."""
        self._memory = self._told = None

    def remember(self, memory: Memory) -> None:
        """Keep it, here and on the disk."""
        if memory != self.disk.memory():
            self.disk.remember(memory)
        self._memory = memory

    def _recalled(self) -> Memory:
        now_s, volumes = self.engine.volumes(f"{names.PREFIX}-{self.site}-")
        entries = reversed(history.entries(self.site, now_s, volumes))
        found = decide.recalled(((e.note, e.result, e.why) for e in entries), self.disk.kept().values())
        if found != Memory():
            self.report("the agent's memory was lost or damaged: taken from the engine's records instead")
        return found

    def _tried(self, part: Callable[[], None], before: list[str]) -> bool:
        try:
            part()
        except SitestreamError as e:
            self._say(str(e), known=str(e) in before)
            return False
        except Exception as e:  # a flaw of ours must not keep the next release, which may mend it, from coming
            self._say(f"internal error: {e!r}", known=repr(e) in " ".join(before))
            self.report(traceback.format_exc(), bad=True)
            return False
        return True

    def _say(self, trouble: str, *, known: bool = False) -> None:
        if trouble in self._trouble:
            return
        self._trouble.append(trouble)
        if not known:
            self.report(trouble, bad=True)
