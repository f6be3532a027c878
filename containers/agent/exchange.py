"""How an agent is exchanged for a newer one, which a release names, without anybody's help; a crash at any step leaves one.

The old agent, after a turn in which all went well, starts the new one beside it, under another name, and then only looks on. The
new one does all that a turn does but changing the site: it has to reach the repository, read what the site should run and find
it on the engine, and report. Then it removes the old one and takes its name. If it has not within `PROOF_S`, or ends, the old
one removes it and goes on. Both removals are made under the site's lock, so there is never more than one of them.

Whoever is started looks at the containers: one that bears the site's own name is in charge and removes what is left beside it.
"""

from __future__ import annotations

import json
import secrets
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from containers import names
from containers.agent import decide
from containers.agent.config import Frame
from containers.agent.profile import NEXT, container
from containers.agent.turn import Agent
from containers.commands import RemoveContainer, RenameContainer, StartContainer
from containers.hold import held
from pipelines.errors import SitestreamError

PROOF_S = 180.0  # for a new agent to prove itself
LOOK_S = 2.0
LOG_LINES = 20
Agents = Mapping[str, Mapping[str, str]]  # name -> labels


@dataclass
class Seat:
    """One agent's claim to be the site's. `token`: by which its container is known; empty: it is in none, and has no rival."""

    agent: Agent
    frame: Frame | None
    token: str

    def settled(self) -> bool:
        """Whether we are in charge of the site; if not, a step towards it was made. Ask before each turn."""
        if not self.token:
            return True
        try:
            return self._settle(self.agent.engine.agents(self.agent.site))
        except SitestreamError as e:
            self.agent.report(f"who is in charge could not be settled yet: {e}", bad=True)
            return False

    def _settle(self, there: Agents) -> bool:
        me = next((name for name, labels in there.items() if labels.get(names.AGENT_TOKEN) == self.token), self._main)
        self.agent.image = json.loads(there[me][names.IMAGES])[0] if me in there else ""
        if me == self._main:
            if self._next in there:
                self._remove(self._next, "rid of an agent that has not taken over")
            return True
        if self._main in there and not self.agent.prove():
            return False
        self._take_over(me, old=self._main in there)
        return True

    def _take_over(self, me: str, *, old: bool) -> None:
        engine = self.agent.engine
        with held(engine, self.agent.site, "taken over by its new agent", self.agent.report, clock=self.agent.clock):
            if old:
                engine.run(RemoveContainer(self._main))
            engine.run(RenameContainer(me, self._main))
            for command in engine.unused_images():
                engine.run(command)
        self.agent.report("the new agent has taken over")

    def exchange(self) -> None:
        """Have the agent take our place that the release names which runs well, if it is another. Returns if that is not so, or
        it did not; if it did, we are no more."""
        try:
            self._exchange()
        except SitestreamError as e:
            self.agent.report(f"the agent was not exchanged: {e}", bad=True)
        except Exception:  # a flaw of ours must not keep the site from being held
            self.agent.report(traceback.format_exc(), bad=True)
        self.settled()

    def _exchange(self) -> None:
        known, agent = self.agent.memory, self.agent
        kept = agent.disk.kept().get(known.good)
        if kept is None or self.frame is None or not agent.image:
            return
        hand, document, _ = agent.hand(kept)
        tags, agent.aside = decide.successor(known, document.agent, agent.image)
        if not tags:
            return
        agent.report(f"a newer agent is started: {tags[-1]}")
        with hand.alone("given a new agent"):
            hand.ship(document.images[tag] for tag in tags)
            agent.remember(decide.exchange_begun(known))
            agent.engine.run(RemoveContainer(self._next))
            agent.engine.run(container(agent.site, tags, self.frame, secrets.token_hex(8), NEXT))
            agent.engine.run(StartContainer(self._next))
        why = self._watched()
        agent.forget()  # the new one has written, too
        agent.remember(decide.exchange_failed(agent.memory, why))
        _, agent.aside = decide.successor(agent.memory, document.agent, agent.image)
        agent.report(why, bad=True)

    def _watched(self) -> str:
        """Look on until it is clear that the new agent does not take over; why. If it does, this never returns."""
        agent, begun_s = self.agent, self.agent.clock.monotonic_s()
        while True:
            agent.pause(LOOK_S)
            agent.alive()
            state, late = agent.engine.state_of(self._next), agent.clock.monotonic_s() - begun_s >= PROOF_S
            if late or state != "running":
                ended = f"did not prove itself within {PROOF_S:g} s" if late else f"ended: it {state}"
                log = "" if state == "is gone" else agent.engine.logs(self._next, LOG_LINES).rstrip()
                return f"the new agent {ended}: {log.rpartition(chr(10))[2] or 'it said nothing'}"

    def _remove(self, name: str, purpose: str) -> None:
        engine = self.agent.engine
        with held(engine, self.agent.site, purpose, self.agent.report, clock=self.agent.clock):
            engine.run(RemoveContainer(name))

    @property
    def _main(self) -> str:
        return names.agent(self.agent.site)

    @property
    def _next(self) -> str:
        return names.agent(self.agent.site, NEXT)
