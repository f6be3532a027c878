"""The containers of a site's agents, each with its process: one can be killed at any effect of any of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from containers import names
from containers.agent import profile
from containers.agent.config import Frame
from containers.agent.exchange import Seat
from containers.agent.turn import Agent
from containers.commands import Command, CreateContainer, RemoveContainer, RenameContainer, StartContainer
from containers.repository.errors import Unreachable
from tests.agent.world import SITE, Effects, Killed, SimEngine, World

FRAME = Frame(network="wan", volume="config", socket="/var/run/docker.sock", group=1, memory_bytes=1)
MAIN = names.agent(SITE)


@dataclass
class Box:
    """A container of an agent."""

    labels: dict[str, str]
    state: str = "created"
    process: Process | None = None

    @property
    def tag(self) -> str:
        """Its image."""
        return str(json.loads(self.labels[names.IMAGES])[0])


@dataclass
class Process:
    """What runs in a container until it is killed."""

    seat: Seat
    dead: bool = False
    begun: bool = False


@dataclass
class Killing(Effects):
    """The process that is about to have effect `kill_at` dies, and has none any more; others go on."""

    stack: list[Process] = field(default_factory=list)

    def __call__(self, what: str, do: Callable[[], Any]) -> Any:
        """See `Effects`."""
        me = self.stack[-1] if self.stack else None
        if me and len(self.told) == self.kill_at:
            self.kill_at, me.dead = 1 << 30, True
        if me and me.dead:
            raise Killed(what)
        self.told.append(what)
        return do()


@dataclass
class MachineEngine(SimEngine):
    """With agents, too."""

    boxes: dict[str, Box] = field(default_factory=dict)

    def agents(self, site: str) -> dict[str, dict[str, str]]:
        """See `Engine`."""
        self._up()
        return {name: box.labels for name, box in self.boxes.items()}

    def state_of(self, name: str) -> str:
        """See `Engine`."""
        self._up()
        return self.boxes[name].state if name in self.boxes else "is gone"

    def unused_images(self) -> list[Command]:
        """See `Engine`."""
        used = {box.tag for box in self.boxes.values()}
        return [c for c in super().unused_images() if getattr(c, "tag", "") not in used]

    def _run(self, command: Command) -> None:
        match command:
            case CreateContainer(name, config) if names.AGENT in config["Labels"]:
                assert name not in self.boxes, "there is such a container already"
                self.boxes[name] = Box(config["Labels"])
            case StartContainer(name) if name in self.boxes:
                self.boxes[name].state = "restarting" if self.boxes[name].tag in self.bad else "running"
            case RemoveContainer(name) if name.startswith(MAIN):
                box = self.boxes.pop(name, None)
                if box and box.process:
                    box.process.dead = True
            case RenameContainer(name, to):
                assert to not in self.boxes, "there is such a container already"
                self.boxes[to] = self.boxes.pop(name)
            case _:
                super()._run(command)


class Machine:
    """A site at which release 1 runs, brought there by the agent of image 1. `mute`: images whose agents reach no repository."""

    def __init__(self, world: World) -> None:
        self.world, self.mute = world, set[str]()
        self.effects = Killing()
        world.effects = self.effects
        known = vars(world.engine) | {"effects": self.effects}
        self.engine = MachineEngine(**{k: v for k, v in known.items() if k != "fence"})
        world.engine = self.engine
        made = profile.container(SITE, (world.tag("agent", 1),), FRAME, "first")
        self.engine.boxes[MAIN] = Box(made.config["Labels"], "running")
        self.engine.images[world.tag("agent", 1)] = "first"

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Writes to the disk are effects, too."""
        with self.world.counted():
            yield

    def round(self) -> None:
        """Every process that runs has a turn."""
        for box in list(self.engine.boxes.values()):
            self._turn(box)
        self.world.clock.advance(60)

    def _turn(self, box: Box) -> None:
        if box.state != "running" or box not in self.engine.boxes.values():
            return
        if box.process is None or box.process.dead:  # the engine starts it again
            box.process = self._born(box)
        me = box.process
        self.effects.stack.append(me)
        try:
            if not me.seat.settled():
                return
            if not me.begun:
                me.seat.agent.start()
                me.begun = True
            if me.seat.agent.turn():
                me.seat.exchange()
        except Killed:
            me.dead = True
        finally:
            self.effects.stack.pop()

    def _born(self, box: Box) -> Process:
        agent = self.world.born()
        engine: Any = copy.copy(self.engine)  # the same containers, another connection
        agent.engine = engine
        if box.tag in self.mute:
            agent.repo = _Mute()
        process = Process(Seat(agent, FRAME, box.labels[names.AGENT_TOKEN]))
        agent.pause = lambda seconds: self._pause(process, agent, seconds)
        return process

    def _pause(self, me: Process, agent: Agent, seconds: float) -> None:
        """Time goes by, in which the others work; who was removed meanwhile is no more."""
        self.world.clock.advance(seconds)
        if len(self.effects.stack) == 1:
            for box in list(self.engine.boxes.values()):
                if box.process is not me:
                    self._turn(box)
        if me.dead:
            raise Killed("its container was removed")


class _Mute:
    """A repository that nobody reaches."""

    where = "nowhere"

    def __getattr__(self, name: str) -> Any:
        def away(*_: object, **__: object) -> None:
            raise Unreachable("the registry cannot be reached")

        return away
