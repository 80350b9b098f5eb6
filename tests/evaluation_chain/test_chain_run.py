"""The chain of `rapport evaluate lend-an-ear`, with a real tiny model, the shipped tagger and scorer, and HTTP."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from chain_cases import (
    CONVERSATIONS,
    AnsweringEndpoint,
    mark_directly,
    released_entries,
    write_conversations,
)
from typer.testing import CliRunner

from dialogue.loaders import DataError, load_conversations
from dialogue.prompts import PromptMode
from evaluation.commands import app
from evaluation.files import EvaluationDataError
from evaluation.lend_an_ear.layout import check_out, check_system
from evaluation.lend_an_ear.marks import MarkingError, mark_all, shipped_models
from evaluation.lend_an_ear.run import Plan, Servers, compare, run_chain
from evaluation.lend_an_ear.sampling import SamplingError, Style
from evaluation.lend_an_ear.summary import write_summaries
from evaluation.lend_an_ear.turns import read_turns
from evaluation.model_choice import Engine, ModelChoice, endpoint_choice
from evaluation.replies import Sampling
from evaluation.reply_cache import ReplyCache
from evaluation.systems import REPLIES_FILE
from reward_servers.protocol import Dimension, FailureKind, ScoreFailure, ScoreRequest
from reward_servers.service_config import SCORER

ROOT = Path(__file__).resolve().parents[2]
RATINGS = json.dumps({dimension.value: 4 for dimension in Dimension})


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    return write_conversations(tmp_path / "talks.jsonl")


def plan_of(out: Path, choice: ModelChoice, style: Style, judge: ModelChoice | None = None) -> Plan:
    return Plan(out, f"ours-{style.name}", "ours", choice, style, Sampling(12, temperature=0.8), judge)


def ignore(what: str, done: int, of: int) -> None:
    assert 0 <= done <= of, what


def servers(starts: list[str] | None = None) -> Servers:
    def start() -> Any:
        (starts if starts is not None else []).append("started")
        return mark_directly

    return Servers(shipped_models(), start)


def chain(plan: Plan, data: Path, starts: list[str] | None = None) -> Any:
    rater = run_chain(plan, read_turns(str(data)), servers(starts), ignore)
    return compare(plan.out, rater, None, resamples=100, seed=0)


def test_turns_are_taken_in_order_so_that_the_turn_before_is_there(conversations: Path) -> None:
    turns = read_turns(str(conversations), 4)
    assert [turn.id for turn in turns] == ["rain/1", "rain/3", "keys/1", "cat/1"]
    assert turns[1].previous_place == turns[0].place and turns[0].previous_place is None
    assert turns[1].history[-1] == {"role": "user", "content": "My sister. I see her once a year."}
    assert turns[1].text == CONVERSATIONS["rain"][3]


def test_the_starter_side_is_what_training_holds_out() -> None:
    from dialogue.split import split_conversations
    from rl.config import DataConfig

    defaults = DataConfig()
    _, held_out = split_conversations(load_conversations("starter"), defaults.holdout_fraction, defaults.split_seed)
    assert {turn.conversation.id for turn in read_turns("starter")} == {talk.id for talk in held_out}


def test_a_tiny_model_from_histories_to_a_table(tmp_path: Path, conversations: Path, tiny_model: Path) -> None:
    out, starts = tmp_path / "out", list[str]()
    choice = ModelChoice(str(tiny_model), engine=Engine.TRANSFORMERS)
    plan = plan_of(out, choice, Style(PromptMode.tactics_history))
    found = chain(plan, conversations, starts)
    assert starts == ["started", "started"]  # once for people's replies, once for ours: the command starts servers once
    assert [row.system for row in found.table.rows] == ["gold", "ours-tactics_history"]
    assert found.table.rows[0].turns == 5 and found.table.rows[0].blank_ratings == 0
    expected = mark_directly([ScoreRequest(t.id, t.history, t.text) for t in read_turns(str(conversations))])
    mean = sum(score.empathy.aggregated for score in expected) / 5
    assert found.table.rows[0].values["aggregated_empathy"] == pytest.approx(mean, abs=1e-3)
    written = json.loads((out / "ours-tactics_history" / REPLIES_FILE).read_text())
    assert "Your previous reply used" in written[1]["system_prompt"]  # what the tagger found in the person's turn
    # The same again: nothing is asked, nothing is scored, nothing changes.
    again: list[str] = []
    assert chain(plan, conversations, again).table == found.table and again == []
    # The command that compares folders reads them, and finds the same.
    call = ["table", str(out), "--gold", str(out / "gold"), "--json", str(tmp_path / "t.json"), "--resamples", "100"]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert "(scorer)" in result.output
    values = json.loads((tmp_path / "t.json").read_text())["ours-tactics_history"]
    assert values["aggregated_empathy"] == found.table.rows[1].values["aggregated_empathy"]


def candidates(body: dict[str, Any]) -> str | int:
    """Two candidates; for one turn none, for another a refusal to serve."""
    last = body["messages"][-1]["content"]
    if "keys" in last:
        return "I would rather not list anything."
    if "old" in last:
        return 400
    return "".join(
        f"<response><text>{text}</text><probability>{p}</probability></response>"
        for text, p in (("I hear you.", 0.5), ("Oh no. What happened?", 0.5))
    )


def test_what_cannot_be_read_or_had_is_counted_and_left_out(
    tmp_path: Path, conversations: Path, answering: AnsweringEndpoint
) -> None:
    answering.answer = candidates
    choice = endpoint_choice(f"{answering.url}/org/clever")
    found = chain(plan_of(tmp_path / "out", choice, Style(PromptMode.simple, 2)), conversations)
    assert len(answering.calls) == 6  # five turns, and the unreadable one again
    assert {call["model"] for call in answering.calls} == {"org/clever"}
    assert answering.calls[-1]["temperature"] > answering.calls[0]["temperature"]
    folder = tmp_path / "out" / "ours-simple-vs2"
    run = json.loads((folder / "run.json").read_text())
    assert (run["asked"], run["replies"], run["candidates_per_reply"]) == (5, 3, 2)
    assert list(run["unreadable"]) == ["keys/1"] and "400" in run["failed"]["cat/3"]
    entry = json.loads((folder / REPLIES_FILE).read_text())[0]
    assert entry["model_response"] == entry["vs_candidates"][entry["vs_selected_idx"]]["text"]
    assert "2 different ones" in entry["system_prompt"]
    assert [row.turns for row in found.table.rows] == [3, 3]  # compared on the turns that both have


def test_a_model_that_never_lists_candidates(tmp_path: Path, conversations: Path, answering: AnsweringEndpoint) -> None:
    plan = plan_of(tmp_path / "out", endpoint_choice(answering.url), Style(PromptMode.simple, 5))
    with pytest.raises(SamplingError, match="begins 'I hear you"):
        chain(plan, conversations)
    assert not (plan.out / plan.system).exists()


def test_a_judge_rates_both_sides_and_what_it_garbles_stays_blank(
    tmp_path: Path, conversations: Path, answering: AnsweringEndpoint
) -> None:
    def answer(body: dict[str, Any]) -> str:
        asked = body["messages"][-1]["content"]
        if "[The reply to rate]" not in asked:
            return "Mm. Tell me more."
        return "four out of five" if "hook" in asked else RATINGS

    answering.answer = answer
    choice = endpoint_choice(answering.url)
    found = chain(plan_of(tmp_path / "out", choice, Style(PromptMode.simple), choice), conversations)
    assert found.rater.name == "judge-clever" and "org/clever" in found.rater.description
    assert len(answering.calls) == 5 + 10 + 1  # turns, both sides, and the garbled one again
    gold, ours = found.table.rows
    assert gold.values["validating_emotions"] == 4 and ours.blank_ratings == 0
    assert gold.blank_ratings == 6  # one turn, all dimensions
    with (tmp_path / "out" / "gold" / "judge-clever_ratings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["rated_by"] for row in rows} == {found.rater.description}
    assert [row["turn_index"] for row in rows if not row["validating_emotions"]] == ["1"]
    run = json.loads((tmp_path / "out" / "ours-simple" / "run.json").read_text())
    assert run["judge"]["unreadable_answers"] == {"gold keys/1": "four out of five"}
    # Rated by the scorer as well, the folder holds both, and the table asks which.
    chain(plan_of(tmp_path / "out", choice, Style(PromptMode.simple)), conversations)
    call = ["table", str(tmp_path / "out"), "--gold", str(tmp_path / "out/gold"), "--json", str(tmp_path / "t.json")]
    with pytest.raises(EvaluationDataError, match=r"judge-clever_ratings\.csv, rapport-scorer_ratings\.csv"):
        CliRunner().invoke(app, call, catch_exceptions=False)


def test_a_summary_says_who_rated_and_lets_no_reply_break_the_page(
    tmp_path: Path, conversations: Path, answering: AnsweringEndpoint
) -> None:
    answering.answer = lambda body: "<script>alert(1)</script> I am sorry."
    found = chain(plan_of(tmp_path / "out", endpoint_choice(answering.url), Style(PromptMode.simple)), conversations)
    write_summaries(found, tmp_path / "s.md", tmp_path / "s.html")
    markdown, page = (tmp_path / "s.md").read_text(), (tmp_path / "s.html").read_text()
    for text in (markdown, page):
        assert "not the judge of the paper" in text and "empathy ↑ (scorer)" in text and "5 turns asked" in text
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_reply_that_cannot_be_scored_stops_the_run_and_keeps_the_others(tmp_path: Path) -> None:
    requests = [ScoreRequest(str(i), ({"role": "user", "content": "x"},), f"Reply {i}.") for i in range(40)]

    def failing(batch: Any) -> list[Any]:
        dead = ScoreFailure("39", FailureKind.TIMEOUT, "too slow", "gateway", 3)
        return [dead if request.id == "39" else mark_directly([request])[0] for request in batch]

    cache = ReplyCache(tmp_path)
    with pytest.raises(MarkingError, match=r"the reply 39 .* gateway: too slow"):
        mark_all(requests, "m", lambda: failing, cache)
    asked: list[str] = []

    def working(batch: Any) -> list[Any]:
        asked.extend(request.id for request in batch)
        return mark_directly(batch)

    mark_all(requests, "m", lambda: working, cache)
    assert asked == ["39"]


def write_released(folder: Path, entries: Any) -> Path:
    folder.mkdir()
    (folder / REPLIES_FILE).write_text(json.dumps(entries))
    return folder


def test_conversations_come_back_from_the_released_layout(tmp_path: Path, conversations: Path) -> None:
    folder = write_released(tmp_path / "gold", released_entries())
    turns = read_turns(str(folder))
    assert [(turn.id, turn.text, turn.history) for turn in turns] == [
        (turn.id, turn.text, turn.history) for turn in read_turns(str(conversations))
    ]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda text: text[:200], "line 1, column"),
        (lambda text: text.replace("pity", "p\xff"), "is not UTF-8"),
        (lambda text: json.dumps(json.loads(text)[1:]), "2 supporter turns in its longest history but 1 entries"),
        (lambda text: json.dumps([*json.loads(text), json.loads(text)[0]]), "is there already"),
        (lambda text: text.replace("Who was coming?", "Who came?", 1), "message 1 differs from that of line 1, entry"),
    ],
)
def test_faults_in_a_released_folder_are_told_before_a_model_is_looked_for(
    tmp_path: Path, spoil: Any, complaint: str
) -> None:
    folder = write_released(tmp_path / "gold", released_entries())
    path = folder / REPLIES_FILE
    path.write_bytes(spoil(path.read_text()).encode("latin-1"))
    call = ["lend-an-ear", "no-such-model", "--data", str(folder), "--out", str(tmp_path / "out")]
    with pytest.raises(EvaluationDataError) as caught:
        CliRunner().invoke(app, call, catch_exceptions=False)
    assert str(path) in str(caught.value) and complaint in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [('{"id": "x"', "line 4: not valid JSON"), ('{"id": "cat", "turns": []}', "line 4, conversation 'cat': no turns")],
)
def test_faults_in_a_file_of_conversations(tmp_path: Path, conversations: Path, line: str, complaint: str) -> None:
    with conversations.open("a") as file:
        file.write("\n" + line)
    call = ["lend-an-ear", "no-such-model", "--data", str(conversations), "--out", str(tmp_path / "out")]
    with pytest.raises(DataError) as caught:
        CliRunner().invoke(app, call, catch_exceptions=False)
    assert str(conversations) in str(caught.value) and complaint in str(caught.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--name", "gold"], "a system's name"),
        (["--name", "../up"], "a system's name"),
        (["--baseline", "nobody"], "holds no system of that name"),
    ],
)
def test_faults_in_the_call(tmp_path: Path, conversations: Path, options: list[str], complaint: str) -> None:
    call = ["lend-an-ear", "no-such-model", "--data", str(conversations), "--out", str(tmp_path / "out"), *options]
    with pytest.raises(EvaluationDataError, match=complaint):
        CliRunner().invoke(app, call, catch_exceptions=False)


def test_another_set_of_turns_is_not_mixed_in(tmp_path: Path, conversations: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_released(out / "gold", released_entries())
    turns = read_turns(str(conversations))
    check_out(out, turns)
    with pytest.raises(EvaluationDataError, match="5 other supporter turns than the 3 asked for"):
        check_out(out, turns[:3])


def test_another_model_of_the_same_name_does_not_replace_the_first(
    tmp_path: Path, conversations: Path, answering: AnsweringEndpoint
) -> None:
    """As with runs/a/hf and runs/b/hf, both `hf-simple` by default."""
    style, choice = Style(PromptMode.simple), endpoint_choice(f"{answering.url}/a/hf")
    plan = plan_of(tmp_path / "out", choice, style)
    chain(plan, conversations)
    folder = tmp_path / "out" / plan.system
    check_system(folder, choice.address, style)
    check_system(tmp_path / "out" / "new", choice.address, style)
    other = endpoint_choice(f"{answering.url}/b/hf")
    for address, asked in ((other.address, style), (choice.address, Style(PromptMode.simple, 2))):
        with pytest.raises(EvaluationDataError, match=r"/v1 a/hf \(mode simple, 0 candidates\); .* another --name"):
            check_system(folder, address, asked)
    assert ModelChoice("runs/../runs/a/hf").address == str(Path.cwd() / "runs/a/hf")


def chain_command(out: Path) -> list[str]:
    command = [sys.executable, str(ROOT / "rapport.py"), "evaluate", "lend-an-ear", "tiny-qwen3", "--turns", "6"]
    return [*command, "--max-tokens", "16", "--out", str(out)]


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_the_command_with_vllm_and_the_reward_servers(tmp_path: Path) -> None:
    """The whole of it, in a process of its own, and once more from what it kept."""
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "220"}
    for _ in range(2):
        command = chain_command(tmp_path / "ear")
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        assert "6 of 6 turns have a reply of every system" in done.stdout
    assert (tmp_path / "ear" / "rapport-scorer_summary.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_scorer_that_dies_while_the_model_answers_is_waited_for(tmp_path: Path) -> None:
    """As the kernel or Ray may end it when memory is short: the first call to it fails, a new one takes its place."""
    out = tmp_path / "ear"
    with subprocess.Popen(chain_command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as run:
        try:
            until = time.monotonic() + 400
            while len(list((out / "reply-cache").glob("*/*.json"))) < 12:  # six people's replies scored, six drawn
                assert run.poll() is None and time.monotonic() < until, run.stderr and run.stderr.read()
                time.sleep(0.005)
            [scorer] = [child for child in psutil.Process(run.pid).children(recursive=True) if is_scorer(child)]
            scorer.kill()
            said, complaints = run.communicate(timeout=250)
        finally:
            run.kill()
    assert run.returncode == 0, complaints.decode()
    assert b"6 of 6 turns have a reply of every system" in said


def is_scorer(process: psutil.Process) -> bool:
    try:
        return SCORER in " ".join(process.cmdline())
    except psutil.Error:  # it ended while we looked
        return False
