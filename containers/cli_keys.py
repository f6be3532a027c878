"""`pipeline keys`: the keys whose signatures sites believe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from containers.cli_shared import Context, shared
from containers.console import table
from containers.references import resolve
from containers.repository.keys import Keys, Role
from containers.repository.ring import Listed, Ring
from pipelines.clock import SystemClock

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def keys() -> None:
    """Keys with which releases are signed; sites believe nothing else.

    They lie in the folder 'keys'. Release keys sign each deployment. Root keys only say which keys count: take their files to
    media of their own, and name them with --key when they are needed.
    """


def key_options(command: F) -> F:
    """Gives a command `keys`, from the options that say where they are and how they are locked."""
    options = [
        click.option("--keys", "folder", metavar="DIR", type=click.Path(path_type=Path), default=Path("keys"),
                     help="Folder of the fleet's keys [keys]."),
        click.option("--key", "extra", metavar="FILE", type=click.Path(path_type=Path), multiple=True,
                     help="A key file that lies elsewhere; as often as needed."),
        click.option("--passphrase", metavar="REF", default="", help="Of locked keys: 'file:PATH' or 'env:NAME'."),
    ]  # fmt: skip
    for option in options:
        command = option(command)
    return shared(command)


def keys_of(folder: Path, extra: tuple[Path, ...], passphrase: str) -> Keys:
    return Keys(folder, SystemClock(), (passphrase and resolve(passphrase, "--passphrase")) or b"", extra)


@keys.command()
@click.option("--roots", type=int, default=3, show_default=True, help="How many root keys to make.")
@click.option("--threshold", type=int, default=2, show_default=True, help="How many of them must sign a change.")
@key_options
@click.pass_obj
def init(context: Context, roots: int, threshold: int, folder: Path, extra: tuple[Path, ...], passphrase: str) -> None:
    """Make the fleet's keys, once.

    \b
    Examples:
      pipeline keys init --passphrase file:/run/secrets/keys
      pipeline keys init --roots 1 --threshold 1
    """
    ours = keys_of(folder, extra, passphrase)
    made = ours.init(roots, threshold)
    warn_of_plain(context, ours.ring, made)
    context.console.data(
        f"made {', '.join(made)} and {folder / '1.root.json'}, with which sites are set up; take root-*.key to other media",
        {"keys": made, "root": str(folder / "1.root.json")},
    )


@keys.command()
@click.argument("role", type=click.Choice(["root", "release"]))
@key_options
@click.pass_obj
def add(context: Context, role: Role, folder: Path, extra: tuple[Path, ...], passphrase: str) -> None:
    """Make one more key of a ROLE, 'root' or 'release'.

    \b
    Example:
      pipeline keys add release --key /media/a/root-1.key --key /media/b/root-2.key
    """
    ours = keys_of(folder, extra, passphrase)
    made = ours.add(role)
    warn_of_plain(context, ours.ring, [made])
    _tell(context, ours, f"made {made}", {"made": made})


@keys.command()
@click.argument("name")
@key_options
@click.pass_obj
def rotate(context: Context, name: str, folder: Path, extra: tuple[Path, ...], passphrase: str) -> None:
    """Put a new key in place of the key NAME.

    \b
    Example:
      pipeline keys rotate release-1 --key /media/a/root-1.key --key /media/b/root-2.key
    """
    ours = keys_of(folder, extra, passphrase)
    made = ours.rotate(name)
    warn_of_plain(context, ours.ring, [made])
    _tell(context, ours, f"made {made}; {name} counts no more: destroy its file", {"made": made, "revoked": name})


@keys.command()
@click.argument("name")
@key_options
@click.pass_obj
def revoke(context: Context, name: str, folder: Path, extra: tuple[Path, ...], passphrase: str) -> None:
    """Let the key NAME count no more, because it is lost or stolen.

    \b
    Example:
      pipeline keys revoke root-3 --key /media/a/root-1.key --key /media/b/root-2.key
    """
    ours = keys_of(folder, extra, passphrase)
    ours.revoke(name)
    _tell(context, ours, f"{name} counts no more: destroy its file", {"revoked": name})


@keys.command()
@key_options
@click.pass_obj
def show(context: Context, folder: Path, extra: tuple[Path, ...], passphrase: str) -> None:
    """List the keys that count, and where their private halves are.

    \b
    Examples:
      pipeline keys show
      pipeline keys show -o json | jq '.keys[] | select(.kept == "plain")'
    """
    ours = keys_of(folder, extra, passphrase)
    root = ours.root()
    text, value = shown(ours.listed())
    head = f"root {root.version}, good until {root.expires:%Y-%m-%d}"
    context.console.data(f"{head}\n{text}", {"root": root.version, "expires": root.expires.isoformat(), "keys": value})


def _tell(context: Context, ours: Keys, done: str, value: dict[str, object]) -> None:
    version = ours.root().version
    context.console.data(
        f"{done}. Root {version} is in {ours.folder}; deploy again, so that sites learn of it and what they run is signed anew",
        {**value, "root": version},
    )


def shown(listed: Sequence[Listed]) -> tuple[str, list[dict[str, str]]]:
    """Keys as a table, and for programs."""
    text = table(["NAME", "ROLE", "ID", "PRIVATE KEY"], [[k.name, k.role, k.keyid[:8], k.kept] for k in listed])
    return text, [{"name": k.name, "role": k.role, "id": k.keyid, "kept": k.kept} for k in listed]


def warn_of_plain(context: Context, ring: Ring, made: list[str]) -> None:
    """Say which new keys nothing locks, if that is so."""
    if not ring.passphrase:
        names = ", ".join(f"{name}.key" for name in made)
        context.console(
            f"{names}: not locked, whoever reads the files can sign; --passphrase locks keys when they are made"
        )
