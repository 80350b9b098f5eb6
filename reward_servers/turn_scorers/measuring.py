"""What trained scorers are worth on the test split: seeds of each variant, intervals, and the published order tested.

    MAE                mean |prediction - label|
    Spearman           over all replies
      within originals over the listener's own replies, where the augmentation, half of the label, says nothing
    emotion accuracy   share of right feelings on the listener's own replies
    latency            milliseconds of one reply at a time through the scorer, median and 95th percentile

A figure is the mean over seeds. Its 95 % interval is the percentile bootstrap over conversations, the same
conversations for all seeds and variants, so that a difference of two variants is a paired one. The spread between seeds
stands beside it: the standard deviation, which the bootstrap does not see.

What a scorer said of the replies is kept in its folder: a measurement that was stopped goes on with the next scorer,
and the latency is that of the time when it was asked.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_servers.turn_scorers.augment import Kind
from reward_servers.turn_scorers.dialogues import Split
from reward_servers.turn_scorers.labels import LabelledReply, digest
from reward_servers.turn_scorers.recipe import REPORTED, Variant
from reward_servers.turn_scorers.saved import CARD, TurnScorerError, read_card, weights_version, write_whole
from reward_servers.turn_scorers.scorer import TurnScorer

Floats = NDArray[np.float64]
OnReply = Callable[[int, int], None]
_WARM_UP = 3  # replies that are not timed
PREDICTIONS = "predictions.npz"


class Metric(StrEnum):
    """What is measured of each variant."""

    MAE = "mae"
    SPEARMAN = "spearman"
    SPEARMAN_ORIGINAL = "spearman_within_originals"
    EMOTION = "emotion_accuracy"

    @property
    def lower_is_better(self) -> bool:
        return self is Metric.MAE


class Verdict(StrEnum):
    """What the data say of a published order of two variants."""

    HOLDS = "holds"
    REVERSED = "reversed"
    OPEN = "not settled"


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over seeds with its 95 % interval and the standard deviation between seeds; NaN where undefined."""

    value: float
    low: float
    high: float
    between_seeds: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one reply at a time."""

    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Order:
    """A published order of two variants, tested: `better` was reported to be better than `worse`.

    Attributes:
        gain: by how much it is here, positive where the published order holds, with its interval.
        verdict: open where the interval holds 0.
    """

    metric: Metric
    better: Variant
    worse: Variant
    gain: Figure
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """What `rapport scorer eval` shows."""

    figures: dict[Variant, dict[Metric, Figure]]
    latencies: dict[Variant, Latency]
    seeds: dict[Variant, tuple[int, ...]]
    orders: tuple[Order, ...]
    replies: int
    conversations: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False, slots=True)
class Predictions:
    """Of one trained scorer on N replies: empathy (N,), whether the feeling was right (N,), milliseconds (N,)."""

    empathy: Floats
    right: Floats
    milliseconds: Floats


_FIELDS = ("empathy", "right", "milliseconds")


def find_scorers(folder: Path) -> dict[Variant, list[Path]]:
    """The finished scorers at or below `folder`, by variant and seed.

    Raises:
        TurnScorerError: there is none, or a seed of a variant is there twice.
    """
    found: dict[Variant, dict[int, Path]] = {}
    for card in sorted([*folder.glob(CARD), *folder.glob(f"*/{CARD}"), *folder.glob(f"*/*/{CARD}")]):
        recipe = read_card(card.parent).recipe
        own = found.setdefault(recipe.variant, {})
        if recipe.seed in own:
            raise TurnScorerError(f"{card.parent} and {own[recipe.seed]}: two of {recipe.variant}, seed {recipe.seed}")
        own[recipe.seed] = card.parent
    if not found:
        raise TurnScorerError(f"no finished scorer at or below {folder}; `rapport scorer train` makes them")
    return {v: [found[v][seed] for seed in sorted(found[v])] for v in Variant if v in found}


def held_out_replies(
    replies: Sequence[LabelledReply], folders: Mapping[Variant, Sequence[Path]], limit: int | None = None
) -> list[LabelledReply]:
    """The test split of the labels that all scorers were trained with.

    Args:
        limit: at most so many conversations, drawn by a hash of their ids: files are often sorted by feeling.

    Raises:
        TurnScorerError: a scorer was trained with other labels, whose test split may be another; or there is no reply.
    """
    name = digest(replies)
    for folder in (folder for own in folders.values() for folder in own):
        if read_card(folder).labels != name:
            raise TurnScorerError(f"{folder} was trained with other labels than these; give the file it was trained on")
    rows = [reply for reply in replies if reply.split is Split.TEST]
    names = sorted({reply.conversation for reply in rows}, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) < 2:
        raise TurnScorerError("the labels hold fewer than two conversations of the test split")
    kept = set(names[:limit])
    return [reply for reply in rows if reply.conversation in kept]


def predict(scorer: TurnScorer, replies: Sequence[LabelledReply], on_reply: OnReply | None = None) -> Predictions:
    """Every reply alone, as the service scores it."""
    scorer.read([reply.request for reply in replies[:_WARM_UP]])
    empathy, right, milliseconds = [], [], []
    for count, reply in enumerate(replies, start=1):
        began = time.perf_counter()
        [reading] = scorer.read([reply.request])
        milliseconds.append(1000 * (time.perf_counter() - began))
        empathy.append(reading.empathy)
        right.append(float(reading.feeling is reply.feeling))
        if on_reply is not None:
            on_reply(count, len(replies))
    return Predictions(np.array(empathy), np.array(right), np.array(milliseconds))


def kept_predictions(folder: Path, replies: Sequence[LabelledReply], on_reply: OnReply | None = None) -> Predictions:
    """`predict` by the scorer of `folder`, or what it said of the same replies before."""
    name = f"{weights_version(folder)} {digest(replies)}"
    path = folder / PREDICTIONS
    known = _read_predictions(path, name)
    if known is not None:
        return known
    found = predict(TurnScorer.load(folder), replies, on_reply)
    if os.access(folder, os.W_OK):
        content = io.BytesIO()
        np.savez(content, name=np.array(name), **{field: getattr(found, field) for field in _FIELDS})
        write_whole(path, content.getvalue())
    return found


def _read_predictions(path: Path, name: str) -> Predictions | None:
    """None where there are none of this name: the scorer is asked again."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return Predictions(*(content[field] for field in _FIELDS)) if str(content["name"]) == name else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def report(
    replies: Sequence[LabelledReply],
    predictions: Mapping[Variant, Sequence[Predictions]],
    seeds: Mapping[Variant, tuple[int, ...]],
    resamples: int = 1000,
    on_sample: Callable[[int, int], None] | None = None,
) -> Report:
    """All figures of the variants, and the orders between them; `on_sample` is told the resamples of a variant."""
    table = _Table(replies, predictions)
    samples = {variant: table.resampled(variant, resamples, on_sample) for variant in predictions}  # (R, metrics)
    figures = {variant: dict(_figures(table, variant, samples[variant])) for variant in predictions}
    times = {variant: np.concatenate([p.milliseconds for p in own]) for variant, own in predictions.items()}
    latencies = {v: Latency(float(np.median(t)), float(np.quantile(t, 0.95))) for v, t in times.items()}
    return Report(
        figures,
        latencies,
        dict(seeds),
        tuple(_orders(figures, samples)),
        len(replies),
        len({reply.conversation for reply in replies}),
    )


