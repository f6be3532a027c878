"""A site that can run on Kubernetes, rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from containers.kubernetes.render import Rendering, render
from tests.containers.kit import site_of

IMAGES = "registry.example:5000/plant"
SITE = """\
site = "hall1"
pipeline = "tiny.py"
brokers = "kafka:9092"
store = "s3://plant/press"

[hosts]
edge = "10.0.0.9"

[services.upload.secrets]
s3_access_key = "file:secrets/access key"
s3_secret_key = "env:PLANT_S3_SECRET_KEY"
"""


def rendered(folder: Path, text: str = SITE, namespace: str | None = None, **changes: str) -> Rendering:
    """The site's manifests; the pipeline's settings may be changed."""
    site, plan = site_of(folder, text, **changes)
    return render(site, plan, IMAGES, namespace)


def of_kind(made: Rendering, kind: str) -> dict[str, Any]:
    """Objects of a kind, by name."""
    return {o["metadata"]["name"]: o for o in made.objects if o["kind"] == kind}


def templates(made: Rendering) -> dict[str, Any]:
    """Pod templates by service."""
    return {name: o["spec"]["template"] for name, o in of_kind(made, "Deployment").items()}


def with_text(before: str, after: str, text: str = SITE) -> str:
    """The site file with a text replaced."""
    assert before in text
    return text.replace(before, after)
