"""The page: self-contained, safe against what replies say, small, complete; and the command that writes it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from report_cases import HOSTILE, samples, write_lines, write_run
from typer.testing import CliRunner

from evaluation.files import EvaluationDataError
from evaluation.report.commands import report
from evaluation.report.json_files import ReportError
from evaluation.report.page import render
from evaluation.report.run_files import read_run

LOADING = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "formaction", "background"}


class Page(HTMLParser):
    """What the tests ask of a page: identifiers, addresses, scripts, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._script: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.addresses += [value or "" for name, value in attrs if name in LOADING]
        self.handlers += [name for name in found if name.startswith("on")]
        if tag == "script":
            self._script = found.get("id") or "code"

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "small"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def html(finished) -> str:
    return render([read_run(finished)])


def test_nothing_points_outside(html):
    assert "http" not in html.replace("http-equiv", "")
    assert not re.search(r"(?:@import|url\((?!#)|//[a-z])", html.replace("reader.js", ""))
    page = Page(html)
    assert page.addresses and all(address.startswith("#") for address in page.addresses)


def test_the_page_allows_its_own_script_only(html):
    page = Page(html)
    assert set(page.scripts) == {"data", "code"} and page.handlers == []
    digest = base64.b64encode(hashlib.sha256(page.scripts["code"].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


def test_a_hostile_reply_stays_text(html):
    page = Page(html)
    replies = [reply for group in json.loads(page.scripts["data"])["groups"] for reply in group["replies"]]
    assert HOSTILE in ["".join(text for text, _ in reply["parts"]) for reply in replies]
    assert "<img" not in html and html.count("<script") == 2


def test_a_hostile_name_stays_text(finished):
    name = "<script>x</script> $\\alpha$ ${seed}"
    run = replace(read_run(finished), name=name, samples=(), evaluations=())
    html = render([run])
    assert html.count("<script") == 2 and "&lt;script&gt;x&lt;/script&gt; $\\alpha$ ${seed}" in html


def test_identifiers_are_unique(html):
    ids = Page(html).ids
    assert len(ids) == len(set(ids))


def test_the_headline(html):
    text = " ".join(Page(html).text.split())
    assert "Empathy 2.50 → 3.25" in text and "+0.75 [+0.50 to +1.00] better" in text
    assert "Stickiness 0.50 → 0.25" in text and "−0.25 [−0.50 to +0.10] no clear change" in text
    assert "40.0 → 30.0 lower" in text and "−10.0 [−15.0 to −5.00]" in text
    assert "2.00 → 2.50 worse" in text  # more advice
    assert "comfort spam 1.20 92 %" in text
    assert "0 at every step: Label leaks" in text


def test_the_same_run_gives_the_same_page(finished, html):
    assert render([read_run(finished)]) == html


def test_several_runs_stand_side_by_side(make_run):
    runs = [read_run(make_run(name)) for name in ("first", "second")]
    html = render(runs)
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert "first and second" in page.text
    assert html.count("2.50 → <b>3.25</b>") == 2
    curve = re.search(r"<title>Quality Q over steps</title>.*?</svg>", html, re.DOTALL)
    assert curve and "var(--run-0)" in curve[0] and "var(--run-1)" in curve[0]
    assert {group["run"] for group in json.loads(page.scripts["data"])["groups"]} == {0, 1}


def test_a_partial_run_says_so_on_the_page(make_run):
    folder = make_run(without=("closing.json", "samples.jsonl"))
    text = " ".join(Page(render([read_run(folder)])).text.split())
    assert "small is not complete." in text
    assert "samples.jsonl is not there" in text and "closing.json is not there: the run has not finished" in text
    assert "What follows what, step 2" in text


def test_a_run_with_nothing_but_its_first_step(make_run):
    folder = make_run(without=("closing.json", "evaluation-000000.json", "evaluation-000002.json"))
    write_lines(folder / "metrics.jsonl", [{"step": 1, "reward/mean": 1.0}])
    assert "There is no held-out evaluation" in render([read_run(folder)])


def test_a_long_run_stays_a_few_megabytes(run_folder):
    run = read_run(run_folder)
    long = tuple(
        replace(reply, step=step, text=reply.text + f" {step}" + " word" * 200)
        for step in range(400)
        for reply in run.samples
    )
    html = render([replace(run, samples=long)])
    assert len(html.encode()) < 4_000_000
    assert "groups are in this file" in html


def command(*arguments: object):
    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_page_and_card(run_folder, tmp_path):
    done = command(run_folder, "--card", tmp_path / "CARD.md")
    assert done.exit_code == 0, done.output
    assert "small" in (run_folder / "report.html").read_text()
    assert (tmp_path / "CARD.md").read_text().startswith("---\nlanguage:")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small", "small"], "say where the page goes with --out"),
        (["small", "small", "--out", "x.html", "--card", "CARD.md"], "a model card is about one run"),
        (["small", "./small", "--out", "x.html"], "small: given twice; a comparison needs different runs"),
        (["small", "--out", "nowhere/x.html"], "cannot write nowhere/x.html: there is no folder nowhere"),
        (["nowhere"], "not a run, there is no such folder"),
    ],
)
def test_what_the_command_refuses(run_folder, monkeypatch, arguments, message):
    monkeypatch.chdir(run_folder.parent)
    error = command(*arguments).exception
    assert isinstance(error, ReportError | EvaluationDataError) and isinstance(error, ValueError)
    assert message in str(error)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("monday", "friday"):
        Path(place).mkdir()
        write_run(Path(place, "small"))
    assert command("monday/small", "friday/small", "--out", "both.html").exit_code == 0
    assert "<h1>monday/small and friday/small</h1>" in Path("both.html").read_text(encoding="utf-8")


def test_half_a_surrogate_pair_is_no_reason_to_fail(run_folder, tmp_path):
    first, *others = samples()
    write_lines(
        run_folder / "samples.jsonl", [first | {"text": "broken \ud83d", "sentences": ["broken \ud83d"]}, *others]
    )
    assert command(run_folder, "--out", tmp_path / "page.html").exit_code == 0
    assert "broken ?" in (tmp_path / "page.html").read_text(encoding="utf-8")
