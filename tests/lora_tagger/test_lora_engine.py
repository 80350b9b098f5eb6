"""vLLM says what PEFT says: each adapter's own verdict, with others or with none in the same batch."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from vllm import SamplingParams, TokensPrompt

from dialogue.sentences import split_sentences
from dialogue.tactics import TACTICS
from reward_servers.failures import ItemFailure
from reward_servers.lora_tagger import cpu_kernels, scoring, self_check
from reward_servers.lora_tagger.encoding import PromptTooLongError
from reward_servers.lora_tagger.engine import Request
from reward_servers.lora_tagger.folder import find_adapters, load_config
from reward_servers.lora_tagger.prompts import load_tactic_annotations
from reward_servers.lora_tagger.scoring import check_annotations, evaluate_annotations
from reward_servers.lora_tagger.tagger import LoraTagger
from reward_servers.model_server import CutReply, TaggerServer
from reward_servers.protocol import FailureKind
from reward_servers.service_config import TAGGER, DeploymentConfig, TaggerKind
from reward_servers.tactics.data import TagDataError

REPLIES = (
    "I'm sorry that your sister said so. Did she know about the exam? You can call me any evening.",
    "Nothing helps for ever, but a list on the fridge does for a week.",
)
TOLERANCE = 1e-3


def peft_probabilities(folder: Path, tagger: LoraTagger, requests: list[Request]) -> np.ndarray:
    base = load_config(folder).base_path(folder)
    log_odds = self_check.peft_log_odds(base, find_adapters(folder), tagger.encoder.answer_ids, requests, "float32")
    return self_check.probabilities(log_odds)


@pytest.fixture(scope="module")
def requests(tagger: LoraTagger) -> list[Request]:
    """Every tactic asked of every sentence: neighbours have different adapters."""
    return [
        Request(tactic, tagger.encoder.encode(tactic, reply, sentence))
        for reply in REPLIES
        for sentence in split_sentences(reply)
        for tactic in TACTICS
    ]


@pytest.fixture(scope="module")
def expected(tagger_folder: Path, tagger: LoraTagger, requests: list[Request]) -> np.ndarray:
    return peft_probabilities(tagger_folder, tagger, requests)


def test_the_adapters_of_the_test_disagree_with_each_other(expected: np.ndarray) -> None:
    assert expected.std() > 50 * TOLERANCE
    assert 0.1 < (expected >= 0.5).mean() < 0.9


@pytest.mark.parametrize("grouped", [True, False])
def test_vllm_gives_pefts_probabilities_and_verdicts(
    tagger: LoraTagger, requests: list[Request], expected: np.ndarray, grouped: bool
) -> None:
    found = self_check.probabilities(tagger.engine.log_odds(requests, grouped))
    assert np.abs(found - expected).max() < TOLERANCE
    assert ((found >= 0.5) == (expected >= 0.5)).all()


def test_prompts_without_an_adapter_in_the_same_batch_change_nothing(
    tagger: LoraTagger, requests: list[Request], expected: np.ndarray
) -> None:
    """The batch in which vLLM's own CPU kernels apply the last adapter to prompts that have none."""
    engine = tagger.engine
    no, yes = tagger.encoder.answer_ids
    mixed = [(request, engine.loras[request.tactic]) for request in requests]
    bare = [(request, None) for request in requests[:20]]
    batch = [pair for pairs in zip(mixed[:20], bare, strict=True) for pair in pairs]
    params = SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=[no, yes], detokenize=False)

    def ask(pairs: list) -> np.ndarray:
        prompts = [TokensPrompt(prompt_token_ids=request.token_ids) for request, _ in pairs]
        outputs = engine.llm.generate(prompts, params, lora_request=[lora for _, lora in pairs], use_tqdm=False)
        seen = [output.outputs[0].logprobs[0] for output in outputs]
        return self_check.probabilities(np.array([s[yes].logprob - s[no].logprob for s in seen]))

    together = tagger.in_thread(lambda: ask(batch))
    alone = tagger.in_thread(lambda: ask(bare))
    assert np.abs(together[0::2] - expected[:20]).max() < TOLERANCE
    assert np.abs(together[1::2] - alone).max() < TOLERANCE


def test_a_replys_tactics_are_those_of_its_sentences(tagger: LoraTagger, expected: np.ndarray) -> None:
    sentences = [split_sentences(reply) for reply in REPLIES]
    tagged = tagger.tag([sentences[0], [], sentences[1]], [REPLIES[0], "", REPLIES[1]])
    assert [rows.shape for rows in tagged] == [(3, 10), (0, 10), (1, 10)]
    assert np.abs(np.concatenate(tagged).ravel() - expected).max() < TOLERANCE
    decided = [tactic for rows in tagged for tactics in tagger.decide(rows) for tactic in tactics]
    assert decided == [TACTICS[i % 10] for i, p in enumerate(expected) if p >= 0.5]


