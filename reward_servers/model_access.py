"""A model's deployment as a gateway sees it: pieces of bounded work, sent by turns of the callers, joined in order.

    items of a call -> cut by tokens -> wait for a turn -> handle -> replica -> answers in the order of the items

What is sent and not yet answered is bounded: about three batches for each replica, so that none runs dry while the
next is gathered. The rest waits here, where it can be shared fairly, and not in a replica, where who came first goes
first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.serve.handle import DeploymentHandle

from reward_servers.batching import cut_by_tokens, estimated_tokens
from reward_servers.failures import ItemFailure, RewardServerError
from reward_servers.fair_queue import FairQueue, LineFullError
from reward_servers.handles import ask, late
from reward_servers.model_server import Predictions
from reward_servers.protocol import FailureKind
from reward_servers.service_config import DeploymentConfig
from reward_servers.service_metrics import GatewayMetrics

_BATCHES_SENT = 3  # per replica: one computed, one gathered, and what tells replicas apart when they are uneven
_PIECES_OF_A_BATCH = 4  # so that turns change within a batch, too


@dataclass(frozen=True, slots=True)
class Told:
    """What a model server said of one item: a prediction or an `ItemFailure`, and the version of the weights."""

    version: str
    prediction: Any


class ModelAccess:
    """One per model and gateway. Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        handle: DeploymentHandle,
        config: DeploymentConfig,
        texts: Callable[[Any], Sequence[str]],
        metrics: GatewayMetrics,
    ) -> None:
        """`texts` gives the texts of an item, of which its tokens are estimated."""
        self.name = name
        self._handle = handle
        self._texts = texts
        self._metrics = metrics
        capacity = _BATCHES_SENT * config.max_batch_tokens * config.most_replicas
        self._least_cost = capacity / (config.max_ongoing_calls * config.most_replicas)  # bounds the calls as well
        self._piece_tokens = max(1, config.max_batch_tokens // _PIECES_OF_A_BATCH)
        self._queue = FairQueue(capacity, config.max_queued_calls)
        metrics.watch_line(name, lambda: self._queue.waiting)

    async def version(self, timeout_s: float) -> str:
        """Of the weights; raises `RewardServerError` when no replica answers."""
        return await ask(self._handle.version, server=self.name, timeout_s=timeout_s)

    async def predict(self, items: Sequence[Any], timeout_s: float, caller: str) -> list[Told]:
        """One answer for each item, in order; never raises for a failure of the model server."""
        try:
            self._queue.check(caller)
        except LineFullError as error:
            message = f"its queue is full: {error}. Send less at a time, or add replicas"
            return self._failed(items, RewardServerError(FailureKind.OVERLOADED, message, self.name))
        tokens = [estimated_tokens(*self._texts(item)) for item in items]
        pieces = [(items[part], sum(tokens[part])) for part in cut_by_tokens(tokens, self._piece_tokens)]
        if len(pieces) == 1:  # without a task of its own, so that what lines up now is seen by the next `check`
            return await self._predict_piece(*pieces[0], timeout_s, caller)
        parts = await asyncio.gather(*(self._predict_piece(*piece, timeout_s, caller) for piece in pieces))
        return [told for part in parts for told in part]

    async def _predict_piece(self, items: Sequence[Any], tokens: int, timeout_s: float, caller: str) -> list[Told]:
        try:
            predictions = await self._ask_in_turn(items, tokens, timeout_s, caller)
        except RewardServerError as error:
            return self._failed(items, error)
        self._metrics.count_model(self.name, predictions.items, predictions.kept, predictions.joined)
        return [Told(predictions.version, prediction) for prediction in predictions.items]

    async def _ask_in_turn(self, items: Sequence[Any], tokens: int, timeout_s: float, caller: str) -> Predictions:
        try:
            async with asyncio.timeout(timeout_s), self._queue.take(caller, max(tokens, self._least_cost)):
                return await ask(self._handle.predict, list(items), server=self.name, timeout_s=timeout_s)
        except TimeoutError as error:
            raise RewardServerError(FailureKind.TIMEOUT, late(timeout_s), self.name) from error

    def _failed(self, items: Sequence[Any], error: RewardServerError) -> list[Told]:
        failures = [ItemFailure(error.kind, error.message, error.server) for _ in items]
        self._metrics.count_model(self.name, failures, kept=0, joined=0)
        return [Told("", failure) for failure in failures]
