"""The shipped tagger: what it finds, and that its numbers do not depend on what else is asked."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dialogue.tactics import TACTICS, Tactic
from reward_servers.encoder import encoder_folder
from reward_servers.tactics.encoder_tagger import EncoderTagger
from reward_servers.tactics.shipping import CONFIG_FILE, SHIPPED_FOLDER, WEIGHTS_FILE, TaggerWeightsError
from reward_servers.tactics.windows import WINDOW_TOKENS, SentenceWindows, readable

REPLIES = [
    ["I'm so sorry to hear that.", "What happened after she left?"],
    ["You could try talking to your manager about it."],
    [],
    ["It makes complete sense that you feel angry.", "Anyone would.", "You are strong, and you will get through this."],
    ["Let me know if there is anything I can do to help."],
    [""],
    ["word " * 700],
    [f"This is sentence number {i} of a very long reply that needs more than one window." for i in range(60)],
]


@pytest.fixture(scope="module")
def tagger() -> EncoderTagger:
    return EncoderTagger.load()


def test_one_row_of_ten_probabilities_per_sentence(tagger: EncoderTagger) -> None:
    for reply, probabilities in zip(REPLIES, tagger.tag(REPLIES), strict=True):
        assert probabilities.shape == (len(reply), 10)
        assert probabilities.dtype == np.float32
        assert np.all((probabilities >= 0) & (probabilities <= 1))


def test_probabilities_are_bitwise_independent_of_the_batch(tagger: EncoderTagger) -> None:
    alone = [tagger.tag([reply])[0] for reply in REPLIES]
    for seed in range(3):
        order = random.Random(seed).sample(range(len(REPLIES)), len(REPLIES))
        together = tagger.tag([REPLIES[i] for i in order])
        for position, i in enumerate(order):
            assert torch.equal(torch.from_numpy(together[position]), torch.from_numpy(alone[i]))


def test_a_control_token_that_somebody_typed_is_text() -> None:
    windows = SentenceWindows(encoder_folder())
    (typed,), (spaced,) = windows.of_reply(["Well [SEP] no."]), windows.of_reply(["Well [ SEP ] no."])
    assert typed == spaced and typed.token_ids.count(typed.token_ids[-1]) == 1


def test_two_loads_agree_bitwise(tagger: EncoderTagger) -> None:
    other = EncoderTagger.load()
    assert other.version == tagger.version
    assert all(np.array_equal(a, b) for a, b in zip(tagger.tag(REPLIES), other.tag(REPLIES), strict=True))


@pytest.mark.parametrize(
    ("sentence", "tactic"),
    [
        ("I'm so sorry to hear that.", Tactic.EMOTIONAL_EXPRESSION),
        ("How long have you been feeling like this?", Tactic.QUESTIONING),
        ("You could try writing down what you want to say.", Tactic.ADVICE),
        ("It's completely understandable to feel that way.", Tactic.VALIDATION),
        ("You are strong, and you will get through this.", Tactic.EMPOWERMENT),
        ("It sounds like your sister ignored you all evening.", Tactic.PARAPHRASING),
        ("Please call me if you need anything, I'm here for you.", Tactic.ASSISTANCE),
    ],
)
def test_a_clear_sentence_gets_its_tactic(tagger: EncoderTagger, sentence: str, tactic: Tactic) -> None:
    assert tactic in tagger.decide(tagger.tag([[sentence]])[0])[0]


def test_the_reply_is_context(tagger: EncoderTagger) -> None:
    alone = tagger.tag([["That must hurt."]])[0]
    after = tagger.tag([["My own brother left too.", "That must hurt."]])[0]
    assert not np.array_equal(alone[0], after[1])


def test_decide_uses_each_tactic_s_own_threshold(tagger: EncoderTagger) -> None:
    thresholds = np.array([tagger.thresholds[t] for t in TACTICS], dtype=np.float32)
    at = np.stack([thresholds, np.nextafter(thresholds, np.float32(0))])
    assert tagger.decide(at) == (TACTICS, ())


def test_what_ships_is_small_and_comes_with_a_card() -> None:
    files = [path for path in SHIPPED_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_000_000
    card = (SHIPPED_FOLDER / "CARD.md").read_text(encoding="utf-8").lower()
    assert all(word in card for word in ("licence", "trained on", "limits", "not therapy", "held out"))


def test_a_folder_without_a_tagger_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaggerWeightsError, match=CONFIG_FILE):
        EncoderTagger.load(tmp_path)


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    described = (SHIPPED_FOLDER / CONFIG_FILE).read_text(encoding="utf-8")
    digest = described.split('"encoder_sha256": "')[1][:64]
    (tmp_path / CONFIG_FILE).write_text(described.replace(digest, "0" * 64), encoding="utf-8")
    (tmp_path / WEIGHTS_FILE).write_bytes((SHIPPED_FOLDER / WEIGHTS_FILE).read_bytes())
    with pytest.raises(TaggerWeightsError, match="another encoder"):
        EncoderTagger.load(tmp_path)


def test_windows_hold_every_sentence_once_in_order() -> None:
    windows = SentenceWindows(encoder_folder())
    sentences = [f"number {i} stands here with a few more words" for i in range(100)]
    cut = windows.of_reply(sentences)
    assert len(cut) > 1
    assert max(len(w.token_ids) for w in cut) <= WINDOW_TOKENS
    spans = [tuple(w.token_ids[a:b]) for w in cut for a, b in w.spans]
    assert spans == [tuple(windows.of_reply([s])[0].token_ids[1:-1]) for s in sentences]


def test_broken_punctuation_is_read_as_it_was_meant() -> None:
    assert readable("It\u201a\u00c4\u00f4s hard") == "It's hard"
    assert readable("\u201cfine\u201d\u2026") == '"fine"...'
    assert readable("plain") == "plain"
