"""A real S3 server (versitygw): real files, multipart uploads, conditional puts; on every interface."""

from __future__ import annotations

from pathlib import Path

from obstore.store import S3Store

from containers.child import free_port
from tests.bed.parts import Part, http_get


class S3(Part):
    """Objects are plain files below `folder / bucket`, so that a test can look at them without the protocol."""

    region = "us-east-1"
    access_key = "test-bed"
    secret_key = "test-bed-secret"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "buckets"
        self.bucket = self.make_bucket("plant-cold")
        port = free_port()
        keys = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        words = ["versitygw", "--port", f":{port}", "--region", self.region, "posix", str(self.folder)]
        super().__init__("versitygw", port, words, folder, env=keys)

    def answers(self) -> bool:
        """See `Part.answers`."""
        return http_get(self.port, "/")[0] > 0

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self, name: str) -> str:
        """Make a bucket and return its name."""
        (self.folder / name).mkdir(parents=True)
        return name

    def store(self, bucket: str = "", prefix: str | None = None) -> S3Store:
        """An obstore client of one bucket, by default the ready-made one."""
        return S3Store(
            bucket or self.bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            region=self.region,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            client_options={"allow_http": True},
        )
