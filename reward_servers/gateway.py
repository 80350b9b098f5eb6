"""The deployment that stands before the model servers: it validates, splits, asks both at once and joins by place."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from dialogue.sentences import split_sentences
from reward_servers.callers import CALLER_HEADER, CallsOfEach, shortened
from reward_servers.failures import ItemFailure, RewardServerError
from reward_servers.http_routes import Calls, answer
from reward_servers.model_access import ModelAccess, Told
from reward_servers.model_server import CutReply, ReplyTactics, texts_of_request
from reward_servers.protocol import (
    EmpathyResult,
    EmpathyScore,
    FailureKind,
    QualityResult,
    QualityScore,
    Score,
    ScoreFailure,
    ScoreRequest,
    ScoreResult,
    TaggedReply,
    TagResult,
)
from reward_servers.service_config import GATEWAY, QUALITY, SCORER, TAGGER, HttpConfig, ServiceConfig
from reward_servers.service_metrics import GatewayMetrics
from reward_servers.wire import complaint_about, complaint_about_response


class Gateway:
    """Validates, splits sentences, asks all model servers at once and joins their answers.

    It holds counters and the line of those that wait for a model server. `caller` names who asks, see `callers`.
    """

    def __init__(
        self,
        config: ServiceConfig,
        tagger: DeploymentHandle,
        scorer: DeploymentHandle,
        quality: DeploymentHandle | None = None,
    ) -> None:
        self.config = config
        self._metrics = GatewayMetrics(serve.get_replica_context().replica_id.unique_id)
        self._calls = CallsOfEach(config.max_calls_per_caller)
        self._tagger = ModelAccess(TAGGER, tagger, config.tagger, lambda reply: reply.sentences, self._metrics)
        self._scorer = ModelAccess(SCORER, scorer, config.scorer, texts_of_request, self._metrics)
        self._quality: ModelAccess | None = None  # then Q is the aggregated empathy
        if quality is not None and config.quality is not None:
            self._quality = ModelAccess(QUALITY, quality, config.quality, texts_of_request, self._metrics)

    async def score(self, requests: Sequence[ScoreRequest], timeout_s: float, caller: str = "") -> list[ScoreResult]:
        """One answer for each request, in order; `timeout_s` bounds the wait for the model servers.

        Raises:
            RewardServerError: the caller has as many calls open as it may; so do the methods below.
        """
        return await self._counted("score", caller, self._score(requests, timeout_s, caller))

    async def tag(self, responses: Sequence[tuple[str, str]], timeout_s: float, caller: str = "") -> list[TagResult]:
        """Tactics of `(id, response)` pairs, in order."""
        return await self._counted("tactics", caller, self._tag(responses, timeout_s, caller))

    async def empathy(
        self, requests: Sequence[ScoreRequest], timeout_s: float, caller: str = ""
    ) -> list[EmpathyResult]:
        """The six dimensions alone, in order; no tagger is asked."""
        return await self._counted("empathy", caller, self._empathy(requests, timeout_s, caller))

    async def quality(
        self, requests: Sequence[ScoreRequest], timeout_s: float, caller: str = ""
    ) -> list[QualityResult]:
        """Q of each reply, in order; only the model that says it is asked."""
        return await self._counted("quality", caller, self._quality_alone(requests, timeout_s, caller))

    async def _counted(self, work: str, caller: str, answers: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        try:
            with self._metrics.call(), self._calls.call_of(caller):
                results = await answers
        finally:
            answers.close()  # a refused call leaves it unstarted
        self._metrics.count_replies(work, results)
        return results

    async def _score(self, requests: Sequence[ScoreRequest], timeout_s: float, caller: str) -> list[ScoreResult]:
        results: list[ScoreResult | None] = [self._refusal(request) for request in requests]
        places = [i for i, result in enumerate(results) if result is None]
        valid = [requests[i] for i in places]
        sentences = [tuple(split_sentences(request.response)) for request in valid]
        replies = [CutReply(request.response, cut) for request, cut in zip(valid, sentences, strict=True)]
        tags, scores, qualities = await asyncio.gather(
            self._tag_sentences(replies, timeout_s, caller),
            self._ask(self._scorer, valid, timeout_s, caller),
            self._ask_quality(valid, timeout_s, caller),
        )
        answers = zip(places, valid, sentences, tags, scores, qualities, strict=True)
        for i, request, cut, tagged, scored, quality in answers:
            results[i] = _join(request, cut, tagged, scored, quality)
        return [result for result in results if result is not None]

    async def _tag(self, responses: Sequence[tuple[str, str]], timeout_s: float, caller: str) -> list[TagResult]:
        limits = self.config.limits
        complaints = [complaint_about_response(text, limits) for _, text in responses]
        cut = [tuple(split_sentences(t)) if c is None else () for (_, t), c in zip(responses, complaints, strict=True)]
        asked = [CutReply(text, sentences) for (_, text), sentences in zip(responses, cut, strict=True)]
        tags = await self._tag_sentences(asked, timeout_s, caller)
        return [
            _refused(name, complaint) if complaint is not None else _tagged(name, sentences, tagged.prediction)
            for (name, _), complaint, sentences, tagged in zip(responses, complaints, cut, tags, strict=True)
        ]

    async def _empathy(self, requests: Sequence[ScoreRequest], timeout_s: float, caller: str) -> list[EmpathyResult]:
        rated = await self._rate(self._scorer, requests, timeout_s, caller)
        return [answer if isinstance(answer, ScoreFailure) else answer.prediction for answer in rated]

    async def _quality_alone(
        self, requests: Sequence[ScoreRequest], timeout_s: float, caller: str
    ) -> list[QualityResult]:
        model = self._quality or self._scorer
        rated = await self._rate(model, requests, timeout_s, caller)
        return [
            answer
            if isinstance(answer, ScoreFailure)
            else QualityScore(request.id, _worth(answer), {model.name: answer.version})
            for request, answer in zip(requests, rated, strict=True)
        ]

    async def _rate(
        self, model: ModelAccess, requests: Sequence[ScoreRequest], timeout_s: float, caller: str
    ) -> list[Told | ScoreFailure]:
        """What one model says of whole requests, in order; those of the form `Told` hold no failure."""
        refusals = [self._refusal(request) for request in requests]
        valid = [request for request, refusal in zip(requests, refusals, strict=True) if refusal is None]
        told = await self._ask(model, valid, timeout_s, caller)
        answers = iter([_rated(request, answer) for request, answer in zip(valid, told, strict=True)])
        return [next(answers) if refusal is None else refusal for refusal in refusals]

    async def health(self, timeout_s: float) -> dict[str, str]:
        """Deployment -> model version; raises `RewardServerError` when one does not answer."""
        limit = min(timeout_s, self.config.call_timeout_s)
        models = [self._tagger, self._scorer, *([self._quality] if self._quality else [])]
        versions = await asyncio.gather(*(model.version(limit) for model in models))
        return {model.name: version for model, version in zip(models, versions, strict=True)}

    async def fingerprint(self) -> str:
        """Of the configuration this application runs with."""
        return self.config.fingerprint

    async def http(self) -> HttpConfig | None:
        """How this application is reached over HTTP."""
        return self.config.http

    async def __call__(self, request: Request) -> Response:
        """An HTTP request."""
        caller = _caller_of(request)
        calls = Calls(
            partial(self.score, caller=caller),
            partial(self.tag, caller=caller),
            partial(self.empathy, caller=caller),
            partial(self.quality, caller=caller),
            self.health,
        )
        return await answer(request, self.config, calls, self._metrics)

    def _refusal(self, request: ScoreRequest) -> ScoreFailure | None:
        complaint = complaint_about(request, self.config.limits)
        return None if complaint is None else _refused(request.id, complaint)

    async def _tag_sentences(self, replies: Sequence[CutReply], timeout_s: float, caller: str) -> list[Told]:
        """As `_ask`; a reply without sentences has no tactics, and its text is sent to no model."""
        some = [reply for reply in replies if reply.sentences]
        told = iter(await self._ask(self._tagger, some, timeout_s, caller))
        nothing = await self._no_tactics(timeout_s) if len(some) < len(replies) else None
        return [next(told) if reply.sentences or nothing is None else nothing for reply in replies]

    async def _no_tactics(self, timeout_s: float) -> Told:
        """Of a reply without sentences, with the version of the tagger that would have been asked."""
        try:
            version = await self._tagger.version(min(timeout_s, self.config.call_timeout_s))
        except RewardServerError as error:
            return Told("", ItemFailure(error.kind, error.message, error.server))
        return Told(version, ReplyTactics((), ()))

    async def _ask_quality(self, requests: list[ScoreRequest], timeout_s: float, caller: str) -> list[Told | None]:
        """As `_ask`; None for every request where no quality model is configured."""
        if self._quality is None:
            return [None] * len(requests)
        return list(await self._ask(self._quality, requests, timeout_s, caller))

    async def _ask(self, model: ModelAccess, items: list[Any], timeout_s: float, caller: str) -> list[Told]:
        return await model.predict(items, min(timeout_s, self.config.call_timeout_s), caller) if items else []


def _caller_of(request: Request) -> str:
    """The name that the caller gives itself, else the address it asks from."""
    address = request.client.host if request.client else "unknown"
    return shortened(request.headers.get(CALLER_HEADER, "") or address)


def _refused(request_id: str, complaint: str) -> ScoreFailure:
    return ScoreFailure(request_id, FailureKind.INVALID_REQUEST, complaint, GATEWAY, attempts=1)


def _failed(request_id: str, failure: ItemFailure) -> ScoreFailure:
    return ScoreFailure(request_id, failure.kind, failure.message, failure.server, attempts=1)


def _tagged(request_id: str, sentences: tuple[str, ...], tagged: ReplyTactics | ItemFailure) -> TagResult:
    if isinstance(tagged, ItemFailure):
        return _failed(request_id, tagged)
    return TaggedReply(sentences, tagged.tactics, tagged.probabilities)


def _rated(request: ScoreRequest, told: Told) -> Told | ScoreFailure:
    return _failed(request.id, told.prediction) if isinstance(told.prediction, ItemFailure) else told


def _worth(told: Told) -> float:
    """Q of the reward: what the quality model says, or the aggregate of what the scorer says."""
    return told.prediction.aggregated if isinstance(told.prediction, EmpathyScore) else told.prediction


def _join(
    request: ScoreRequest, sentences: tuple[str, ...], tagged: Told, scored: Told, quality: Told | None
) -> ScoreResult:
    """A score needs every side. When several failed, one that will not go away by a retry is told."""
    sides = {TAGGER: tagged, SCORER: scored, **({} if quality is None else {QUALITY: quality})}
    failures = [told.prediction for told in sides.values() if isinstance(told.prediction, ItemFailure)]
    if failures:
        return _failed(request.id, min(failures, key=lambda failure: failure.kind.retryable))
    tactics, empathy = tagged.prediction, scored.prediction
    assert isinstance(tactics, ReplyTactics) and isinstance(empathy, EmpathyScore)
    versions = {name: told.version for name, told in sides.items()}
    worth = _worth(quality or scored)
    return Score(request.id, sentences, tactics.tactics, tactics.probabilities, empathy, worth, versions)
