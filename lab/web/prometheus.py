"""A real Prometheus that scrapes what a test runs.

with prometheus.Prometheus(folder, {"uimgacc": {"127.0.0.1:9465": "node-a"}}, rules) as server:
    server.query("sum(uimgacc_mounts)")
"""

import contextlib
import json
import pathlib
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from lab import places, processes


class Prometheus:
    """Scrapes every second; `jobs` are addresses with the label `node`, "" for none, by job."""

    def __init__(
        self, folder: pathlib.Path, jobs: Mapping[str, Mapping[str, str]], rules: pathlib.Path
    ) -> None:
        configs = [
            {
                "job_name": name,
                "static_configs": [
                    {"targets": [address], "labels": {"node": node}}
                    for address, node in targets.items()
                ],
            }
            for name, targets in jobs.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": configs,
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self._port = processes.free_port()
        self._process = processes.Process(
            [
                places.BIN / "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--log.level=warn",
            ],
            folder / "prometheus.log",
        )

    def __enter__(self) -> "Prometheus":
        self._process.start()
        try:
            self._process.wait_for_socket(("127.0.0.1", self._port))
            self._wait_until_ready()
        except processes.LabError:
            self._process.end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.end()

    def _wait_until_ready(self, *, seconds: float = 60) -> None:
        """Until it has opened its storage it answers, and says no."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=10).close()
                return
            time.sleep(0.05)
        raise processes.LabError(f"Prometheus is not ready:\n{self._process.said()}")

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API; LabError with its own words."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            raise processes.LabError(f"{parameters}: {said}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series of an instant query now: labels and value."""
        found = self.ask("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def rules(self) -> list[dict[str, Any]]:
        """The rules with their state and health."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def wait_for(self, expression: str, *, seconds: float = 60) -> None:
        """Return when an expression has a result."""
        deadline = time.monotonic() + seconds
        while not self.query(expression):
            if time.monotonic() > deadline:
                raise processes.LabError(f"still nothing: {expression}\n{self._process.said()}")
            time.sleep(0.1)
