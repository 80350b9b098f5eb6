"""The LoRA tactic tagger: ten probabilities for every sentence of a reply, from ten adapters on one language model.

    tagger = LoraTagger.load(Path("runs/my-lora-tagger"))
    probabilities = tagger.tag([["I'm so sorry to hear that.", "What happened then?"]])
    tagger.decide(probabilities[0])  # ((Tactic.EMOTIONAL_EXPRESSION,), (Tactic.QUESTIONING,))

It is called as the encoder tagger is, so the service and `rapport tag` take either. One thing differs: a probability
may change in its last digits with what else is in the batch, because the sums of a batch are ordered differently; by
how much at most is `tolerance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from dialogue.tactics import TACTICS, Tactic
from reward_servers.batching import estimated_tokens
from reward_servers.lora_tagger import self_check
from reward_servers.lora_tagger.encoding import PromptEncoder, TokenizerError
from reward_servers.lora_tagger.engine import AnswerEngine, Request, choose_dtype
from reward_servers.lora_tagger.folder import (
    LoraTaggerConfig,
    LoraTaggerFolderError,
    find_adapters,
    load_config,
    version_of,
)

if TYPE_CHECKING:
    from reward_servers.model_server import CutReply

_QUESTION_TOKENS = 48  # of a prompt after its sentence, and of what a prefix cache of whole blocks computes again

Probabilities = NDArray[np.float32]
Result = TypeVar("Result")


class LoraTagger:
    """Tags the sentences of replies. Safe to call from several threads: the engine has one of its own."""

    reads_text = True

    def __init__(
        self,
        engine: AnswerEngine,
        encoder: PromptEncoder,
        thresholds: Sequence[float],
        version: str,
        tolerance: float,
        thread: ThreadPoolExecutor,
    ) -> None:
        self.engine = engine
        self.encoder = encoder
        self.version = version
        self.tolerance = tolerance
        self._thresholds = np.array(thresholds, dtype=np.float32)
        self._thread = thread

    @classmethod
    def load(cls, folder: Path | None = None) -> LoraTagger:
        """The tagger in `folder`, which has proved that vLLM answers as PEFT does.

        Raises:
            LoraTaggerFolderError: no usable tagger there, or no base model.
            SelfCheckError: vLLM's verdicts are not PEFT's.
        """
        if folder is None:
            raise LoraTaggerFolderError("no LoRA tagger is shipped: give the folder of one")
        thread = ThreadPoolExecutor(1, thread_name_prefix="lora-tagger")
        try:
            return thread.submit(cls._load, folder, thread).result()
        except BaseException:
            thread.shutdown()
            raise

    @classmethod
    def _load(cls, folder: Path, thread: ThreadPoolExecutor) -> LoraTagger:
        config, adapters = load_config(folder), find_adapters(folder)
        base, dtype = config.base_path(folder), choose_dtype(config.engine.dtype)
        encoder = open_encoder(folder, config)
        version = version_of(folder, config, adapters)
        expected = self_check.expected_log_odds(folder, version, base, adapters, encoder, dtype)
        engine = AnswerEngine(base, adapters, encoder.answer_ids, config.engine, encoder.max_tokens)
        self_check.check(engine, encoder, expected, dtype)
        thresholds = [config.thresholds[tactic] for tactic in TACTICS]
        return cls(engine, encoder, thresholds, version, self_check.TOLERANCE[dtype], thread)

    def tag(self, replies: Sequence[Sequence[str]], texts: Sequence[str] | None = None) -> list[Probabilities]:
        """Probabilities of the ten tactics for every sentence of every reply.

        Args:
            replies: each the list of its sentences in order; may be empty.
            texts: each reply as it was written, which is what its sentences are judged in; where it is not known, the
                sentences joined by spaces stand for it.

        Returns:
            One (S, K) float32 array per reply; (0, K) for a reply of no sentences.

        Raises:
            PromptTooLongError: a reply does not fit the context; `check` says so before anything is computed.
            EngineError: vLLM answered without the two log-probabilities.
        """
        return self.in_thread(lambda: self._tag(replies, texts))

    def check(self, text: str, sentences: Sequence[str]) -> None:
        """Whether a reply fits, by the longest of its questions.

        Raises:
            PromptTooLongError: it does not.
        """
        if sentences:
            self.encoder.encode(self._wordiest, text, max(sentences, key=len))

    @cached_property
    def _wordiest(self) -> Tactic:
        """The tactic whose prompt is the longest."""
        return max(TACTICS, key=lambda tactic: len(self.encoder.encode(tactic, "", "")))

    def count_tokens(self, item: CutReply) -> int:
        """Tokens that are computed for a reply, roughly: for every tactic the reply once, and each sentence's question.

        The guideline, which all prompts of a tactic share, is in the prefix cache. So the service's bound on a batch
        is one on work, and a health check does not wait behind thousands of prompts.
        """
        questions = sum(estimated_tokens(sentence) + _QUESTION_TOKENS for sentence in item.sentences)
        return len(TACTICS) * (estimated_tokens(item.text) + questions)

    def in_thread(self, call: Callable[[], Result]) -> Result:
        """Run `call` in the engine's thread, where it may use the engine."""
        return self._thread.submit(call).result()

    def decide(self, probabilities: Probabilities) -> tuple[tuple[Tactic, ...], ...]:
        """The tactics of each of S sentences: those whose probability reaches the tactic's own threshold."""
        return tuple(
            tuple(tactic for tactic, holds in zip(TACTICS, row, strict=True) if holds)
            for row in probabilities >= self._thresholds
        )

    def _tag(self, replies: Sequence[Sequence[str]], texts: Sequence[str] | None) -> list[Probabilities]:
        contexts = [" ".join(sentences) for sentences in replies] if texts is None else list(texts)
        requests = [
            Request(tactic, self.encoder.encode(tactic, context, sentence))
            for context, sentences in zip(contexts, replies, strict=True)
            for sentence in sentences
            for tactic in TACTICS
        ]
        log_odds = self.engine.log_odds(requests) if requests else np.zeros(0)
        table = self_check.probabilities(log_odds).astype(np.float32).reshape(-1, len(TACTICS))  # (S of all, K)
        ends = np.cumsum([len(sentences) for sentences in replies])
        return [table[end - len(sentences) : end] for end, sentences in zip(ends, replies, strict=True)]


def open_encoder(folder: Path, config: LoraTaggerConfig) -> PromptEncoder:
    """The tokenizer of the base of the tagger in `folder`, with its prompts.

    Raises:
        LoraTaggerFolderError: the base has no tokenizer, or one with which the verdict is not a single token.
    """
    from transformers import AutoConfig, AutoTokenizer

    base = config.base_path(folder)
    try:
        takes = getattr(AutoConfig.from_pretrained(base), "max_position_embeddings", config.engine.max_tokens + 1)
        tokenizer = AutoTokenizer.from_pretrained(base)
        return PromptEncoder(tokenizer, config.prompts, min(config.engine.max_tokens, takes - 1))
    except TokenizerError as error:
        raise LoraTaggerFolderError(f"{base}: {error}") from error
    except (OSError, ValueError) as error:
        raise LoraTaggerFolderError(
            f"{base}: no base model and tokenizer there ({error}); give --base, or set `base` in lora_tagger.json"
        ) from error
