"""An image that was pushed is one for a real engine, too."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from containers.repository import artifact
from containers.repository.registry import Registry
from tests.bed.engine import Engine
from tests.bed.registry import ImageRegistry
from tests.repository.conformance import layer


def archive(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_an_engine_pulls_what_was_pushed(registry: ImageRegistry, engine: Engine, unique: str, tmp_path: Path) -> None:
    plain = [archive("first", b"one"), archive("second", b"two")]
    layers = [layer(tmp_path / f"{i}.gz", gzip.compress(content, mtime=0)) for i, content in enumerate(plain)]
    config = {
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/none"], "Labels": {"made": unique}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in plain]},
    }  # fmt: skip
    content = json.dumps(config).encode()
    with Registry(f"{registry.address}/fleet") as repo:
        digest = artifact.put_image(repo, unique, content, layers)
        pulled = engine.client.images.pull(repo.image(unique, digest))
    assert pulled.id == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert pulled.labels == {"made": unique}
    container = engine.client.containers.create(pulled, network_mode="none")
    for name, text in (("first", b"one"), ("second", b"two")):
        stream, _ = container.get_archive(f"/{name}")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            found = tar.extractfile(name)
            assert found
            assert found.read() == text
    container.remove()
    engine.client.images.remove(pulled.id, force=True)
