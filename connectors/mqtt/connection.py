"""Where a broker is and as whom it is spoken to: what all sources of MQTT have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from connectors.options import login, secrets
from connectors.secrets import Secret
from pipelines.errors import PlanError
from pipelines.urls import BROKER_CURE, broker_of, masked

Version = Literal["auto", "5", "3.1.1"]
_SHARE = re.compile(r"[^/+#$]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A broker, an account there, and the part that this collector takes of a shared subscription."""

    broker: str
    username: str | None
    password: Secret | None
    ca: Secret | None
    certificate: Secret | None
    private_key: Secret | None
    version: Version
    share: str | None

    @cached_property
    def address(self) -> SplitResult:
        """The broker's URL in parts."""
        return urlsplit(self.broker)

    def shared(self, topic_filter: str) -> str:
        """What is subscribed to for a topic filter."""
        return topic_filter if self.share is None else f"$share/{self.share}/{topic_filter}"

    def check(self) -> None:
        """`PlanError` if it cannot be right."""
        url = broker_of(self.broker)
        if url is None:
            raise PlanError(f"mqtt broker {masked(self.broker)!r}: {BROKER_CURE}")
        login("mqtt", self.username, self.password)
        secrets("mqtt", ca=self.ca, certificate=self.certificate, private_key=self.private_key)
        both = self.certificate is not None and self.private_key is not None
        one = self.certificate is not None or self.private_key is not None
        if one and (not both or url.scheme != "mqtts"):
            raise PlanError(
                'mqtt certificate: write certificate=secret("…"), private_key=secret("…"), both, and a broker of mqtts://'
            )
        if self.version not in ("auto", "5", "3.1.1"):
            raise PlanError(f"mqtt version={self.version!r}: write 'auto', '5' or '3.1.1'")
        if self.share is not None and not _SHARE.fullmatch(self.share):
            raise PlanError(f"mqtt share={self.share!r}: a name of up to 64 characters without / + # $ is needed")
