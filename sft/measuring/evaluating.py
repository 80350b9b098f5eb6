"""`rapport sft evaluate`: what a fine-tuned model is worth on sequences that it was not trained on.

    LM loss      mean over reply tokens, in nats
    safety KL    to the base under the safety rules, mean over the reply tokens to which they apply, in nats
    accuracy     share of labelled turns whose likeliest class is one of the labels, with Wilson's 95 % interval
    macro F1     mean over the classes that some turn has

Beside each head stand the commonest class of the training labels and, where asked for, a linear probe on the states of
the base. The interval takes turns as independent draws: it says how far a figure may move with other turns, not with
another seed of the training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rl.models import resolve_model
from sft.config import ConfigError, SftConfig
from sft.config_loading import load_config
from sft.corpus import Corpus, read_examples, rows_of_each, source_places, tokenise
from sft.emotions import EMOTIONS
from sft.examples import Loss, Source, Split
from sft.measuring.measures import (
    CLASSES,
    Guesses,
    commonest,
    hits_of,
    macro_f1,
    read_where_labelled,
)
from sft.measuring.probe import linear_probe
from sft.measuring.reading import Reader, Reading
from sft.predict import token_config
from sft.saved import CONFIG, is_merged, load_model, load_tokenizer, pad_id, tuned_folder
from sft.strategies import STRATEGIES
from sft.tokens import ChatTokens, TokenSequence

CONFIDENCE = 0.95
NAMES: Mapping[Loss, Sequence[str]] = {Loss.EMOTION: EMOTIONS, Loss.STRATEGY: STRATEGIES}


@dataclass(frozen=True, slots=True)
class Score:
    """Of a head, or of what it is compared with.

    Attributes:
        accuracy, low, high: shares, the last two the ends of the interval.
    """

    accuracy: float
    low: float
    high: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Of one label: on how many turns it stands, how often it was said, and how often it was said of one of them."""

    turns: int
    said: int
    right: int


@dataclass(frozen=True, slots=True)
class HeadResult:
    """Of one head.

    Attributes:
        turns: labelled ones.
        sources: where they are from.
        scores: of `head`, `commonest label` and, if fitted, `linear probe`.
        classes: by label, in the order of the head's outputs.
    """

    turns: int
    sources: tuple[str, ...]
    scores: Mapping[str, Score]
    classes: Mapping[str, ClassScore]


