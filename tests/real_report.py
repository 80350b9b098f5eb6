"""What the report of a run that was really trained must show in a browser, checked against the files of the run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from page_browser import Browser

from dialogue.tactics import TACTICS

Group = tuple[int, str]  # step and prompt
Told = list[tuple[str, str]]  # a sentence and its tactics, for every sentence that has one

SPOKEN = {tactic.value: tactic.value.replace("_", " ") for tactic in TACTICS}
GROUP = """const group = document.querySelector(".group");
const said = (reply) => [...reply.querySelectorAll(".sentence")].map((s) => [s.textContent, s.dataset.tactics]);
return [document.getElementById("place").textContent, group.querySelector(".group-head p").textContent,
        group.dataset.prompt, [...group.querySelectorAll(".reply")].map((r) => [r.dataset.label, said(r)])];"""
COUNTS = """return [...document.getElementById("filter").options].map((option) => [option.value, option.textContent])"""


def check_report(browser: Browser, page: Path, samples: Iterable[dict[str, Any]], held_out: Iterable[Path]) -> None:
    """Every sentence of every training group carries its tactics; filters hold what they say; nothing was asked for."""
    groups: dict[Group, list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault((sample["step"], sample["prompt_id"]), []).append(sample)
    browser.open(page.as_uri())
    check_sentences(browser, groups)
    check_filters(browser, groups, list(held_out))
    assert browser.console() == []
    assert browser.requests(page) == [page.as_uri()]


def check_sentences(browser: Browser, groups: dict[Group, list[dict[str, Any]]]) -> None:
    seen: dict[Group, dict[str, Told]] = {}
    browser.press("a")
    total = int(browser.ask(GROUP)[0].split(" of ")[1])
    for _ in range(total):
        _, head, prompt, replies = browser.ask(GROUP)
        if head.startswith("training step "):
            step = int(head.removeprefix("training step ").split()[0])
            seen[step, prompt] = {label: [(text, names) for text, names in told] for label, told in replies}
        browser.press("j")
    assert seen.keys() == groups.keys()
    tagged = 0
    for group, replies in groups.items():
        for number, reply in enumerate(replies, start=1):
            expected = told_of(reply)
            assert seen[group][f"rollout {number}"] == expected, (group, number)
            tagged += len(expected)
    assert tagged > 0, "no sentence of the run has a tactic: nothing was checked"


def told_of(reply: dict[str, Any]) -> Told:
    pairs = zip(reply["sentences"], reply["sentence_tactics"], strict=True)
    return [(text, ", ".join(SPOKEN[name] for name in names)) for text, names in pairs if names]


def check_filters(browser: Browser, groups: dict[Group, list[dict[str, Any]]], held_out: list[Path]) -> None:
    """What each filter counts, from the files; the largest gain comes first."""
    shown = {key: int(title.rpartition("(")[2].rstrip(")")) for key, title in browser.ask(COUNTS)}
    evaluated: dict[str, list[dict[str, Any]]] = {}
    for path in held_out:
        for reply in json.loads(path.read_text())["replies"]:
            evaluated.setdefault(reply["prompt_id"], []).append(reply)
    everything = [*groups.values(), *evaluated.values()]
    assert shown["all"] == len(everything) and shown["gain"] == len(groups)
    for key, fault in (("leaks", "leaked"), ("cut-off", "truncated")):
        assert shown[key] == sum(any(reply[fault] for reply in replies) for replies in everything)
    gains = {g: max(r["reward"] for r in rs) - min(r["reward"] for r in rs) for g, rs in groups.items()}
    browser.ask("location.hash = '#filter=gain'; return null")
    place, head, prompt, _ = browser.ask(GROUP)
    assert place == f"1 of {len(groups)}"
    first = next(gain for (step, name), gain in gains.items() if name == prompt and f"training step {step} " in head)
    assert abs(first - max(gains.values())) < 1e-9
