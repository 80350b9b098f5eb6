"""Scores for pairs: kept as they are made, not asked for twice, by the same models throughout, and a real kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from length_ranker import LengthRanker, ranking_server
from typer.testing import CliRunner

from dialogue.conversation import Message
from reward_servers.protocol import ScoreRequest, ScoreResult
from sft.commands import app
from sft.config import ConfigError
from sft.dpo.scores import TOGETHER, PairMakingError, ScoreJournal, key_of, rank

ROOT = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


def requests(count: int, said: str = "I am sad.") -> list[ScoreRequest]:
    """Replies of 1, 2, 3 ... characters."""
    history: tuple[Message, ...] = ({"role": "user", "content": said},)
    return [ScoreRequest(str(number), history, "x" * (number + 1)) for number in range(count)]


def test_what_was_scored_is_not_asked_for_again(tmp_path: Path) -> None:
    journal, ranker, told = ScoreJournal(tmp_path / "new" / "pairs.jsonl"), LengthRanker(), []
    asked = requests(TOGETHER + 6)

    def kill_before_the_second_call(what: str, done: int, total: int) -> None:
        told.append((what, done, total))
        if done:
            raise Killed

    with pytest.raises(Killed):
        rank(asked, ranker, journal, kill_before_the_second_call)
    assert told == [("replies scored", 0, TOGETHER + 6), ("replies scored", TOGETHER, TOGETHER + 6)]
    ranker.asked.clear()
    ranked = rank(asked, ranker, ScoreJournal(tmp_path / "new" / "pairs.jsonl"))
    assert ranked.kept == TOGETHER and ranker.asked == [request.response for request in asked[TOGETHER:]]
    assert ranked.qualities == [pytest.approx((number + 1) / 10) for number in range(TOGETHER + 6)]


def test_a_line_that_was_cut_off_is_scored_again_and_hurts_no_other(tmp_path: Path) -> None:
    journal, asked = ScoreJournal(tmp_path / "pairs.jsonl"), requests(3)
    first, second, third = (key_of({"length": "1"}, request) for request in asked)
    journal.add({first: 0.1})
    whole = json.dumps([second, 0.25])
    journal.file.write_bytes(journal.file.read_bytes() + whole[:-2].encode() + b"\xc3")
    journal.add({third: 0.3})
    assert ScoreJournal(tmp_path / "pairs.jsonl").read() == {first: 0.1, third: 0.3}


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        (lambda request: replace(request, id="other"), 0),  # the name of a request decides nothing
        (lambda request: replace(request, response=request.response + "!"), 4),
        (lambda request: replace(request, history=({"role": "user", "content": "I am glad."},)), 4),
    ],
)
def test_what_has_changed_is_scored_anew(tmp_path: Path, changed, again: int) -> None:
    journal, ranker = ScoreJournal(tmp_path / "pairs.jsonl"), LengthRanker()
    rank(requests(4), ranker, journal)
    ranker.asked.clear()
    rank([changed(request) for request in requests(4)], ranker, journal)
    assert len(ranker.asked) == again


def test_other_models_score_everything_anew(tmp_path: Path) -> None:
    journal, newer = ScoreJournal(tmp_path / "pairs.jsonl"), LengthRanker("2")
    rank(requests(4), LengthRanker("1"), journal)
    assert rank(requests(4), newer, journal).kept == 0 and len(newer.asked) == 4


def test_models_that_change_meanwhile_end_it(tmp_path: Path) -> None:
    """Else one reply of a pair could be ranked by one model, and the other by another."""
    ranker, journal = LengthRanker("1"), ScoreJournal(tmp_path / "pairs.jsonl")
    ranker.now = "2"
    with pytest.raises(PairMakingError, match="scored by length 2, where the servers began with length 1"):
        rank(requests(4), ranker, journal)
    assert journal.read() == {}


def test_a_quality_that_is_no_number_is_no_score(tmp_path: Path) -> None:
    class Broken(LengthRanker):
        def score(self, requests: list[ScoreRequest]) -> list[ScoreResult]:  # type: ignore[override]
            return [replace(result, quality=float("nan")) for result in super().score(requests)]  # type: ignore[type-var]

    with pytest.raises(PairMakingError, match="quality nan by length 1"):
        rank(requests(4), Broken(), ScoreJournal(tmp_path / "pairs.jsonl"))


def test_failures_end_it_as_soon_as_they_are_too_many_and_are_asked_for_again(tmp_path: Path) -> None:
    journal, ranker = ScoreJournal(tmp_path / "pairs.jsonl"), LengthRanker()
    asked = requests(3 * TOGETHER)  # 5 % of them are 9.6 replies
    failing = [replace(each, response=f"fail {n}") if n < 10 else each for n, each in enumerate(asked)]
    with pytest.raises(PairMakingError, match=r"10 of 192 replies could not be scored, more than 5%.*goes on"):
        rank(failing, ranker, journal)
    assert len(ranker.asked) == TOGETHER and len(journal.read()) == TOGETHER - 10
    ranker.asked.clear()
    ranked = rank([*failing[:9], *asked[9:]], ranker, journal)
    assert ranked.qualities[:9] == [None] * 9 and ranked.qualities[9] == 1.0
    assert ranker.asked[:9] == [f"fail {n}" for n in range(9)]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*cannot be written there"):
        ScoreJournal(tmp_path / "file" / "pairs.jsonl")


def test_a_killed_command_goes_on_and_writes_the_same_pairs(tmp_path: Path) -> None:
    """SIGKILL while the second call waits for its answers, then the same command again."""
    for name, length in (("a", 2), ("b", 8)):
        lines = [json.dumps({"prompt": f"Day {n}.", "reply": name * (length + n % 5)}) for n in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    out = tmp_path / "pairs.jsonl"
    with ranking_server(answers=TOGETHER) as server:
        call = ["pairs", *files, "--servers", server.url, "--out"]
        command = [sys.executable, "-m", "rapport", "sft", *call, str(out)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            assert server.stalled.wait(120)
        finally:
            process.kill()
        assert process.wait(30) == -signal.SIGKILL and not out.exists()
        assert len(ScoreJournal(out).read()) == TOGETHER
        server.answers = sys.maxsize
        server.ranker.asked.clear()
        done = CliRunner().invoke(app, [*call, str(out)])
        assert done.exit_code == 0, done.output
        assert "40 pairs" in done.output and f"{TOGETHER} scores were there from an earlier start" in done.output
        assert sorted(server.ranker.asked) == sorted(_replies(files)[TOGETHER:])
        CliRunner().invoke(app, [*call, str(tmp_path / "whole.jsonl")])
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def _replies(files: list[str]) -> list[str]:
    """In the order in which they are asked for."""
    first, second = ([json.loads(line)["reply"] for line in Path(file).read_text().splitlines()] for file in files)
    return [reply for both in zip(first, second, strict=True) for reply in both]


def test_another_margin_takes_the_scores_that_are_there(tmp_path: Path) -> None:
    for name in ("a", "bb"):
        (tmp_path / name).write_text(json.dumps({"prompt": "Hi.", "reply": name}))
    call = ["pairs", str(tmp_path / "a"), str(tmp_path / "bb"), "--out", str(tmp_path / "pairs.jsonl"), "--servers"]
    with ranking_server(answers=sys.maxsize) as server:
        done = CliRunner().invoke(app, [*call, server.url, "--min-margin", "0.2"])
        assert isinstance(done.exception, ConfigError) and "too_near 1" in str(done.exception)
        assert CliRunner().invoke(app, [*call, server.url, "--min-margin", "0.05"]).exit_code == 0
        assert sorted(server.ranker.asked) == ["a", "bb"]
