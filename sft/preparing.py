"""Everything about a run that can be read and checked before any weight is loaded, and its plan in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rl.models import resolve_model
from sft.balance import class_weights, emotion_counts, strategy_counts
from sft.base import check_nf4, compute_dtype, pick_device
from sft.checkpoint import RunFolder
from sft.config import Quantisation, SftConfig
from sft.corpus import Corpus, Examples, check_every_loss_is_fed, dev_rows, read_examples, tokenise
from sft.examples import Loss, Split
from sft.mixing import mixing_shares
from sft.positions import check_positions
from sft.predict import token_config
from sft.safety_rules import rules_prompt
from sft.saved import load_tokenizer, pad_id
from sft.targets import check_targets
from sft.tokens import ChatTokens, TokenSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can start.

    Attributes:
        base: the folder of the base model.
        dev: sequences of the dev loss.
        class_weights: of EMOTION (27,) and STRATEGY (8,), empty unless `class_balance`.
        steps: updates of the whole run.
    """

    config: SftConfig
    folder: RunFolder
    base: Path
    tokenizer: PreTrainedTokenizerBase
    chat: ChatTokens
    corpus: Corpus
    dev: list[TokenSequence]
    class_weights: Mapping[Loss, torch.Tensor]
    steps: int

    @property
    def pad_id(self) -> int:
        return pad_id(self.tokenizer)

    def describe(self) -> str:
        """The plan, for `--dry-run` and the run's first lines."""
        shares = mixing_shares(self.corpus.sizes, self.config.data.alpha)
        rows = sum(self.corpus.sizes.values())
        lines = [
            f"{source.value}: {size} sequences, share {shares[source]:.1%}"
            + (" (non-commercial: weights trained on it must not be shipped)" if source.non_commercial else "")
            for source, size in self.corpus.sizes.items()
        ]
        optimizer = self.config.optimizer
        lines.append(f"mean length {self.corpus.tokens / rows:.0f} tokens; {self.corpus.too_long} replies too long")
        lines.append(f"dev loss on {len(self.dev)} sequences")
        per_step = optimizer.batch * optimizer.accumulation
        lines.append(f"{self.steps} steps of {per_step} sequences ({self.steps * per_step / rows:.1f} epochs)")
        lines.append(f"losses: {', '.join(f'{loss.value} {self.config.losses.of(loss):g}' for loss in self.losses)}")
        lines.append(f"base {self.base}, run folder {self.folder.path}")
        return "\n".join(lines)

    @property
    def losses(self) -> list[Loss]:
        """Those that are on."""
        return [loss for loss in Loss if self.config.losses.of(loss)]


def prepare(config: SftConfig) -> Prepared:
    """Read and tokenise the data and check all that can be checked; no weights, nothing is written.

    Raises:
        ConfigError: the run folder, the hardware or the data do not fit the configuration.
        DataError: the data cannot be read.
        BaseModelError: the base cannot be opened, or has no tokenizer.
    """
    folder = RunFolder(config)
    folder.check()
    device = pick_device()
    compute_dtype(config.model.precision, device)
    if config.model.quantisation is Quantisation.nf4:
        check_nf4(device)
    train = read_examples(config, Split.TRAIN)
    valid = read_examples(config, Split.VALID)
    base = resolve_model(config.model.path)
    check_targets(base, config.model.lora)
    tokenizer = load_tokenizer(base)
    chat = ChatTokens(tokenizer, token_config(config.data))
    corpus = tokenise(train, chat)
    check_every_loss_is_fed(corpus, config.losses)
    dev = dev_rows(tokenise(valid, chat), config.data.max_dev)
    every = [*dev, *(row for rows in corpus.sequences.values() for row in rows)]
    rules = _rules_before(config, chat)
    for before, rows in ((0, every), (rules, [row for row in every if Loss.SAFETY in row.losses])):
        check_positions(base, max((len(row.ids) for row in rows), default=0), "data.max_tokens", before)
    weights = _class_weights(train) if config.class_balance else {}
    return Prepared(config, folder, base, tokenizer, chat, corpus, dev, weights, _steps(config, corpus))


def _rules_before(config: SftConfig, chat: ChatTokens) -> int:
    """Tokens by which what the safety teacher reads is longer than the student's sequence."""
    opened = [len(chat.opening(system)) for system in (rules_prompt(config.data.system), config.data.system)]
    return max(0, opened[0] - opened[1])


def _steps(config: SftConfig, corpus: Corpus) -> int:
    if config.steps:
        return config.steps
    per_step = config.optimizer.batch * config.optimizer.accumulation
    return max(1, math.ceil(config.epochs * sum(corpus.sizes.values()) / per_step))


def _class_weights(examples: Examples) -> dict[Loss, torch.Tensor]:
    every = [example for several in examples.values() for example in several]
    counts = {
        Loss.EMOTION: emotion_counts(example for example in every if Loss.EMOTION in example.losses),
        Loss.STRATEGY: strategy_counts(example for example in every if Loss.STRATEGY in example.losses),
    }
    return {loss: class_weights(several) for loss, several in counts.items() if any(several)}
