"""A page in a headless Chromium, for every test that opens a report.

It is driven through chromedriver's HTTP interface (W3C WebDriver) with httpx, which is there anyway.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

TIMEOUT_S = 60.0
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,900"
).split()


class Browser:
    """One tab of a headless Chromium."""

    def __init__(self, driver: str, chromium: str, profile: Path) -> None:
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"], "perfLoggingPrefs": {}}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self._client = httpx.Client(base_url=driver, timeout=TIMEOUT_S, trust_env=False)
        self._session = ""
        answer = self._post("/session", {"capabilities": {"alwaysMatch": {"browserName": "chrome", **capabilities}}})
        self._session = f"/session/{answer['sessionId']}"

    def open(self, address: str) -> None:
        self._post("/url", {"url": address})

    def ask(self, script: str, *arguments: object) -> Any:
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def devtools(self, command: str, parameters: dict[str, Any]) -> None:
        self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def console(self) -> list[str]:
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def requests(self, page: Path) -> list[str]:
        """Addresses of everything that a page asked for since the last call; the browser's own pages ask for more."""
        events = [json.loads(entry["message"])["message"] for entry in self._post("/se/log", {"type": "performance"})]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [asked["request"]["url"] for asked in sent if asked["documentURL"].startswith(page.as_uri())]

    def close(self) -> None:
        self._client.delete(self._session)
        self._client.close()

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(self._session + path, json=body)
        answer.raise_for_status()
        return answer.json()["value"]


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser whose profile and log are in `folder`; the test is skipped where there is none."""
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not both on the PATH (Debian: chromium chromium-driver)")
    log = folder / "chromedriver.log"
    with subprocess.Popen([driver, "--port=0"], stdout=log.open("w"), stderr=subprocess.STDOUT) as process:
        try:
            tab = Browser(f"http://127.0.0.1:{port_of(log)}", chromium, folder / "profile")
            yield tab
            tab.close()
        finally:
            process.terminate()


def port_of(log: Path) -> str:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if found := re.search(r"successfully on port (\d+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"chromedriver did not start: {log.read_text()}")
