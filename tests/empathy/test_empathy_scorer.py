"""The shipped scorer: what it promises about batches, odd input, size, and cheating replies."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from dialogue.conversation import Message
from reward_servers.empathy.embedding import TextEmbedder
from reward_servers.empathy.network import WORST, compose
from reward_servers.empathy.probes import ProbeKind, build_probes
from reward_servers.empathy.scorer import WEIGHTS, EmpathyScorer, ScorerWeightsError
from reward_servers.protocol import Dimension, EmpathyScore, ScoreRequest

CASES = (
    (
        "My sister moved abroad last month and the flat is so quiet now. I catch myself setting two plates.",
        "Setting two plates says how much she was part of your days. That quiet must be heavy. "
        "What do you miss most about having her there?",
    ),
    (
        "I failed the driving test for the third time and my whole family was waiting with balloons.",
        "Oh no, walking out to the balloons must have made it so much worse. It makes sense that you feel embarrassed. "
        "How did they react when you told them?",
    ),
    (
        "The doctor says it's only stress, but I can't breathe at night and I'm scared of going to bed.",
        "Being afraid of your own bed sounds exhausting, and being told it is only stress can feel like nobody "
        "believes you. I'm glad you told me. What are those nights like for you?",
    ),
)


def history(seeker: str) -> tuple[Message, ...]:
    return (Message(role="user", content=seeker),)


@pytest.fixture(scope="module")
def scorer() -> EmpathyScorer:
    return EmpathyScorer.load()


def test_aggregate_by_hand():
    # 4, 3, 2 and the reversed 6-1, 6-2, 6-4 = 5, 4, 2: (4 + 3 + 2 + 5 + 4 + 2) / 6
    assert EmpathyScore((4, 3, 2, 1, 2, 4)).aggregated == pytest.approx(20 / 6)
    assert EmpathyScore(WORST).aggregated == 1.0


def test_genuineness_moves_from_worst_to_quality():
    quality = torch.tensor([[4.0, 4.0, 4.0, 2.0, 2.0, 2.0]])
    assert compose(quality, torch.tensor([1.0])).tolist() == quality.tolist()
    assert compose(quality, torch.tensor([0.0])).tolist() == [list(WORST)]
    assert compose(quality, torch.tensor([0.5])).tolist() == [[2.5, 2.5, 2.5, 3.5, 3.5, 3.5]]


def test_a_score_is_bitwise_the_same_in_every_batch_and_on_every_number_of_threads(scorer: EmpathyScorer):
    requests = [
        ScoreRequest(f"{n}/{kind}", history(seeker), text)
        for n, (seeker, reply) in enumerate(CASES)
        for kind, text in build_probes(history(seeker), reply, seed=n).items()
    ]
    requests += [ScoreRequest(f"{n}", history(seeker), reply) for n, (seeker, reply) in enumerate(CASES)]
    whole = dict(zip([r.id for r in requests], scorer.score(requests), strict=True))
    random.Random(1).shuffle(requests)
    fresh = EmpathyScorer.load()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert [whole[r.id] for r in requests] == fresh.score(requests)
        assert whole[requests[0].id] == fresh.score(requests[:1])[0]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("text", ["", "   ", "\n", "...", "💛💛💛", "**"])
def test_nothing_to_read_gets_the_worst_score(scorer: EmpathyScorer, text: str):
    (score,) = scorer.score([ScoreRequest("empty", history(CASES[0][0]), text)])
    assert score == EmpathyScore(WORST)


@pytest.mark.parametrize("text", ["a" * 20_000, "word " * 5_000, "\x00\ufffd", "你好吗", "<script>", "." * 300 + "x"])
def test_any_text_is_scored_between_one_and_five(scorer: EmpathyScorer, text: str):
    (score,) = scorer.score([ScoreRequest("odd", history(CASES[0][0]), text)])
    assert len(score.dimensions) == len(Dimension)
    assert all(1 <= value <= 5 for value in score.dimensions)


def test_a_control_token_that_somebody_typed_is_text():
    embedder = TextEmbedder()
    assert torch.equal(embedder.embed("Well [SEP] no."), embedder.embed("Well [ SEP ] no."))


def test_emoji_and_emphasis_earn_nothing(scorer: EmpathyScorer):
    seeker, reply = CASES[0]
    plain, dressed = scorer.score(
        [ScoreRequest("p", history(seeker), reply), ScoreRequest("d", history(seeker), f"**{reply}** 💛🌱")]
    )
    assert plain == dressed


@pytest.mark.parametrize("case", range(len(CASES)))
def test_cheating_ranks_below_an_honest_reply(scorer: EmpathyScorer, case: int):
    seeker, reply = CASES[case]
    probes = build_probes(history(seeker), reply, seed=case)
    requests = [ScoreRequest(kind, history(seeker), text) for kind, text in probes.items()]
    honest = scorer.score([ScoreRequest("honest", history(seeker), reply)])[0].aggregated
    scores = {ProbeKind(r.id): s.aggregated for r, s in zip(requests, scorer.score(requests), strict=True)}
    above = {kind: round(score, 2) for kind, score in scores.items() if score >= honest}
    assert not above, f"the honest reply has {honest:.2f}"


def test_the_shipped_files_are_small_and_have_a_card():
    files = [path for path in WEIGHTS.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_000_000
    assert "CARD.md" in {path.name for path in files}


def test_the_version_names_the_weights(scorer: EmpathyScorer, tmp_path: Path):
    for path in WEIGHTS.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert EmpathyScorer.load(tmp_path).version == scorer.version
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    assert EmpathyScorer.load(tmp_path).version != scorer.version


def test_missing_or_foreign_weights_are_named(tmp_path: Path):
    with pytest.raises(ScorerWeightsError, match=r"has no scorer\.safetensors"):
        EmpathyScorer.load(tmp_path)
    (tmp_path / "scorer.safetensors").write_bytes((WEIGHTS / "scorer.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"heads": 1, "quality_width": 7, "genuine_width": 7}')
    with pytest.raises(ScorerWeightsError, match="does not fit"):
        EmpathyScorer.load(tmp_path)
