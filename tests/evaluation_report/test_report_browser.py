"""The page in a real browser: tactics on their sentences, filters, keys, no console error, no request but for the file.

The same page of a run that was really trained is opened by tests/rl/test_rl_end_to_end.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_browser import Browser, open_browser
from report_cases import HOSTILE, PROMPT, STRANGER, write_run

from evaluation.report.page import render
from evaluation.report.run_files import read_run

SENTENCES = """return [...document.querySelectorAll(".sentence")].map((s) => [s.textContent, s.dataset.tactics])"""
LABELS = """return [...document.querySelectorAll(".said")].map((p) => p.innerText)"""
STATE = """return [document.getElementById("filter").value, document.getElementById("place").textContent,
               (document.querySelector(".group") || {dataset: {}}).dataset.prompt || null]"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path) as tab:
        yield tab


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
