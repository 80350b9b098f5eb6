"""One model behind one queue: the Ray Serve deployment that every tagger and scorer runs in.

    call (some items) -> what is not known yet, see `once` -> pieces of at most max_batch_tokens
                      -> batches of as many tokens, see `batching` -> model thread -> item by item answers

The model runs in a thread of its own, one batch at a time, so that the replica's event loop always answers health
checks and takes new calls. An item that makes the model raise is found by halving the batch and fails alone: the models
guarantee that an item's prediction does not depend on its batch, so predicting parts again changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from dialogue.tactics import TACTICS, Tactic
from reward_servers.batching import TokenBatches, estimated_tokens
from reward_servers.failures import ItemFailure, RewardServerError, UnfitItemError, root_cause
from reward_servers.loading import load_model
from reward_servers.once import WorkOnce, key_of
from reward_servers.protocol import Dimension, EmpathyScore, FailureKind, ScoreRequest
from reward_servers.service_config import DeploymentConfig
from reward_servers.tactics.kinds import tag_replies

logger = logging.getLogger("ray.serve")

_ENTRY_BYTES = 600  # of a kept prediction: its key, the places in the cache and six numbers
_ROW_BYTES = 600  # of a sentence: ten boxed doubles in a tuple, and the tuple of its tactics


@dataclass(frozen=True, slots=True)
class CutReply:
    """One reply to tag: as it was written, and its S sentences."""

    text: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplyTactics:
    """Tactics of one reply of S sentences: the decisions, S tuples, and the probabilities, S tuples of K = 10."""

    tactics: tuple[tuple[Tactic, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Answer of a model server to one call.

    Attributes:
        version: of the weights.
        items: one prediction or failure per item.
        kept: how many of them were known already.
        joined: how many equalled an item that was being computed.
    """

    version: str
    items: tuple[Any, ...]
    kept: int = 0
    joined: int = 0


class UnhealthyModelError(RuntimeError):
    """The model no longer gives the prediction it gave right after it was loaded."""


class ModelServer(ABC):
    """Base of the deployments that hold a model. A subclass says how items become predictions."""

    def __init__(self, name: str, config: DeploymentConfig) -> None:
        self._name = name
        self._model = load_model(config)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{name}-model")
        batches: TokenBatches[Any, Any] = TokenBatches(
            self._run_batch, self._tokens, config.max_batch_tokens, config.batch_wait_s
        )
        self._once: WorkOnce[Any, Any] = WorkOnce(
            batches,
            lambda item: key_of(str(self._model.version), *self._identity(item)),
            lambda answer: not isinstance(answer, ItemFailure),
            self._size,
            self._tokens,
            config.max_batch_tokens,
            config.cache_bytes,
        )
        self._first_probe = self._predict_checked([self._probe()])

    @abstractmethod
    def _probe(self) -> Any:
        """The fixed item of the health check."""

    @abstractmethod
    def _predict(self, items: Sequence[Any]) -> list[Any]:
        """One prediction per item."""

    @abstractmethod
    def _complaint(self, item: Any, prediction: Any) -> str | None:
        """What is wrong with a prediction (shape, NaN); None when nothing is."""

    @abstractmethod
    def _identity(self, item: Any) -> tuple[object, ...]:
        """All of an item that its prediction depends on, as strings and sequences of them."""

    @abstractmethod
    def _texts(self, item: Any) -> Sequence[str]:
        """The texts that the model reads of an item."""

    @abstractmethod
    def _size(self, prediction: Any) -> int:
        """Bytes that a prediction takes, roughly."""

    def _same(self, probe: list[Any], first: list[Any]) -> bool:
        """Whether the health check's prediction is still the first one."""
        return probe == first

    async def predict(self, items: Sequence[Any]) -> Predictions:
        """One prediction or `ItemFailure` per item, in order. Called by the gateway."""
        shared = await self._once(items)
        return Predictions(str(self._model.version), shared.answers, shared.kept, shared.joined)

    async def version(self) -> str:
        """Version of the loaded weights."""
        return str(self._model.version)

    async def check_health(self) -> None:
        """Run the model on a fixed item; Ray Serve replaces a replica that raises or hangs here three times in a row.

        It waits for the batch that is being computed, so that a model that hangs is found. A model that says it is
        `concurrent`, because it only waits for another server, is asked beside its work: slow is not dead there.

        Raises:
            UnhealthyModelError: the prediction is not the one made right after loading: bitwise, or within the
                tolerance of a model that states one.
        """
        thread = None if getattr(self._model, "concurrent", False) else self._thread
        probe = await asyncio.get_running_loop().run_in_executor(thread, self._predict_checked, [self._probe()])
        if not self._same(probe, self._first_probe):
            raise UnhealthyModelError(f"{self._name}: {probe} for the probe that first gave {self._first_probe}")

    async def _run_batch(self, items: list[Any]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._predict_isolated, items)

    def _tokens(self, item: Any) -> int:
        """As the model counts them, if it has `count_tokens`; else estimated."""
        count = getattr(self._model, "count_tokens", None)
        return estimated_tokens(*self._texts(item)) if count is None else int(count(item))

    def _predict_isolated(self, items: Sequence[Any]) -> list[Any]:
        """Predictions, with an `ItemFailure` for exactly the items that the model cannot do."""
        try:
            return self._predict_checked(items)
        except Exception as error:
            if len(items) == 1:
                logger.exception("%s failed on one item", self._name)
                if isinstance(error, UnfitItemError):
                    return [ItemFailure(FailureKind.INVALID_REQUEST, str(error), self._name)]
                if isinstance(error, RewardServerError):  # a model that asks another server knows better
                    return [ItemFailure(error.kind, f"{error.server}: {error.message}", self._name)]
                message = f"the model raised {root_cause(error)}; the replica's log has the traceback"
                return [ItemFailure(FailureKind.INTERNAL, message, self._name)]
        middle = len(items) // 2
        return self._predict_isolated(items[:middle]) + self._predict_isolated(items[middle:])

    def _predict_checked(self, items: Sequence[Any]) -> list[Any]:
        predictions = self._predict(items)
        for item, prediction in zip(items, predictions, strict=True):
            complaint = self._complaint(item, prediction)
            if complaint is not None:
                raise ValueError(complaint)
        return predictions


