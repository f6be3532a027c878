"""Other machines of a site, each a network namespace of its own: where devices speak MQTT, and the world beyond the site."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from containers.child import Child, free_port, port_is_taken
from pipelines.clock import SystemClock
from tests.bed import find_part
from tests.bed.firewall import ip
from tests.bed.parts import Part
from tests.bed.s3 import S3


class Machine:
    """A network namespace with one cable to this machine, or to a bridge of it. Leads out by `gateway`."""

    def __init__(self, name: str, address: str, gateway: str, *, bridge: str | None = None) -> None:
        self.name = f"{name}{os.getpid()}"
        self.address, self._gateway, self._bridge = address, gateway, bridge

    def __enter__(self) -> Self:
        here, there = f"{self.name}-h", f"{self.name}-t"
        ip("netns", "add", self.name)
        ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name)
        if self._bridge:
            ip("link", "set", here, "master", self._bridge)
        else:
            ip("addr", "add", f"{self._gateway}/30", "dev", here)
        ip("link", "set", here, "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/{26 if self._bridge else 30}", "dev", there)
        for device in ("lo", there):
            ip("-n", self.name, "link", "set", device, "up")
        ip("-n", self.name, "route", "add", "default", "via", self._gateway)
        return self

    def __exit__(self, *_: object) -> None:
        ip("netns", "del", self.name)  # and its cable with it

    def also_at(self, address: str) -> None:
        """Give it one more address, and this machine the way there."""
        ip("-n", self.name, "addr", "add", f"{address}/32", "dev", "lo")
        ip("route", "add", f"{address}/32", "via", self.address)

    def has(self, child: Child) -> None:
        """Let a program, not started yet, run there."""
        child.words = [find_part("nsenter"), f"--net=/run/netns/{self.name}", "--", *child.words]

    def serve(self, port: int, folder: Path, log: Path) -> Child:
        """Start a web server of a folder there."""
        words = [sys.executable, "-m", "http.server", str(port), "--directory", str(folder)]
        child = Child(f"web server of {self.name}", words, log)
        self.has(child)
        return child.start(lambda: port_is_taken(port, self.address))


BROKER = """\
listener {port}
user root
allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/rights
persistence true
persistence_location {folder}/
max_queued_messages 0
"""
RIGHTS = """\
user collect
topic read tiny/+/v
user control
topic write tiny/+/cmd
topic read tiny/+/ack
user firmware
topic readwrite fw/#
user device
topic readwrite tiny/#
topic readwrite fw/#
"""
MQTT_USERS = {user: f"pw-of-mqtt-{user}" for user in ("collect", "control", "firmware", "device")}


class GuardedMosquitto(Part):
    """On a machine, with accounts and rights as docs/security.md tells a site to have them."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        port, self.address = free_port(), machine.address
        (folder / "rights").write_text(RIGHTS)
        (folder / "passwords").touch(0o600)
        for user, password in MQTT_USERS.items():
            subprocess.run([find_part("mosquitto_passwd"), "-b", folder / "passwords", user, password], check=True)
        settings = folder / "mosquitto.conf"
        settings.write_text(BROKER.format(port=port, folder=folder))
        super().__init__("mosquitto", port, ["mosquitto", "-c", str(settings)], folder)
        machine.has(self._child)

    def answers(self) -> bool:
        """See `Part.answers`."""
        return port_is_taken(self.port, self.address)


class GuardedS3(S3):
    """On a machine, with an account for `upload` that may put and get below one folder of the bucket."""

    user, password = "upload-of-least", "pw-of-s3-upload"

    def __init__(self, folder: Path, machine: Machine) -> None:
        super().__init__(folder)
        self.address = machine.address
        (folder / "accounts").mkdir()
        at = self._child.words.index("posix")
        self._child.words[at:at] = ["--iam-dir", str(folder / "accounts")]
        machine.has(self._child)

    def answers(self) -> bool:
        """See `Part.answers`."""
        return port_is_taken(self.port, self.address)

    @property
    def endpoint(self) -> str:
        """`http://address:port`."""
        return f"http://{self.address}:{self.port}"

    def let_upload(self, prefix: str) -> None:
        """Make the account and give it its rights, as docs/security.md has them."""
        words = ["admin", "--access", self.access_key, "--secret", self.secret_key, "--endpoint-url", self.endpoint]
        words += ["create-user", "--access", self.user, "--secret", self.password, "--role", "user"]
        subprocess.run([find_part("versitygw"), *words], check=True, capture_output=True)
        right = {
            "Effect": "Allow",
            "Principal": {"AWS": [self.user]},
            "Action": ["s3:PutObject", "s3:GetObject"],
            "Resource": [f"arn:aws:s3:::{self.bucket}/{prefix}/*"],
        }
        self._set_policy({"Version": "2012-10-17", "Statement": [right]})

    def _set_policy(self, policy: Mapping[str, object]) -> None:
        """PutBucketPolicy, signed (AWS Signature Version 4), for which obstore has no call."""
        body = json.dumps(policy).encode()
        now = datetime.fromtimestamp(SystemClock().now_ns() / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
        sent = {
            "host": f"{self.address}:{self.port}",
            "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
            "x-amz-date": now,
        }
        names, scope = ";".join(sent), f"{now[:8]}/{self.region}/s3/aws4_request"
        lines = "".join(f"{name}:{value}\n" for name, value in sent.items())
        asked = f"PUT\n/{self.bucket}\npolicy=\n{lines}\n{names}\n{sent['x-amz-content-sha256']}"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        key = f"AWS4{self.secret_key}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        credential = f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}"
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.endpoint}/{self.bucket}?policy=",
            body,
            {**sent, "authorization": f"{credential}, Signature={key.hex()}"},
            method="PUT",
        )
        urllib.request.urlopen(request).close()  # noqa: S310
