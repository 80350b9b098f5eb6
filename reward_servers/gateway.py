"""The deployment that stands before the model servers: it validates, splits, asks both at once and joins by place."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from dialogue.sentences import split_sentences
from reward_servers.failures import ItemFailure, RewardServerError
from reward_servers.handles import ask
from reward_servers.http_routes import Calls, answer
from reward_servers.model_server import Predictions, ReplyTactics
from reward_servers.protocol import (
    EmpathyResult,
    EmpathyScore,
    FailureKind,
    Score,
    ScoreFailure,
    ScoreRequest,
    ScoreResult,
    TaggedReply,
    TagResult,
)
from reward_servers.service_config import GATEWAY, QUALITY, SCORER, TAGGER, ServiceConfig
from reward_servers.service_metrics import GatewayMetrics
from reward_servers.wire import complaint_about, complaint_about_response


class Gateway:
    """Validates, splits sentences, asks all model servers at once and joins their answers. Holds counters only."""

    def __init__(
        self,
        config: ServiceConfig,
        tagger: DeploymentHandle,
        scorer: DeploymentHandle,
        quality: DeploymentHandle | None = None,
    ) -> None:
        self.config = config
        self._tagger = tagger
        self._scorer = scorer
        self._quality = quality
        self._metrics = GatewayMetrics(serve.get_replica_context().replica_id.unique_id)

    async def score(self, requests: Sequence[ScoreRequest], timeout_s: float) -> list[ScoreResult]:
        """One answer for each request, in order; `timeout_s` bounds the wait for the model servers."""
        return await self._counted("score", self._score(requests, timeout_s))

    async def tag(self, responses: Sequence[tuple[str, str]], timeout_s: float) -> list[TagResult]:
        """Tactics of `(id, response)` pairs, in order."""
        return await self._counted("tactics", self._tag(responses, timeout_s))

    async def empathy(self, requests: Sequence[ScoreRequest], timeout_s: float) -> list[EmpathyResult]:
        """The six dimensions alone, in order; no tagger is asked."""
        return await self._counted("empathy", self._empathy(requests, timeout_s))

    async def _counted(self, work: str, answers: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        with self._metrics.call():
            results = await answers
        self._metrics.count_replies(work, results)
        return results

    async def _score(self, requests: Sequence[ScoreRequest], timeout_s: float) -> list[ScoreResult]:
        results: list[ScoreResult | None] = [self._refusal(request) for request in requests]
        places = [i for i, result in enumerate(results) if result is None]
        valid = [requests[i] for i in places]
        sentences = [tuple(split_sentences(request.response)) for request in valid]
        (tag_version, tags), (score_version, scores), (quality_version, qualities) = await asyncio.gather(
            self._tag_sentences(sentences, timeout_s),
            self._ask(self._scorer, SCORER, valid, timeout_s),
            self._ask_quality(valid, timeout_s),
        )
        versions = {TAGGER: tag_version, SCORER: score_version}
        versions |= {} if self._quality is None else {QUALITY: quality_version}
        for i, request, cut, tagged, scored, quality in zip(
            places, valid, sentences, tags, scores, qualities, strict=True
        ):
            results[i] = _join(request, cut, tagged, scored, quality, versions)
        return [result for result in results if result is not None]

    async def _tag(self, responses: Sequence[tuple[str, str]], timeout_s: float) -> list[TagResult]:
        limits = self.config.limits
        complaints = [complaint_about_response(text, limits) for _, text in responses]
        cut = [tuple(split_sentences(t)) if c is None else () for (_, t), c in zip(responses, complaints, strict=True)]
        _, tags = await self._tag_sentences(cut, timeout_s)
        return [
            _refused(name, complaint) if complaint is not None else _tagged(name, sentences, tagged)
            for (name, _), complaint, sentences, tagged in zip(responses, complaints, cut, tags, strict=True)
        ]

    async def _empathy(self, requests: Sequence[ScoreRequest], timeout_s: float) -> list[EmpathyResult]:
        refusals = [self._refusal(request) for request in requests]
        valid = [request for request, refusal in zip(requests, refusals, strict=True) if refusal is None]
        _, rated = await self._ask(self._scorer, SCORER, valid, timeout_s)
        answers = iter(zip(valid, rated, strict=True))
        return [_rated(*next(answers)) if refusal is None else refusal for refusal in refusals]

    async def health(self, timeout_s: float) -> dict[str, str]:
        """Deployment -> model version; raises `RewardServerError` when one does not answer."""
        limit = min(timeout_s, self.config.call_timeout_s)
        named = [(TAGGER, self._tagger), (SCORER, self._scorer)]
        named += [] if self._quality is None else [(QUALITY, self._quality)]
        versions = await asyncio.gather(*(ask(h.version, server=name, timeout_s=limit) for name, h in named))
        return {name: version for (name, _), version in zip(named, versions, strict=True)}

    async def fingerprint(self) -> str:
        """Of the configuration this application runs with."""
        return self.config.fingerprint

    async def __call__(self, request: Request) -> Response:
        """An HTTP request."""
        calls = Calls(self.score, self.tag, self.empathy, self.health)
        return await answer(request, self.config, calls, self._metrics)

    def _refusal(self, request: ScoreRequest) -> ScoreFailure | None:
        complaint = complaint_about(request, self.config.limits)
        return None if complaint is None else _refused(request.id, complaint)

    async def _tag_sentences(self, replies: Sequence[tuple[str, ...]], timeout_s: float) -> tuple[str, list[Any]]:
        """As `_ask`; a reply without sentences has no tactics, and no model is asked for them."""
        answers: list[Any] = [ReplyTactics((), ()) for _ in replies]
        places = [i for i, sentences in enumerate(replies) if sentences]
        version, tagged = await self._ask(self._tagger, TAGGER, [replies[i] for i in places], timeout_s)
        for i, tactics in zip(places, tagged, strict=True):
            answers[i] = tactics
        return version, answers

    async def _ask_quality(self, requests: list[ScoreRequest], timeout_s: float) -> tuple[str, list[Any]]:
        """As `_ask`; None for every request where no quality model is configured."""
        if self._quality is None:
            return "", [None] * len(requests)
        return await self._ask(self._quality, QUALITY, requests, timeout_s)

    async def _ask(
        self, model: DeploymentHandle, name: str, items: list[Any], timeout_s: float
    ) -> tuple[str, list[Any]]:
        """Version and one prediction or `ItemFailure` per item; never raises for a failure of the model server."""
        limit = min(timeout_s, self.config.call_timeout_s)
        try:
            predictions: Predictions = await ask(model.predict, items, server=name, timeout_s=limit)
        except RewardServerError as error:
            failures = [ItemFailure(error.kind, error.message, error.server) for _ in items]
            self._metrics.count_model(name, failures, kept=0, joined=0)
            return "", list(failures)
        self._metrics.count_model(name, predictions.items, predictions.kept, predictions.joined)
        return predictions.version, list(predictions.items)


def _refused(request_id: str, complaint: str) -> ScoreFailure:
    return ScoreFailure(request_id, FailureKind.INVALID_REQUEST, complaint, GATEWAY, attempts=1)


def _failed(request_id: str, failure: ItemFailure) -> ScoreFailure:
    return ScoreFailure(request_id, failure.kind, failure.message, failure.server, attempts=1)


def _tagged(request_id: str, sentences: tuple[str, ...], tagged: ReplyTactics | ItemFailure) -> TagResult:
    if isinstance(tagged, ItemFailure):
        return _failed(request_id, tagged)
    return TaggedReply(sentences, tagged.tactics, tagged.probabilities)


def _rated(request: ScoreRequest, rated: EmpathyScore | ItemFailure) -> EmpathyResult:
    return _failed(request.id, rated) if isinstance(rated, ItemFailure) else rated


def _join(
    request: ScoreRequest,
    sentences: tuple[str, ...],
    tagged: ReplyTactics | ItemFailure,
    scored: EmpathyScore | ItemFailure,
    quality: float | ItemFailure | None,
    versions: dict[str, str],
) -> ScoreResult:
    """A score needs every side. When several failed, one that will not go away by a retry is told."""
    failures = [answer for answer in (tagged, scored, quality) if isinstance(answer, ItemFailure)]
    if failures:
        return _failed(request.id, min(failures, key=lambda failure: failure.kind.retryable))
    assert isinstance(tagged, ReplyTactics) and isinstance(scored, EmpathyScore)
    assert not isinstance(quality, ItemFailure)
    worth = scored.aggregated if quality is None else quality
    return Score(request.id, sentences, tagged.tactics, tagged.probabilities, scored, worth, dict(versions))