def test_a_batch_of_the_service_is_bounded_by_the_questions_and_not_by_the_replies_text(tagger: LoraTagger) -> None:
    """Ten tactics times a reply of T and S sentences: about T + 48 S tokens each, however few the text itself has."""
    sentences = tuple(split_sentences(REPLIES[0]))
    counted = tagger.count_tokens(CutReply(REPLIES[0], sentences))
    encoded = {s: len(tagger.encoder.encode(TACTICS[0], REPLIES[0], s)) for s in sentences}
    assert 10 * 48 * len(sentences) < counted < 10 * sum(encoded.values())
    assert tagger.count_tokens(CutReply("", ())) < 100


def test_a_reply_that_does_not_fit_is_refused(tagger: LoraTagger) -> None:
    with pytest.raises(PromptTooLongError, match="1024 are allowed"):
        tagger.tag([["word " * 2000]])
    with pytest.raises(PromptTooLongError, match="1024 are allowed"):
        tagger.check("word " * 2000, ["word."])
    tagger.check(REPLIES[0], split_sentences(REPLIES[0]))
    tagger.check("", [])


def test_annotations_are_asked_about_part_by_part_and_what_they_lack_is_told_without_a_tagger(
    tagger: LoraTagger, annotations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_tactic_annotations(annotations)
    told: list[tuple[int, int]] = []
    whole = evaluate_annotations(tagger, found)
    monkeypatch.setattr(scoring, "_TOGETHER", 2)
    assert evaluate_annotations(tagger, found, lambda n, of: told.append((n, of))).per_tactic == whole.per_tactic
    assert told == [(2, 3), (3, 3)] and whole.sentences == 3
    with pytest.raises(TagDataError, match="no annotations of advice"):
        check_annotations({tactic: some for tactic, some in found.items() if tactic != "advice"})


def test_a_tagger_that_would_answer_wrongly_does_not_start(tagger_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(tagger_folder, folder)
    stored = json.loads((folder / self_check.FILE).read_text(encoding="utf-8"))
    stored["log_odds"][4] += 1.0  # what PEFT would have said of another adapter
    (folder / self_check.FILE).write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(self_check.SelfCheckError, match=r"differs from PEFT's by .* 1 of 30 probes"):
        LoraTagger.load(folder)


def test_a_replica_serves_it_and_finds_it_healthy(tagger_folder: Path, tagger: LoraTagger) -> None:
    """The deployment that holds the encoder elsewhere; what does not fit is refused alone, as the caller's fault."""
    server = TaggerServer(TAGGER, DeploymentConfig(TaggerKind.LORA, str(tagger_folder)))
    items = [CutReply(reply, tuple(split_sentences(reply))) for reply in (REPLIES[0], "long " * 3000, REPLIES[1])]
    first, refused, last = server._predict_isolated(items)
    assert isinstance(refused, ItemFailure)
    assert (refused.kind, refused.server) == (FailureKind.INVALID_REQUEST, TAGGER)
    alone = tagger.tag([items[0].sentences, items[2].sentences], [items[0].text, items[2].text])
    for answer, wanted in zip((first, last), alone, strict=True):
        assert np.abs(np.array(answer.probabilities) - wanted).max() < TOLERANCE
    asyncio.run(server.check_health())


@pytest.mark.parametrize("add_inputs", [True, False])
def test_the_kernels_are_the_sum_of_the_formula(add_inputs: bool) -> None:
    """y_t += B_i(t) A_i(t) x_t, and nothing for a token of index -1."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(7, n, generator=generator) for n in (6, 9))
    a, b = torch.randn(3, 1, 2, 6, generator=generator), torch.randn(3, 1, 4, 2, generator=generator)
    adapters = torch.tensor([2, 2, -1, 0, 1, 1, -1])
    buffer, found = torch.full((7, 2), 7.0), y.clone()
    cpu_kernels.shrink(x, a, buffer, adapters, scaling=0.5)
    cpu_kernels.expand_slice(buffer, b, found, adapters, offset=3, size=4, add_inputs=add_inputs)
    for t, i in enumerate(adapters.tolist()):
        delta = b[i, 0] @ (0.5 * a[i, 0] @ x[t]) if i >= 0 else torch.zeros(4)
        wanted = y[t].clone()
        wanted[3:7] = delta + (y[t, 3:7] if add_inputs else 0)
        assert torch.allclose(found[t], wanted, atol=1e-5)