@dataclass(frozen=True, slots=True)
class Replies:
    """What a model makes of given replies.

    Attributes:
        tokens: of the replies, with the token that ends each.
        ruled: those of them to which the safety rules apply; 0 where no teacher was asked.
        lm_loss: nats a token; None without tokens.
        safety_kl: KL(teacher || model) in nats a token, mean over those; None without any.
    """

    tokens: int
    ruled: int
    lm_loss: float | None
    safety_kl: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Of one model.

    Attributes:
        sequences: how many were read of each source.
        replies_of_base: the same replies, as the base has them without its adapter; None for an exported model.
        probe_rows: training sequences that the probe read at most; 0 for no probe.
    """

    model: str
    base: str
    split: str
    sequences: Mapping[str, int]
    replies: Replies
    replies_of_base: Replies | None
    heads: Mapping[str, HeadResult]
    probe_rows: int

    def as_dict(self) -> dict[str, Any]:
        return {"confidence": CONFIDENCE, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Plan:
    """What was read and checked before the weights are loaded."""

    folder: Path
    config: SftConfig
    split: Split
    chat: ChatTokens
    train: Corpus
    rows: list[TokenSequence]
    probe_rows: int

    @property
    def heads(self) -> list[Loss]:
        return [loss for loss in CLASSES if self.config.losses.of(loss)]

    def describe(self) -> str:
        counted = ", ".join(f"{source} {count}" for source, count in _counts(self.rows).items())
        return f"{self.folder} on {len(self.rows)} {self.split.value} sequences: {counted}"


def plan_evaluation(
    source: Path,
    overrides: Sequence[str],
    split: Split | None = None,
    of_each: int | None = None,
    probe_rows: int = 0,
) -> Plan:
    """Read what a model will be measured on.

    Args:
        source: a run, one of its checkpoints, or an exported folder.
        overrides: `data.*` keys that differ from those of the training.
        split: None for `test`, or `valid` where there are none of the three sets: examples of one's own have no test
            split.
        of_each: at most so many sequences of each source, evenly spread; None for all.
        probe_rows: training sequences that the linear probe reads at most; 0 for no probe.

    Raises:
        ConfigError: no fine-tuned model there, an override of anything but data, or a probe beside an exported model,
            which no longer has its base.
        DataError: the data cannot be read.
        SavedModelError, BaseModelError: the model's configuration or its base cannot be had.
    """
    folder = tuned_folder(source.expanduser())
    if folder is None:
        raise ConfigError(f"{source} holds no fine-tuned model: give the folder of a run, such as runs/sft-quickstart")
    if probe_rows and is_merged(folder):
        raise ConfigError(f"{folder} is merged, so there is no base to probe: give the run it was exported from")
    other = [pair for pair in overrides if not pair.startswith("data.")]
    if other:
        raise ConfigError(f"{other[0]!r}: the model is what it was trained to be; only data.* can be set")
    config = load_config(str(folder / CONFIG), overrides)
    base = folder if is_merged(folder) else resolve_model(config.model.path)
    chat = ChatTokens(load_tokenizer(base), token_config(config.data))
    measured = split or (Split.TEST if source_places(config.data) else Split.VALID)
    corpus = tokenise(read_examples(config, measured), chat)
    every = [row for several in corpus.sequences.values() for row in several]
    rows = read_where_labelled(every if of_each is None else rows_of_each(corpus, of_each))
    train = tokenise(read_examples(config, Split.TRAIN), chat)
    return Plan(folder, config, measured, chat, train, rows, probe_rows)


def evaluate(plan: Plan, on_progress: Callable[[str, int, int], None] | None = None) -> Evaluation:
    """Measure a model.

    Args:
        on_progress: told what is being read, how many sequences of it, and of how many.

    Raises:
        Others: what `sft.saved.load_model` raises.
    """
    merged = is_merged(plan.folder)
    loaded = load_model(plan.folder)
    tell = on_progress or (lambda what, done, of: None)
    pad = pad_id(loaded.tokenizer)
    reader = Reader.with_teacher(loaded.model, plan.chat, pad, plan.config)
    if merged:
        reader = replace(reader, teacher=None)
    found = reader.read(plan.rows, partial(tell, "the model"))
    base = None if merged else reader.read(plan.rows, partial(tell, "its base"), as_base=True)
    named = {"head": found.heads, "commonest label": commonest(plan.train, plan.rows, plan.heads)}
    if plan.probe_rows:
        named["linear probe"] = linear_probe(
            loaded.model, plan.train, plan.rows, plan.heads, reader.batch_size, pad, plan.probe_rows, tell
        )
    heads = {
        loss.value: _head(loss, {name: of[loss] for name, of in named.items() if loss in of}, plan)
        for loss in found.heads
    }
    return Evaluation(
        model=str(plan.folder),
        base=plan.config.model.path,
        split=plan.split.value,
        sequences=_counts(plan.rows),
        replies=_replies(found),
        replies_of_base=None if base is None else _replies(base),
        heads=heads,
        probe_rows=plan.probe_rows,
    )


def _replies(reading: Reading) -> Replies:
    return Replies(reading.tokens, reading.ruled, reading.measures.lm_loss, reading.measures.safety_kl)


def _head(loss: Loss, guesses: Mapping[str, Guesses], plan: Plan) -> HeadResult:
    head = guesses["head"]
    said, hits = np.asarray(head.said), hits_of(head)
    classes = {
        label: ClassScore(int(head.labels[:, c].sum()), int((said == c).sum()), int((hits & (said == c)).sum()))
        for c, label in enumerate(NAMES[loss])
    }
    sources = tuple(sorted({row.source.value for row in plan.rows if loss in row.losses}))
    return HeadResult(len(said), sources, {name: score(one) for name, one in guesses.items()}, classes)


def score(guesses: Guesses) -> Score:
    """Accuracy with Wilson's interval, and macro F1."""
    from scipy.stats import binomtest

    hits = hits_of(guesses)
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(CONFIDENCE, method="wilson")
    f1 = macro_f1(guesses.said, guesses.labels)
    return Score(float(hits.mean()), float(interval.low), float(interval.high), f1)


def _counts(rows: Sequence[TokenSequence]) -> dict[str, int]:
    counted = Counter(row.source for row in rows)
    return {source.value: counted[source] for source in Source if counted[source]}


def as_text(found: Evaluation) -> str:
    """The lines that the command prints."""
    mine, base = found.replies, found.replies_of_base
    lines = []
    if mine.lm_loss is not None:
        beside = f"; its base {base.lm_loss:.4f}" if base else ""
        lines.append(f"LM loss {mine.lm_loss:.4f} nats a token{beside} ({mine.tokens:,} reply tokens)")
    if mine.safety_kl is not None:
        beside = f"; its base without them {base.safety_kl:.4f}" if base else ""
        lines.append(f"safety KL to the base under the rules {mine.safety_kl:.4f}{beside} ({mine.ruled:,} tokens)")
    for name, head in found.heads.items():
        lines.append(f"{name}: {head.turns:,} turns of {', '.join(head.sources)}")
        for of, one in head.scores.items():
            interval = f"[{one.low:.3f}, {one.high:.3f}]"
            lines.append(f"  {of:<16} accuracy {one.accuracy:.3f} {interval}   macro F1 {one.macro_f1:.3f}")
    return "\n".join(lines)
