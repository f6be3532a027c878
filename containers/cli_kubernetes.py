"""`pipeline render`: a site in the words of another engine."""

from __future__ import annotations

from pathlib import Path

import click

from containers.cli_shared import Context, shared
from containers.kubernetes.render import Rendering, render
from containers.kubernetes.text import dump
from pipelines.errors import ConfigError
from pipelines.load import load


@click.group("render")
def group() -> None:
    """Write a site down for another engine than Docker."""


@group.command()
@click.option("--images", required=True, metavar="REGISTRY/PREFIX", help="Where the cluster finds the images.")
@click.option("--namespace", metavar="NAME", help="The site's own namespace [sitestream-SITE].")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write a file for each service there, not to stdout."
)
@shared
@click.pass_obj
def kubernetes(context: Context, images: str, namespace: str | None, out: Path | None) -> None:
    """Write a site's Kubernetes manifests. Contacts nothing and reads no secret.

    The services, their rights, limits and settings are those of `deploy`. Secrets are not written: the commands that bring them
    into the cluster are shown instead. Files of other names in DIR are left as they are.

    \b
    Examples:
      pipeline render kubernetes --site hall1.toml --images registry.example/plant | kubectl diff -f -
      pipeline render kubernetes --site hall1.toml --images registry.example/plant --out k8s && kubectl apply -f k8s
      pipeline render kubernetes --site hall1.toml --images registry.example/plant -o json | jq .images
    """
    site = context.site()
    made = render(site, load(site.pipeline).plan(), images, namespace)
    facts = {"site": site.site.site, "namespace": made.namespace, "images": made.images, "secrets": made.secrets}
    if out is None:
        for command in made.secrets.values():
            context.console(f"secrets, once: {command}")
        context.console.data(dump(made.objects).rstrip("\n"), {**facts, "objects": made.objects})
        return
    files = _written(made, out)
    lines = [*files, *(f"secrets, once: {command}" for command in made.secrets.values())]
    context.console.data("\n".join(lines), {**facts, "files": files})


def _written(made: Rendering, folder: Path) -> list[str]:
    """Write the files; their paths."""
    files = {folder / f"{name}.yaml": dump(objects) for name, objects in made.parts.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_text(content, encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"--out {folder}: cannot be written ({e.strerror}): name another folder") from e
    return [str(path) for path in files]
