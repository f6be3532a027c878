"""The settings of the service, which a site file has as its table [firmware]."""

from __future__ import annotations

import msgspec

from pipelines.errors import ConfigError
from pipelines.settings import Settings, explain

HTTP_PORT = 9480
ROOT_FILE = "firmware-root.json"  # beside the secrets, read-only; no secret itself
PASSWORD, CA = "mqtt_password", "mqtt_ca"  # secrets, where the MQTT broker asks for them


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durations and sizes as text."""

    repository: str  # URL of the TUF repository, or of the site's mirror of it
    mqtt: str  # broker of the devices: 'mqtt://host' or 'mqtts://host'
    mqtt_username: str = ""  # with the secret mqtt_password
    window: str = ""  # when devices may restart; see connectors.firmware.windows. Empty: always
    refresh: str = "5m"  # how often to look what is signed
    jitter: str = "10m"  # a site begins to fetch an image within this time: not all at once
    images_max: str = "2GiB"  # on the site's disk
    http_url: str = ""  # under which devices reach port 9480 of the service; empty: MQTT only

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """`ConfigError` says which is missing or unknown."""
        try:
            return msgspec.convert(settings.options, Options)
        except msgspec.ValidationError as e:
            raise ConfigError(f"options of firmware: {explain(str(e), Options)}: see docs/firmware.md") from e
