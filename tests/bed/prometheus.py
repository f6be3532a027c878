"""A real Prometheus that scrapes what it is told every second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from containers.child import free_port
from tests.bed.parts import Part, http_get


class Prometheus(Part):
    """`targets` are `host:port`; `rules` are rule files to load."""

    def __init__(self, folder: Path, targets: Sequence[str], rules: Sequence[Path] = ()) -> None:
        port = free_port()
        settings = folder / "prometheus.json"  # JSON is YAML
        settings.write_text(json.dumps(_settings(targets, rules)))
        words = [
            "prometheus",
            f"--config.file={settings}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        super().__init__("prometheus", port, words, folder)

    def answers(self) -> bool:
        """See `Part.answers`."""
        return http_get(self.port, "/-/ready")[0] == 200

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and present value of every series an expression gives."""
        answer = self._api(f"query?query={quote(expression)}")
        return [(series["metric"], float(series["value"][1])) for series in answer["result"]]

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or firing."""
        found: list[dict[str, Any]] = self._api("alerts")["alerts"]
        return found

    def _api(self, path: str) -> dict[str, Any]:
        answer = json.loads(http_get(self.port, f"/api/v1/{path}")[1])
        assert answer["status"] == "success", answer
        data: dict[str, Any] = answer["data"]
        return data


def _settings(targets: Sequence[str], rules: Sequence[Path]) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "sitestream", "static_configs": [{"targets": list(targets)}]}],
    }
