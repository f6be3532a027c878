"""The process behind `EmbeddedMqtt`: amqtt, serving until ended. `python -m containers.mqtt_broker --port 1883`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session


class AnyoneMayConnect(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Accept every client. amqtt's own anonymous plugin marks clients so that nothing is kept for absent ones."""

    async def authenticate(self, *, session: Session) -> bool:
        """Yes."""
        return True


async def serve(listen: str, port: int) -> None:
    """Serve MQTT 3.1.1 on one interface and port for ever."""
    plugin = f"{AnyoneMayConnect.__module__}.{AnyoneMayConnect.__qualname__}"
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": f"{listen}:{port}"}}, "plugins": {plugin: {}}})
    await broker.start()
    await asyncio.Event().wait()


def main() -> None:
    """Read `--listen` and `--port`, then serve."""
    parser = argparse.ArgumentParser(prog="python -m containers.mqtt_broker")
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.listen, options.port))


if __name__ == "__main__":
    main()
