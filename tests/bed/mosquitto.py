"""A real Eclipse Mosquitto: anonymous, persistent, on every interface so that containers reach it too."""

from __future__ import annotations

from pathlib import Path

from containers.child import free_port
from containers.embedded import mqtt_answers
from tests.bed.parts import Part

SETTINGS = """\
listener {port}
allow_anonymous true
user root
persistence true
persistence_location {folder}/
autosave_interval 1
max_queued_messages 0
"""


class Mosquitto(Part):
    """What persistent sessions are owed survives `stop()`; `kill()` loses up to its last second."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        settings = folder / "mosquitto.conf"
        settings.write_text(SETTINGS.format(port=port, folder=folder))
        super().__init__("mosquitto", port, ["mosquitto", "-c", str(settings)], folder)

    def answers(self) -> bool:
        """See `Part.answers`."""
        return mqtt_answers("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        """`mqtt://127.0.0.1:port`."""
        return f"mqtt://127.0.0.1:{self.port}"
