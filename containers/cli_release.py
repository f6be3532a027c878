"""`pipeline build`: images on an engine, or as a signed release; `pipeline load`: a release that was carried here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import click
from rich.filesize import decimal

from containers import release
from containers.cli_keys import key_options, keys_of
from containers.cli_shared import Context, shared
from containers.cli_site import operator_of
from containers.console import table
from containers.desired import layer_store
from containers.release import Release
from containers.repository import artifact
from containers.repository.base import Repository
from containers.repository.keys import Keys
from containers.repository.layout import Tar
from containers.repository.registry import Registry
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError
from pipelines.load import load as load_pipeline


@click.command()
@click.option("--push", metavar="REGISTRY/PREFIX", help="Make a release and bring it to this registry.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Make a release in a file, for  pipeline load  where no network leads.")  # fmt: skip
@click.option("--ca", type=click.Path(path_type=Path, exists=True), help="Authority of the registry's certificate.")
@click.option("--unsigned", is_flag=True, help="Make a release that nobody has to believe.")
@key_options
@click.pass_obj
def build(
    context: Context, push: str | None, save: Path | None, ca: Path | None, unsigned: bool,
    folder: Path, extra: tuple[Path, ...], passphrase: str,
) -> None:  # fmt: skip
    """Build the images of a site's services on its engine, and leave what runs alone; or make a release of them.

    A release has an image for each service, a bill of materials and a list of licences for each, and is signed with the fleet's
    keys. The same inputs make the same release, with the same id. Sites with the same pipeline and base image share one; those
    with ARM machines name a base image of their own, and theirs is built here all the same.

    Needs the package index the first time only. `deploy` builds what is missing by itself.

    \b
    Examples:
      pipeline build --site hall1.toml
      pipeline build --site plant-7 --save press.tar
      pipeline build --push registry.example.com/press
    """
    sites = context.sites()
    if not push and not save:
        _on_engine(context, context.site())
        return
    keys = None if unsigned else keys_of(folder, extra, passphrase)
    signers = keys.release_signers() if keys else []
    made: dict[str, Release] = {}
    for site in one_of_each(sites):
        with operator_of(site, context.console) as operator, context.console.working(f"building for {operator.name}"):
            what = operator.release(load_pipeline(site.pipeline).plan())
        for repo in _targets(push, save, ca):
            with repo as open_repo, context.console.working(f"bringing it to {open_repo.where}"):
                done = release.publish(open_repo, what, signers, SystemClock(), keys.roots() if keys else ())
                made[done.id] = done
    _show(context, list(made.values()), keys)


def one_of_each(sites: Sequence[SiteFile]) -> list[SiteFile]:
    """A site for each release that these sites need: the first of those with the same pipeline and base image."""
    return list({(s.pipeline, s.site.base_image): s for s in reversed(sites)}.values())[::-1]


def _targets(push: str | None, save: Path | None, ca: Path | None) -> list[AbstractContextManager[Repository]]:
    found: list[AbstractContextManager[Repository]] = []
    if push:
        found.append(Registry(push, ca=ca))
    if save:
        found.append(Tar(save))
    return found


def _on_engine(context: Context, site: SiteFile) -> None:
    with operator_of(site, context.console) as operator, context.console.working("building images"):
        made = operator.build(load_pipeline(site.pipeline).plan())
    text = table(["SERVICE", "IMAGE"], [[d.service, d.tag] for d in made])
    context.console.data(text, {"images": {d.service: d.tag for d in made}})


def _show(context: Context, made: Sequence[Release], keys: Keys | None) -> None:
    lines = []
    for one in made:
        lines.append(f"release {one.id} of {one.pipeline} {one.fingerprint}{'' if keys else ', not signed'}")
        rows = [[s, i.manifest[:19], decimal(i.bytes), decimal(i.code_bytes)] for s, i in one.services.items()]
        lines.append(table(["SERVICE", "DIGEST", "SIZE", "OF THAT, CODE"], rows))
    value = [
        {"release": r.id, "pipeline": r.pipeline, "images": {s: i.manifest for s, i in r.services.items()}}
        for r in made
    ]
    context.console.data("\n".join(lines), {"releases": value, "signed": bool(keys)})


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--root", type=click.Path(path_type=Path, exists=True), help="The fleet's first root, keys/1.root.json.")
@click.option("--unsigned", is_flag=True, help="Believe it without a signature.")
@shared
@click.pass_obj
def load(context: Context, file: Path, root: Path | None, unsigned: bool) -> None:
    """Take in a release that was saved to a FILE: after that `deploy` needs no package index and no registry.

    \b
    Examples:
      pipeline load press.tar --root 1.root.json
      pipeline deploy --site hall1.toml
    """
    if not root and not unsigned:
        raise ConfigError(
            f"{file}: whom to believe? give the fleet's root with --root keys/1.root.json, or say --unsigned"
        )
    with ExitStack() as opened:
        repo = opened.enter_context(Tar(file))
        names = repo.tags(artifact.RELEASE)
        if not names:
            raise ConfigError(f"{file}: there is no release in it: make it with  pipeline build --save {file}")
        taken = [
            release.take(repo, n, root.read_bytes() if root else None, layer_store(), SystemClock()) for n in names
        ]
    text = "\n".join(f"release {r.id} of {r.pipeline} {r.fingerprint} is in the cache" for r in taken)
    context.console.data(text, {"releases": [{"release": r.id, "pipeline": r.pipeline} for r in taken]})
