"""An A/B device, as faithful as Python can be: two slots in flash, a boot loader that counts tries, a self-test, power cuts.

`Flash` is what survives a power cut. Everything else is lost with the life that knew it, above all the permission to install.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiomqtt
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from connectors.firmware.protocol import CHUNKS_MAX, topic, unpack
from pipelines.errors import BadData

TRIES = 3  # of a new slot before the boot loader goes back
PATIENCE_S = 1.0  # then a device says again what it waits for
STEPS = (
    "order kept", "half a chunk", "chunk written", "verified", "permission heard", "slot marked", "restarted", "self-tested",
    "committed",
)  # fmt: skip


class PowerCut(Exception):
    """The power fails here."""


@dataclass
class Flash:
    """What survives. `slots`: bytes and what they are."""

    slots: dict[str, bytes] = field(default_factory=lambda: {"A": b"old", "B": b""})
    versions: dict[str, tuple[str, int]] = field(default_factory=lambda: {"A": ("1.0", 1), "B": ("", 0)})
    active: str = "A"
    trial: str = ""
    tries: int = 0
    boots: int = 0
    order: dict[str, Any] = field(default_factory=dict)
    result: tuple[str, str, str] = ("IDLE", "", "")  # state, campaign, detail
    root: bytes = b""  # the newest that followed the one it was built with
    seen: dict[str, dict[str, int]] = field(default_factory=dict)  # versions of metadata, by role and key that signed

    @property
    def other(self) -> str:
        """The slot that does not run."""
        return "B" if self.active == "A" else "A"


@dataclass
class Device:
    """`kind`: good; weak (its self-test fails in the new slot); bricks (never comes back from it); rots (flash that forgets).

    `cut`: the power fails once at each of these steps.
    """

    name: str
    root: bytes
    kind: str = "good"
    hardware: str = "A"
    model: str = "m"
    http: bool = False
    cut: set[str] = field(default_factory=set)
    flash: Flash = field(default_factory=Flash)
    running: str = "A"  # slot
    may_install: bool = False
    said: list[str] = field(default_factory=list)
    dead: bool = False
    garble: int = 0  # so many chunks arrive damaged

    def at(self, step: str) -> None:
        """The power may fail here."""
        if step in self.cut:
            self.cut.discard(step)
            raise PowerCut(step)

    async def live(self, host: str, port: int) -> None:
        """Life after life, until cancelled."""
        while not self.dead:
            self.boot()
            if self.dead:
                return
            with contextlib.suppress(PowerCut):
                await self._life(host, port)

    def boot(self) -> None:
        """What the boot loader does."""
        flash = self.flash
        flash.boots += 1
        self.may_install, self.running = False, flash.active
        if not flash.trial:
            return
        if self.kind == "bricks":
            self.dead = True
            return
        good = hashlib.sha256(flash.slots[flash.trial]).hexdigest() == flash.order["sha256"]
        if flash.tries == 0 or not good:
            flash.result = ("ROLLED_BACK", flash.order["campaign"], "the new slot did not hold")
            flash.trial, flash.order = "", {}
            return
        flash.tries -= 1
        self.running = flash.trial

    async def _life(self, host: str, port: int) -> None:
        offline = self._report("OFFLINE")
        will = aiomqtt.Will(topic(self.name, "report"), offline, qos=1, retain=True)
        async with aiomqtt.Client(host, port, identifier=f"dev-{self.name}", will=will, clean_session=False) as client:
            await client.subscribe([(topic(self.name, "order"), 1), (topic(self.name, "chunk"), 0)])
            await self._confirm(client)
            await self._tell(client)
            async for message in _or_nothing(client, PATIENCE_S):
                if message is None:
                    if self.flash.result[0] in ("DOWNLOADING", "VERIFIED"):  # else nothing is waited for
                        await self._tell(client)
                elif str(message.topic).endswith("/chunk"):
                    await self._chunk(client, bytes(message.payload))
                else:
                    await self._order(client, json.loads(message.payload))

    async def _confirm(self, client: aiomqtt.Client) -> None:
        flash = self.flash
        if self.running == flash.active:
            return
        flash.result = ("CONFIRMING", flash.order["campaign"], "")
        await self._tell(client)
        self.at("restarted")
        if self.kind == "weak":
            raise PowerCut("the self-test fails: the watchdog restarts")
        self.at("self-tested")
        flash.result = ("COMMITTED", flash.order["campaign"], "")
        flash.active, flash.trial, flash.order = flash.trial, "", {}
        self.at("committed")

    async def _order(self, client: aiomqtt.Client, order: dict[str, Any]) -> None:
        flash = self.flash
        mine = flash.order.get("campaign") == order["campaign"]
        if order["do"] == "cancel" and mine and not flash.trial:
            flash.order, flash.result = {}, ("IDLE", "", "")
        elif order["do"] == "install" and mine and order["boot"] == flash.boots and flash.result[0] == "VERIFIED":
            self.may_install = True
            self.at("permission heard")
            await self._install(client)
        elif order["do"] == "download" and not mine and not flash.trial and flash.result[1] != order["campaign"]:
            if why := self.refuses(order):
                flash.result = ("FAILED", order["campaign"], why)
            else:
                flash.order, flash.result = order, ("DOWNLOADING", order["campaign"], "")
                flash.slots[flash.other] = b""
                self.at("order kept")
        await self._tell(client)

    def refuses(self, order: dict[str, Any]) -> str:
        """Why this must not be installed; the device believes nobody but its root."""
        try:
            root = self._followed(order.get("roots", ()))
            targets = Metadata[Targets].from_bytes(order["metadata"][0].encode())
            signed = Metadata[Targets].from_bytes(order["metadata"][1].encode())
            if root.signed.is_expired(datetime.now(UTC)):
                return "the root has expired"
            for by, role, metadata in ((root, "targets", targets), (targets, self.model, signed)):
                by.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
                if why := self._stale(by, role, metadata):
                    return why
            target = signed.signed.targets[order["path"]]
        except (RepositoryError, KeyError, ValueError, IndexError) as e:
            return f"not signed: {e!r}"
        custom, floor = target.custom, self.flash.versions[self.flash.active][1]
        if (target.length, target.hashes["sha256"]) != (order["length"], order["sha256"]):
            return "not what was signed"
        if custom["model"] != self.model or self.hardware not in custom["hardware"]:
            return "not for this hardware"
        if custom["security_version"] < floor:
            return "an older security version"
        self.flash.versions[self.flash.other] = (custom["version"], custom["security_version"])
        return ""

    def _followed(self, roots: Iterable[str]) -> Metadata[Root]:
        """The newest root: each must be signed as the one before it and it itself ask for."""
        newest = Metadata[Root].from_bytes(self.flash.root or self.root)
        for text in roots:
            new = Metadata[Root].from_bytes(text.encode())
            if new.signed.version <= newest.signed.version:
                continue
            for by in (newest, new):
                by.signed.verify_delegate("root", new.signed_bytes, new.signatures)
            if new.signed.version != newest.signed.version + 1:
                raise ValueError(f"root {new.signed.version} does not follow root {newest.signed.version}")
            newest, self.flash.root = new, text.encode()
        return newest

    def _stale(self, by: Metadata[Any], role: str, metadata: Metadata[Targets]) -> str:
        """Why metadata is too old. What was seen counts only while the key does that signed it: else who stole one could have had
        the device see version 2^31, and nothing would follow."""
        version, keyids = metadata.signed.version, by.signed.get_delegated_role(role).keyids
        known = {k: v for k, v in self.flash.seen.get(role, {}).items() if k in keyids}
        if version < max(known.values(), default=0):
            return f"{role} is older than what was seen"
        if metadata.signed.is_expired(datetime.now(UTC)):
            return f"{role} has expired"
        found = by.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        self.flash.seen[role] = known | dict.fromkeys(found.signed, version)
        return ""

    async def _chunk(self, client: aiomqtt.Client, raw: bytes) -> None:
        flash = self.flash
        if flash.result[0] != "DOWNLOADING":
            return
        if self.garble:
            self.garble -= 1
            raw = raw[:-1] + bytes([raw[-1] ^ 1])
        try:
            offset, data = unpack(raw, flash.order["sha256"])
        except BadData:
            return
        have = len(flash.slots[flash.other])
        if offset != have:
            return
        if "half a chunk" in self.cut:
            flash.slots[flash.other] += data[: len(data) // 2]
            self.at("half a chunk")
        flash.slots[flash.other] += data
        self.at("chunk written")
        have = len(flash.slots[flash.other])
        if have == flash.order["length"]:
            self._verify()
            await self._tell(client)
        elif have % (flash.order["chunk_bytes"] * CHUNKS_MAX) == 0:
            await self._tell(client)

    def _verify(self) -> None:
        flash = self.flash
        if hashlib.sha256(flash.slots[flash.other]).hexdigest() == flash.order["sha256"]:
            flash.result = ("VERIFIED", flash.order["campaign"], "")
            self.at("verified")
        else:
            flash.slots[flash.other] = b""

    async def _install(self, client: aiomqtt.Client) -> None:
        flash = self.flash
        if hashlib.sha256(flash.slots[flash.other]).hexdigest() != flash.order["sha256"]:
            flash.slots[flash.other], flash.result = b"", ("DOWNLOADING", flash.order["campaign"], "the flash forgot")
            raise PowerCut("begins again, in another life: this one might install")
        flash.trial, flash.tries = flash.other, TRIES
        self.at("slot marked")
        flash.result = ("REBOOTING", flash.order["campaign"], "")
        await self._tell(client)
        if self.kind == "rots":
            flash.slots[flash.trial] = flash.slots[flash.trial][:-1]
        raise PowerCut("restarts on purpose")

    def _report(self, state: str, **more: Any) -> bytes:
        version, security = self.flash.versions[self.running]
        said = {"device": self.name, "model": self.model, "hardware": self.hardware, "version": version}
        root = Metadata[Root].from_bytes(self.flash.root or self.root).signed.version
        return json.dumps(
            {**said, "root": root, "security_version": security, "boot": self.flash.boots, "state": state, **more}
        ).encode()

    async def _tell(self, client: aiomqtt.Client) -> None:
        state, campaign, detail = self.flash.result
        more: dict[str, Any] = {"campaign": campaign, "detail": detail}
        if state == "DOWNLOADING":
            have = len(self.flash.slots[self.flash.other])
            more |= {"offset": have, "want": 0 if self.http else CHUNKS_MAX}
        self.said.append(state)
        await client.publish(topic(self.name, "report"), self._report(state, **more), qos=1, retain=True)
        if state == "DOWNLOADING" and self.http:
            await self._over_http(client)

    async def _over_http(self, client: aiomqtt.Client) -> None:
        flash = self.flash
        have = len(flash.slots[flash.other])
        headers = {"Authorization": f"Bearer {flash.order['token']}", "Range": f"bytes={have}-"}
        asked = urllib.request.Request(flash.order["url"], headers=headers)  # noqa: S310 - a site's own
        with contextlib.suppress(urllib.error.URLError):
            flash.slots[flash.other] += await asyncio.to_thread(_read, asked)
        if len(flash.slots[flash.other]) == flash.order["length"]:
            self._verify()
            await self._tell(client)


def _read(asked: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - as above
        data: bytes = answer.read()
        return data


async def _or_nothing(client: aiomqtt.Client, patience_s: float) -> AsyncIterator[aiomqtt.Message | None]:
    """Messages; None whenever none came for a while."""
    messages = aiter(client.messages)
    coming = asyncio.ensure_future(anext(messages))
    waited = 0
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=patience_s * 2 ** min(waited, 3))
            if not done:
                waited += 1
                yield None
                continue
            waited = 0
            yield coming.result()
            coming = asyncio.ensure_future(anext(messages))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


@asynccontextmanager
async def living(devices: list[Device], host: str, port: int) -> AsyncIterator[list[Device]]:
    """They live meanwhile."""
    lives = [asyncio.create_task(d.live(host, port)) for d in devices]
    try:
        yield devices
        for life in lives:
            if life.done() and not life.cancelled():
                life.result()
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        async with aiomqtt.Client(host, port) as client:  # others use this broker, too
            for device in devices:
                await client.publish(topic(device.name, "report"), b"", qos=1, retain=True)
