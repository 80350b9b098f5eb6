"""The page in a real browser: tactics on their sentences, filters, keys, no console error, no request but for the file.

Chromium is driven through chromedriver's HTTP interface (W3C WebDriver) with httpx, which is there anyway.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from report_cases import HOSTILE, PROMPT, STRANGER, write_run

from evaluation.report.page import render
from evaluation.report.run_files import read_run

TIMEOUT_S = 60.0
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,900"
).split()
SENTENCES = """return [...document.querySelectorAll(".sentence")].map((s) => [s.textContent, s.dataset.tactics])"""
LABELS = """return [...document.querySelectorAll(".said")].map((p) => p.innerText)"""
STATE = """return [document.getElementById("filter").value, document.getElementById("place").textContent,
               (document.querySelector(".group") || {dataset: {}}).dataset.prompt || null]"""


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


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not both on the PATH (Debian: chromium chromium-driver)")
    log = tmp_path / "chromedriver.log"
    with subprocess.Popen([driver, "--port=0"], stdout=log.open("w"), stderr=subprocess.STDOUT) as process:
        try:
            tab = Browser(f"http://127.0.0.1:{port_of(log)}", chromium, tmp_path / "profile")
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


@pytest.mark.browser
def test_the_reader_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    write_run(tmp_path / "small")
    page = tmp_path / "report.html"
    page.write_text(render([read_run(tmp_path / "small")]), encoding="utf-8")
    browser.open(page.as_uri())

    assert browser.ask(STATE) == ["all", "1 of 5", PROMPT]
    browser.press("j")
    assert browser.ask(STATE) == ["all", "2 of 5", PROMPT]
    assert browser.ask(SENTENCES)[:3] == [
        ["That sounds hard.", "validation, paraphrasing"],
        ["What helps you rest?", "questioning"],
        ["You could ask them.", "advice"],
    ]
    first = " ".join(browser.ask(LABELS)[0].split())
    assert first == "That sounds hard. validate paraphrase What helps you rest? question"

    check_filters(browser)
    check_hostile_reply(browser)
    check_phone(browser)
    assert browser.console() == []
    assert browser.requests(page) == [page.as_uri()]
    check_two_runs_on_a_phone(browser, tmp_path)
    check_that_requests_are_seen(browser, tmp_path)


def check_filters(browser: Browser) -> None:
    seen = {}
    for _ in range(12):
        browser.press("f")
        name, place, prompt = browser.ask(STATE)
        seen[name] = (place, prompt)
    assert seen["gain"] == ("1 of 4", PROMPT)
    assert seen["leaks"] == ("1 of 1", PROMPT)
    assert seen["degenerate"] == ("1 of 2", STRANGER)
    assert seen["copies"] == ("1 of 1", STRANGER)
    assert seen["all"] == ("1 of 5", PROMPT)  # all the way round
    browser.ask("location.hash = '#filter=degenerate&at=2'; return null")
    faults = """return [...document.querySelectorAll(".reply.faulty")].map((reply) => reply.dataset.faults)"""
    assert browser.ask(faults) == ["copy of another", "copy of another"]
    browser.ask("location.hash = '#filter=all&tactic=6'; return null")  # self-disclosure
    assert browser.ask(STATE) == ["all", "1 of 1", STRANGER]
    browser.press("a/")
    browser.press("sounds hard")
    assert browser.ask(STATE) == ["all", "1 of 1", PROMPT]
    browser.press("\ue00ca")  # Escape leaves the field, then `a`
    assert browser.ask(STATE) == ["all", "1 of 5", PROMPT]


def check_hostile_reply(browser: Browser) -> None:
    browser.ask("location.hash = '#filter=lowest'; return null")
    said = browser.ask("""return document.querySelector('[data-label="rollout 1"] .sentence').textContent""")
    assert said == HOSTILE
    assert browser.ask("return [document.title, document.images.length]") == ["small · Rapport", 0]


def check_phone(browser: Browser) -> None:
    """At the width of a phone nothing sticks out of the page; tables scroll on their own."""
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.devtools("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.ask("return [window.innerWidth, document.documentElement.scrollWidth]") == [390, 390]


def check_two_runs_on_a_phone(browser: Browser, folder: Path) -> None:
    """Each run's figures stand below the other's, named, and none is outside the screen."""
    write_run(folder / "other")
    page = folder / "two.html"
    page.write_text(render([read_run(folder / name) for name in ("small", "other")]), encoding="utf-8")
    browser.open(page.as_uri())
    cells = browser.ask(
        """const cells = [...document.querySelectorAll(".measures tbody tr:first-child td")];
        const name = (cell) => getComputedStyle(cell, "::before").content;
        return cells.map((cell) => [cell.dataset.run, name(cell), cell.getBoundingClientRect().right < 390]);"""
    )
    assert cells == [["small", '"small"', True], ["other", '"other"', True]]
    assert browser.ask("return document.documentElement.scrollWidth") == 390


def check_that_requests_are_seen(browser: Browser, folder: Path) -> None:
    """The counter-example: a page that does ask for something is caught."""
    control = folder / "control.html"
    control.write_text('<img src="http://127.0.0.1:9/pixel.png">')
    browser.open(control.as_uri())
    assert browser.requests(control) == [control.as_uri(), "http://127.0.0.1:9/pixel.png"]
    assert browser.console()