class _Table:
    """Labels and predictions as arrays, and the metrics of any choice of rows."""

    def __init__(self, replies: Sequence[LabelledReply], predictions: Mapping[Variant, Sequence[Predictions]]) -> None:
        self._labels = np.array([reply.label for reply in replies])
        self._original = np.array([reply.kind is Kind.ORIGINAL for reply in replies])
        self._predictions = predictions
        names = list(dict.fromkeys(reply.conversation for reply in replies))
        places = {name: [] for name in names}  # type: dict[str, list[int]]
        for row, reply in enumerate(replies):
            places[reply.conversation].append(row)
        self._rows_of = [np.array(places[name]) for name in names]

    def by_seed(self, variant: Variant, rows: NDArray[np.int64] | None = None) -> Floats:
        """(seeds, metrics) on `rows`, all of them if None."""
        chosen = np.arange(len(self._labels)) if rows is None else rows
        return np.array([self._metrics(prediction, chosen) for prediction in self._predictions[variant]])

    def resampled(self, variant: Variant, resamples: int, on_sample: Callable[[int, int], None] | None) -> Floats:
        """(R, metrics) means over seeds, on conversations drawn with replacement; equal draws for every variant."""
        drawn = np.random.default_rng(0).integers(len(self._rows_of), size=(resamples, len(self._rows_of)))
        samples = []
        for done, conversations in enumerate(drawn, start=1):
            rows = np.concatenate([self._rows_of[c] for c in conversations])
            samples.append(self.by_seed(variant, rows).mean(0))
            if on_sample is not None:
                on_sample(done, resamples)
        return np.array(samples)

    def _metrics(self, prediction: Predictions, rows: NDArray[np.int64]) -> list[float]:
        own = rows[self._original[rows]]
        values = {
            Metric.MAE: float(np.abs(prediction.empathy[rows] - self._labels[rows]).mean()),
            Metric.SPEARMAN: _spearman(prediction.empathy[rows], self._labels[rows]),
            Metric.SPEARMAN_ORIGINAL: _spearman(prediction.empathy[own], self._labels[own]),
            Metric.EMOTION: float(prediction.right[own].mean()) if len(own) else float("nan"),
        }
        return [values[metric] for metric in Metric]


def _figures(table: _Table, variant: Variant, samples: Floats) -> Iterator[tuple[Metric, Figure]]:
    by_seed = table.by_seed(variant)
    spread = by_seed.std(0, ddof=1) if len(by_seed) > 1 else np.full(len(Metric), np.nan)
    for k, metric in enumerate(Metric):
        yield metric, Figure(float(by_seed[:, k].mean()), *_interval(samples[:, k]), float(spread[k]))


def _orders(figures: Mapping[Variant, Mapping[Metric, Figure]], samples: Mapping[Variant, Floats]) -> Iterator[Order]:
    """Every pair of variants that the publication put in an order, on every metric that it reported."""
    for metric in (Metric.MAE, Metric.SPEARMAN, Metric.EMOTION):
        sign = -1 if metric.lower_is_better else 1
        k = list(Metric).index(metric)
        for first, second in combinations(figures, 2):
            reported = sign * (REPORTED[first][metric] - REPORTED[second][metric])
            if not reported:
                continue
            better, worse = (first, second) if reported > 0 else (second, first)
            gains = sign * (samples[better][:, k] - samples[worse][:, k])
            low, high = _interval(gains)
            a, b = figures[better][metric], figures[worse][metric]
            spread = float(np.hypot(a.between_seeds, b.between_seeds))
            verdict = Verdict.HOLDS if low > 0 else Verdict.REVERSED if high < 0 else Verdict.OPEN
            yield Order(metric, better, worse, Figure(sign * (a.value - b.value), low, high, spread), verdict)


def _interval(samples: Floats) -> tuple[float, float]:
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def _spearman(x: Floats, y: Floats) -> float:
    """NaN for fewer than two, or where one is constant."""
    from scipy.stats import spearmanr

    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)
