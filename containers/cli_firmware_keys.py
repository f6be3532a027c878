"""`pipeline firmware keys` and `refresh`: who signs firmware, until when it counts, and how that changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from containers.cli_keys import shown, warn_of_plain
from containers.cli_shared import Context, shared
from containers.console import table
from containers.firmware.keys import Standing
from containers.firmware.shelf import Shelf
from containers.references import resolve
from containers.repository.ring import Ring
from pipelines.clock import SystemClock

F = TypeVar("F", bound=Callable[..., Any])


def shelf_options(command: F) -> F:
    """Gives a command `shelf`, from the options that say where the repository and its keys are."""

    def with_shelf(
        *args: Any, repository: Path, keys: Path, extra: tuple[Path, ...], passphrase: str, **options: Any
    ) -> Any:
        unlocking = (passphrase and resolve(passphrase, "--passphrase")) or b""
        return command(*args, shelf=Shelf(repository, Ring(keys, unlocking, extra), SystemClock()), **options)

    kind = click.Path(path_type=Path)
    made: Any = with_shelf
    made.__name__, made.__doc__ = command.__name__, command.__doc__
    made.__click_params__ = getattr(command, "__click_params__", [])
    for option in [
        click.option("--repository", metavar="DIR", type=kind, default=Path("firmware"), show_default=True,
                     help="Folder of the firmware repository; what lies in it may be shown to all."),
        click.option("--keys", metavar="DIR", type=kind, default=Path("firmware-keys"), show_default=True,
                     help="Folder of its private keys."),
        click.option("--key", "extra", metavar="FILE", type=kind, multiple=True,
                     help="A key file that lies elsewhere; as often as needed."),
        click.option("--passphrase", metavar="REF", default="", help="Of locked keys: 'file:PATH' or 'env:NAME'."),
    ]:  # fmt: skip
        made = option(made)
    return shared(made)  # type: ignore[no-any-return]  # a decorator gives what it was given


@click.group()
def keys() -> None:
    """Keys with which firmware is signed. Take root-*, targets-* and model-* to media of their own."""


@keys.command()
@shelf_options
@click.pass_obj
def init(context: Context, shelf: Shelf) -> None:
    """Make the keys and an empty repository, once.

    \b
    Example:
      pipeline firmware keys init --passphrase file:/run/secrets/firmware
    """
    made = shelf.keys.init()
    root = shelf.folder / "metadata" / "1.root.json"
    warn_of_plain(context, shelf.ring, made)
    context.console.data(
        f"made {', '.join(made)} in {shelf.ring.folder}, and {root}, which sites and devices trust; day by day only "
        "online-1 and campaigns-1 are needed: take the others to other media",
        {"keys": made, "root": str(root)},
    )


@keys.command("add-model")
@click.argument("model")
@shelf_options
@click.pass_obj
def add_model(context: Context, shelf: Shelf, model: str) -> None:
    """Make a key that signs the images of MODEL and of no other. Needs two of the targets keys.

    \b
    Example:
      pipeline firmware keys add-model press-mk2 --key /media/a/targets-1.key --key /media/b/targets-2.key
    """
    made = shelf.keys.add_model(model)
    warn_of_plain(context, shelf.ring, [made])
    context.console.data(f"made {made}", {"key": made})


@keys.command()
@click.argument("role")
@shelf_options
@click.pass_obj
def add(context: Context, shelf: Shelf, role: str) -> None:
    """Make one more key of a ROLE: root, targets, online, campaigns, or a model.

    \b
    Example:
      pipeline firmware keys add campaigns --key /media/a/targets-1.key --key /media/b/targets-2.key
    """
    made = shelf.keys.add(role)
    warn_of_plain(context, shelf.ring, [made])
    _tell(context, shelf, f"made {made}", {"made": made})


@keys.command()
@click.argument("name")
@shelf_options
@click.pass_obj
def rotate(context: Context, shelf: Shelf, name: str) -> None:
    """Put a new key in place of the key NAME, and sign anew with it what lies in the repository.

    Keys of root, targets and online need two of the root keys; those of campaigns and models two of the targets keys.

    \b
    Example:
      pipeline firmware keys rotate campaigns-1 --key /media/a/targets-1.key --key /media/b/targets-2.key
    """
    made = shelf.keys.rotate(name)
    warn_of_plain(context, shelf.ring, [made])
    _tell(context, shelf, f"made {made}; {name} counts no more: destroy its file", {"made": made, "revoked": name})


@keys.command()
@click.argument("name")
@shelf_options
@click.pass_obj
def revoke(context: Context, shelf: Shelf, name: str) -> None:
    """Let the key NAME count no more, because it is lost or stolen.

    What only it has signed counts no more. If it was the only key of a model, that model has no images until
    keys add-model  made another and  publish  has signed those that are good.

    \b
    Example:
      pipeline firmware keys revoke model-press-mk2-1 --key /media/a/targets-1.key --key /media/b/targets-2.key
    """
    last = shelf.keys.revoke(name)
    model = name.removeprefix("model-").rpartition("-")[0]
    more = (
        f", nor does any image of {model}: make another with  pipeline firmware keys add-model {model}  and publish anew "
        "those that are good"
        if last
        else ""
    )
    _tell(context, shelf, f"{name} counts no more{more}; destroy its file", {"revoked": name, "no_images": last})


@keys.command()
@shelf_options
@click.pass_obj
def show(context: Context, shelf: Shelf) -> None:
    """List the keys that count and where their private halves are, and what they have signed, until when.

    \b
    Examples:
      pipeline firmware keys show
      pipeline firmware keys show -o json | jq '.metadata[] | select(.expires < "2027")'
    """
    standings = shelf.keys.standings()
    ours, value = shown(shelf.keys.listed())
    rows = [
        [s.role, str(s.version), f"{s.expires:%Y-%m-%d}", ", ".join(s.signed_by), f"{s.threshold} of {len(s.keys)}"]
        for s in standings
    ]
    signed = table(["METADATA", "VERSION", "EXPIRES", "SIGNED BY", "MUST SIGN"], rows)
    metadata = [
        {"role": s.role, "version": s.version, "expires": s.expires.isoformat(), "signed_by": s.signed_by,
         "threshold": s.threshold, "keys": s.keys}
        for s in standings
    ]  # fmt: skip
    context.console.data(f"{ours}\n\n{signed}", {"keys": value, "metadata": metadata})


@click.command()
@shelf_options
@click.pass_obj
def refresh(context: Context, shelf: Shelf) -> None:
    """Sign anew that the repository is the newest there is: do this every week, for sites believe it for 30 days.

    What is in the last third of its time is signed anew, too, if its keys are here; else this says which are needed.

    \b
    Examples:
      pipeline firmware refresh
      pipeline firmware refresh --key /media/a/targets-1.key --key /media/b/targets-2.key
    """
    renewed = shelf.keys.refresh()
    for s in renewed.waiting:
        context.console(_needs(s))
    also = f"; signed anew: {', '.join(renewed.roles)}" if renewed.roles else ""
    context.console.data(
        f"good until {renewed.until:%Y-%m-%d %H:%M} UTC{also}",
        {"until": renewed.until.isoformat(), "renewed": renewed.roles, "waiting": [s.role for s in renewed.waiting]},
    )


def _needs(s: Standing) -> str:
    return (
        f"{s.role} is good until {s.expires:%Y-%m-%d}, and {s.threshold} of {', '.join(s.keys)} must sign it anew: run this "
        f"again with  --key /media/stick/{s.keys[0]}.key"
    )


def _tell(context: Context, shelf: Shelf, done: str, value: dict[str, object]) -> None:
    version = shelf.root().signed.version
    context.console.data(
        f"{done}. Root {version} is the newest; bring {shelf.folder} to your web server: sites and devices follow by themselves",
        {**value, "root": version},
    )
