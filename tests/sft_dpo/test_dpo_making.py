"""Pairs from two systems' replies: which histories match, which reply is chosen, and what a failed score does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from length_ranker import LengthRanker
from typer.testing import CliRunner

from dialogue.loaders import DataError
from sft.commands import app
from sft.config import ConfigError
from sft.dpo.config import PairsConfig
from sft.dpo.making import LeftOut, Made, Rivals, make_pairs, match, read_replies
from sft.dpo.pairs import read_pairs
from sft.dpo.scores import PairMakingError, ScoreJournal


def replies(file: Path, **said: str) -> str:
    lines = [json.dumps({"prompt": prompt, "reply": reply}) for prompt, reply in said.items()]
    file.write_text("\n".join(lines), encoding="utf-8")
    return str(file)


def choose(rivals: list[Rivals], folder: Path, min_margin: float = 0.25) -> Made:
    return make_pairs(rivals, LengthRanker(), min_margin, ScoreJournal(folder / "made.jsonl"))


def test_the_reply_with_the_higher_score_is_chosen(tmp_path: Path) -> None:
    first = replies(tmp_path / "a.jsonl", sad="I am here.", glad="Ok.", same="Hm.", near="Yes.", only="Oh.")
    second = replies(tmp_path / "b.jsonl", near="No.", same="Hm.", glad="How wonderful!", sad="So?", other="Ah.")
    rivals, left_out = match(read_replies(first), read_replies(second))
    assert [one.turns[-1].text for one in rivals] == ["sad", "glad", "near"]
    assert left_out == {LeftOut.ONE_FILE_ONLY: 2, LeftOut.EQUAL: 1}
    made = choose(rivals, tmp_path)
    assert made.left_out == {LeftOut.TOO_NEAR: 1} and made.won == {"first": 1, "second": 1}
    (tmp_path / "pairs.jsonl").write_text("\n".join(made.lines))
    read = read_pairs(PairsConfig(str(tmp_path / "pairs.jsonl"))).examples
    assert [(pair.chosen, pair.rejected) for pair in read] == [("I am here.", "So?"), ("How wonderful!", "Ok.")]
    assert json.loads(made.lines[0])["quality"] == [1.0, 0.3]


def test_equal_scores_make_no_pair_even_without_a_margin(tmp_path: Path) -> None:
    files = [replies(tmp_path / f"{name}.jsonl", sad=name * 4) for name in "ab"]
    rivals, _ = match(*map(read_replies, files))
    assert choose(rivals, tmp_path, min_margin=0.0).left_out == {LeftOut.TOO_NEAR: 1}


def test_a_failed_score_is_left_out_and_many_stop_it(tmp_path: Path) -> None:
    prompts = [f"p{number}" for number in range(20)]
    first = read_replies(replies(tmp_path / "a.jsonl", **{prompt: "A longer reply." for prompt in prompts}))
    one_fails = {prompt: "fail" if prompt == "p3" else "Ok." for prompt in prompts}
    rivals, _ = match(first, read_replies(replies(tmp_path / "b.jsonl", **one_fails)))
    made = choose(rivals, tmp_path)
    assert len(made.lines) == 19 and made.left_out == {LeftOut.NOT_SCORED: 1}
    rivals, _ = match(first, read_replies(replies(tmp_path / "c.jsonl", **dict.fromkeys(prompts, "fail"))))
    with pytest.raises(PairMakingError, match=r"20 of 40 replies could not be scored.*scorer: it broke"):
        choose(rivals, tmp_path)


def test_pairs_of_three_systems_may_be_put_into_one_file(tmp_path: Path) -> None:
    """Their histories are the same; the pairs are not, and neither are their names."""
    said = {name: read_replies(replies(tmp_path / name, sad=name * 4, glad=name * 2)) for name in ("a", "bb", "ccc")}
    both = [choose(match(said["a"], said[other])[0], tmp_path, 0.0).lines for other in ("bb", "ccc")]
    (tmp_path / "pairs.jsonl").write_text("\n".join([*both[0], *both[1]]))
    assert len(read_pairs(PairsConfig(str(tmp_path / "pairs.jsonl"))).examples) == 4


def test_a_reply_may_be_called_a_response(tmp_path: Path) -> None:
    """As in the files that `rapport score` reads."""
    history = [{"role": "user", "content": "Hi."}]
    good = [{"history": history, "response": "Hello."}, *({"prompt": f"{n}", "reply": "Ah."} for n in range(200))]
    bad = {"prompt": "Oh.", "reply": "A.", "response": "B."}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*good, bad])))
    read = list(read_replies(str(tmp_path / "a.jsonl")).values())
    assert (len(read), read[0].reply) == (201, "Hello.")


def test_files_without_a_common_history_are_refused(tmp_path: Path) -> None:
    files = [replies(tmp_path / "a.jsonl", one="A"), replies(tmp_path / "b.jsonl", two="B")]
    with pytest.raises(DataError, match="1 and 1 replies, 0 to the same history"):
        match(*map(read_replies, files))
    with pytest.raises(DataError, match="there is no such file"):
        read_replies(str(tmp_path / "none.jsonl"))
    done = CliRunner().invoke(app, ["pairs", *files, "--out", files[0]])
    assert isinstance(done.exception, ConfigError) and "exists already" in str(done.exception)


@pytest.mark.slow
def test_the_shipped_reward_chooses(tmp_path: Path) -> None:
    """The whole way: Ray, the reward servers with their shipped weights, and the file of pairs."""
    kind = {"I lost my job.": "That sounds really hard. How are you holding up?"}
    cold = {"I lost my job.": "Stop whining. Everybody loses a job some day, I did too."}
    files = [replies(tmp_path / "a.jsonl", **kind), replies(tmp_path / "b.jsonl", **cold)]
    done = CliRunner().invoke(app, ["pairs", *files, "--out", str(tmp_path / "pairs.jsonl"), "--min-margin", "0.1"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "pairs.jsonl").read_text())["from"] == "first"