class TaggerServer(ModelServer):
    """Serves a tactic tagger of either kind. Items are `CutReply`s, predictions `ReplyTactics`."""

    def _probe(self) -> CutReply:
        sentences = ("That sounds exhausting.", "What would help you rest tonight?")
        return CutReply(" ".join(sentences), sentences)

    def _predict(self, items: Sequence[CutReply]) -> list[ReplyTactics]:
        tagged = tag_replies(self._model, [item.text for item in items], [item.sentences for item in items])
        return [
            ReplyTactics(
                tuple(tuple(tactics) for tactics in self._model.decide(probabilities)),
                tuple(tuple(float(p) for p in row) for row in probabilities),
            )
            for probabilities in tagged
        ]

    def _complaint(self, item: CutReply, prediction: ReplyTactics) -> str | None:
        if not len(item.sentences) == len(prediction.tactics) == len(prediction.probabilities):
            return f"{len(prediction.probabilities)} rows of tactics for {len(item.sentences)} sentences"
        if any(len(row) != len(TACTICS) for row in prediction.probabilities):
            return f"a row of tactic probabilities is not of length {len(TACTICS)}"
        if not all(0 <= p <= 1 for row in prediction.probabilities for p in row):
            return "a tactic probability is not in [0, 1]"
        return None

    def _identity(self, item: CutReply) -> tuple[object, ...]:
        return (item.text, item.sentences) if getattr(self._model, "reads_text", False) else item.sentences

    def _same(self, probe: list[ReplyTactics], first: list[ReplyTactics]) -> bool:
        tolerance = getattr(self._model, "tolerance", 0.0)
        now, before = (np.array([row for answer in side for row in answer.probabilities]) for side in (probe, first))
        return now.shape == before.shape and bool((np.abs(now - before) <= tolerance).all())

    def _texts(self, item: CutReply) -> Sequence[str]:
        return item.sentences

    def _size(self, prediction: ReplyTactics) -> int:
        return _ENTRY_BYTES + _ROW_BYTES * len(prediction.probabilities)


class RequestServer(ModelServer):
    """Base of the servers whose items are whole `ScoreRequest`s."""

    def _probe(self) -> ScoreRequest:
        history = ({"role": "user", "content": "I have not slept well since the funeral."},)
        return ScoreRequest("probe", history, "I am so sorry. Losing someone can turn the nights very long.")  # type: ignore[arg-type]

    def _identity(self, item: ScoreRequest) -> tuple[object, ...]:
        return tuple((m["role"], m["content"]) for m in item.history), item.response

    def _texts(self, item: ScoreRequest) -> Sequence[str]:
        return texts_of_request(item)

    def _size(self, prediction: Any) -> int:
        return _ENTRY_BYTES


class ScorerServer(RequestServer):
    """Serves an empathy scorer. Predictions are `EmpathyScore`s."""

    def _predict(self, items: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        return list(self._model.score(items))

    def _complaint(self, item: ScoreRequest, prediction: EmpathyScore) -> str | None:
        if len(prediction.dimensions) != len(Dimension):
            return f"{len(prediction.dimensions)} empathy dimensions instead of {len(Dimension)}"
        if not all(math.isfinite(x) for x in prediction.dimensions):
            return f"an empathy dimension is not finite: {prediction.dimensions}"
        return None


class QualityServer(RequestServer):
    """Serves what gives a reply one number: a turn scorer or a reward model. Predictions are floats."""

    def _predict(self, items: Sequence[ScoreRequest]) -> list[float]:
        return [float(value) for value in self._model.quality(items)]

    def _complaint(self, item: ScoreRequest, prediction: float) -> str | None:
        return None if math.isfinite(prediction) else f"the quality is not finite: {prediction}"


def texts_of_request(item: ScoreRequest) -> Sequence[str]:
    """What a scorer reads of a request."""
    return [*(message["content"] for message in item.history), item.response]
