"""`pipeline device twin`: what a device's settings are to be, and what it says that they are. docs/control.md is the guide."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from containers.cli_device import KEY_VARIABLE, argument_of
from containers.cli_shared import Context, Duration, brokers_option, shared
from containers.console import age, coloured, table
from containers.reach import at_kafka
from pipelines import topics
from pipelines.clock import Clock, SystemClock
from pipelines.errors import ConfigError, Unavailable
from pipelines.runtime import kafka
from pipelines.runtime.tail import Take, following

EXPIRES_S, LOOK_S = 30, 0.2


@click.command()
@click.argument("device")
@click.argument("action", type=click.Choice(["set", "unset"]), required=False)
@click.argument("settings", nargs=-1)
@click.option("--expect", type=click.IntRange(min=0), metavar="VERSION",
              help="Change it only if this version is desired now; 0: nothing is.")  # fmt: skip
@click.option("--wait", type=Duration(), default="10s", show_default=True, help="For control to take the change.")
@click.option("--key", type=click.Path(path_type=Path), envvar=KEY_VARIABLE,
              help=f"Your key, for a change; its file's name is yours: anna.key. Or set {KEY_VARIABLE}.")  # fmt: skip
@brokers_option
@shared
@click.pass_obj
def twin(
    context: Context, device: str, action: str | None, settings: tuple[str, ...], expect: int | None, wait: float,
    key: Path | None, brokers: str | None,
) -> None:  # fmt: skip
    """Show the settings of DEVICE: desired and reported; or change what is desired, signed with your key.

    Control tells the device, again and again, until it says that it has them.

    \b
    Examples:
      pipeline device twin press-7
      pipeline device twin press-7 set speed_max=2.0 mode=eco --key anna.key
      pipeline device twin press-7 set speed_max=1.5 --expect 4 --key anna.key    only if nobody was faster
      pipeline device twin press-7 unset speed_max --key anna.key                 control no longer minds it
    """
    site, clock = context.site(), SystemClock()
    name = site.site.site
    if action is None:
        context.console.data(*at_kafka(site, brokers, lambda at: _shown(at, name, device, clock)))
        return
    if not settings:
        raise ConfigError(f"{action} what? Name a setting, such as  pipeline device twin {device} {action} speed_max")
    if key is None:
        raise ConfigError(f"a change is signed: give your key with --key, or set {KEY_VARIABLE}")
    args: dict[str, Any] = dict(map(argument_of, settings)) if action == "set" else dict.fromkeys(settings)
    signer = key
    detail = at_kafka(site, brokers, lambda at: _change(at, name, device, args, expect, signer, wait, clock))
    context.console.data(f"{device}: {detail}", {"site": name, "device": device, "detail": detail})


async def _change(
    brokers: str, site: str, device: str, args: dict[str, Any], expect: int | None, key: Path, wait_s: float, clock: Clock
) -> str:  # fmt: skip
    """What control says; `ConfigError` if it refuses."""
    from connectors.control.commands import Command
    from connectors.control.devices import TWIN
    from connectors.control.send import send
    from connectors.control.signing import load, signed

    now = clock.now_ns()
    command = Command(
        id=uuid.uuid4().hex, device=device, verb=TWIN, args=args, issuer=key.stem, issued_at_ns=now,
        expires_at_ns=now + EXPIRES_S * 10**9, expected_twin_version=msgspec.UNSET if expect is None else expect,
    )  # fmt: skip
    signer = load(key)
    async with following(brokers, {topics.audit(site): 0}) as read:
        await send(brokers, site, signed(command, site, signer))
        return await _verdict(read, command.id, wait_s, clock)


async def _verdict(read: Callable[[Take], Awaitable[None]], command: str, wait_s: float, clock: Clock) -> str:
    """As the audit has it, which has forged commands, too."""
    from connectors.control.audit import REFUSED, Record

    said: list[Record] = []

    def take(record: kafka.Record) -> None:
        line = msgspec.json.decode(record.value, type=Record)
        if line.command == command:
            said.append(line)

    until_s = clock.monotonic_s() + wait_s
    while clock.monotonic_s() < until_s:
        await read(take)
        if said and said[0].state in ("REJECTED", "EXPIRED", REFUSED):
            raise ConfigError(f"control refuses it: {said[0].detail}")
        if said:
            return said[0].detail
        await clock.sleep(LOOK_S)
    raise Unavailable(
        f"control has not said within {wait_s:g} s what becomes of it; it takes it if it comes back within {EXPIRES_S} s of "
        "the change: see  pipeline device status"
    )


async def _shown(brokers: str, site: str, device: str, clock: Clock) -> tuple[str, dict[str, object]]:
    from connectors.control.twin import Twins
    from connectors.control.twins import read

    twins = Twins(await read(brokers, site))
    found, now = twins[device], clock.now_ns()
    desired, reported = found.desired, found.reported
    difference = {name: {"desired": a, "reported": b} for name, (a, b) in found.difference.items()}
    value: dict[str, object] = {
        "site": site, "device": device, "state": found.state.value if desired or reported else None, "version": found.version,
        "difference": difference, "since_ns": found.since_ns, "desired": _fields(desired), "reported": _fields(reported),
    }  # fmt: skip
    if desired is None and reported is None:
        return f"{device}: nothing is desired of it, and it has reported nothing", value
    want, have = (side.values if side else {} for side in (desired, reported))
    rows = [
        [name, _text(want.get(name)), _text(have.get(name)), coloured("differs", "red") if name in found.difference else ""]
        for name in sorted({*want, *have})
    ]  # fmt: skip
    since = f" for {age(now - found.since_ns)}" if found.since_ns else ""
    lines = [f"{device}: {shown_state(found.state.value)}{since}"]
    if desired:
        lines.append(f"desired:  version {desired.version}, by {desired.by}, {age(now - desired.at_ns)} ago")
    if reported:
        more = f"; it says: {reported.detail}" if reported.detail else ""
        lines.append(
            f"reported: the device has version {reported.applied}; {age(now - reported.at_ns)} since it last changed{more}"
        )
    return "\n".join([*lines, table(["SETTING", "DESIRED", "REPORTED", ""], rows)]), value


def shown_state(state: str) -> str:
    """A state of a twin, in its colour."""
    return coloured(state, {"IN_SYNC": "green", "DIFFERS": "red"}.get(state, "yellow"))  # type: ignore[arg-type]  # a colour


def _text(value: Any) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _fields(side: Any) -> dict[str, object] | None:
    return {name: getattr(side, name) for name in side.__struct_fields__} if side else None
