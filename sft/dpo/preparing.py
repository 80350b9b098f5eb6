"""Everything about a preference stage that can be read and checked before any weight is loaded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sft.base import check_nf4, compute_dtype, pick_device
from sft.checkpoint import RunFolder
from sft.config import ConfigError, Quantisation, SftConfig
from sft.dpo.config import DpoConfig, configure
from sft.dpo.pairs import Pair, TokenPair, TokenPairs, read_pairs, split_pairs, tokenise_pairs
from sft.dpo.start import Start, find_start
from sft.positions import check_positions
from sft.readers.sources import find_file
from sft.saved import load_tokenizer, pad_id
from sft.targets import check_targets
from sft.tokens import ChatTokens, TokenConfig


@dataclass(frozen=True, slots=True)
class PreparedDpo:
    """A stage that can start; `steps`: updates of the whole run. `bad`: records left out."""

    config: DpoConfig
    start: Start
    folder: RunFolder
    train: TokenPairs
    dev: TokenPairs
    bad: int
    pad_id: int
    steps: int

    @property
    def description(self) -> SftConfig:
        """What is written with a saved model, so that `sft.saved.load_model` can build it."""
        pairs = self.config.pairs
        data = replace(
            self.start.config.data,
            system=pairs.system,
            enable_thinking=pairs.enable_thinking,
            max_tokens=pairs.max_tokens,
        )
        return replace(self.start.config, model=self.config.model, data=data)

    def fingerprint(self) -> str:
        """Of the reference and of all pairs in order, those of the dev loss too: what an exact resume needs to be the
        same, and a best dev loss to mean the same."""
        found = hashlib.sha256(self.start.fingerprint().encode())
        for pair in (*self.train.pairs, *self.dev.pairs):
            found.update(repr((pair.chosen.ids, pair.rejected.ids, pair.violation)).encode())
        return found.hexdigest()

    def describe(self) -> str:
        """The plan, for `--dry-run` and the run's first lines."""
        config, count = self.config, len(self.train.pairs)
        per_step = config.optimizer.batch * config.optimizer.accumulation
        unsafe = sum(pair.violation for pair in self.train.pairs)
        reference = "the base, adapters off" if self.start.adapter is None else f"a copy of {self.start.adapter}"
        tokens = sum(pair.tokens for pair in self.train.pairs) / (2 * count)
        lines = [
            f"{count} pairs to train on, {len(self.dev.pairs)} for the dev loss, whole conversations apart",
            f"{unsafe} of them with a reply that breaks a safety rule; {self.bad} bad records left out, "
            f"{self.train.too_long + self.dev.too_long} pairs too long",
            f"mean length {tokens:.0f} tokens; {self.steps} steps of {per_step} pairs "
            f"({self.steps * per_step / count:.1f} epochs)",
            f"beta {config.loss.beta:g}, label smoothing {config.loss.label_smoothing:g}, "
            f"safety margin {config.loss.safety_margin:g}",
            f"base {self.start.base}; reference: {reference}; run folder {self.folder.path}",
        ]
        return "\n".join(lines)


def prepare_dpo(start: str, source: str, overrides: Sequence[str] = ()) -> PreparedDpo:
    """Read and check all that can be checked; no weights, nothing is written.

    Raises:
        ConfigError: a key, the run folder or the hardware do not fit, or a safety margin has no pair to work on.
        DataError: the pairs cannot be read, or too many of them are bad.
        ModelError, SavedModelError, BaseModelError: START is no model that can be used.
    """
    find_file(source, ())  # a mistyped path is told before a model is fetched
    found = find_start(start)
    config = configure(start, source, found.config.model, found.config.data, overrides)
    folder = RunFolder(config)
    folder.check()
    device = pick_device()
    compute_dtype(config.model.precision, device)
    if config.model.quantisation is Quantisation.nf4:
        check_nf4(device)
    if found.adapter is None:
        check_targets(found.base, config.model.lora)
    report = read_pairs(config.pairs)
    kept = report.examples[: config.pairs.max_pairs or None]
    train, dev = split_pairs(kept, config.pairs.dev_share, config.seed, source)
    _check_margin(config, train)
    tokenizer = load_tokenizer(found.base)
    rendered = TokenConfig(config.pairs.max_tokens, config.pairs.system, config.pairs.enable_thinking)
    chat = ChatTokens(tokenizer, rendered)
    several = tokenise_pairs(train, chat)
    per_step = config.optimizer.batch * config.optimizer.accumulation
    steps = config.steps or max(1, math.ceil(config.epochs * len(several.pairs) / per_step))
    dev_pairs = tokenise_pairs(dev, chat)
    replies = [row for pair in (*several.pairs, *dev_pairs.pairs) for row in (pair.chosen, pair.rejected)]
    check_positions(found.base, max(len(row.ids) for row in replies), "pairs.max_tokens")
    return PreparedDpo(config, found, folder, several, dev_pairs, len(report.bad), pad_id(tokenizer), steps)


def _check_margin(config: DpoConfig, train: Sequence[Pair]) -> None:
    if config.loss.safety_margin and not any(pair.violation for pair in train):
        raise ConfigError(
            f"loss.safety_margin={config.loss.safety_margin:g}: none of the {len(train)} pairs to train on has "
            "safety_violation: true, so it would do nothing; mark the pairs whose rejected reply breaks a safety rule, "
            "or set it to 0"
        )


def by_length(pairs: Sequence[TokenPair], size: int) -> list[list[TokenPair]]:
    """Batches of pairs of similar length, in an order that depends on the pairs alone."""
    ordered = sorted(pairs, key=lambda pair: pair.tokens)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
