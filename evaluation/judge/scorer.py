"""A calibrated judge as the reward servers' empathy scorer.

    scorer:
      loader: evaluation.judge.scorer:JudgeScorer
      folder: runs/judge            # holds calibration.json, as `rapport judge calibrate --out` wrote it

The judge is asked exactly as it was calibrated: same endpoint, model, sampling and question. A calibration that missed
a floor is refused, unless it was made with --allow-below-floor. The token, if the endpoint asks for one, comes from
RAPPORT_MODEL_TOKEN. Answers are kept in `reply-cache` beside the calibration, so equal requests get equal scores
although a judge may vary. The limit of calls is each replica's own: with more than one, calibrate with the limit's
share.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.chat_endpoint import open_endpoint
from evaluation.files import EvaluationDataError, shown
from evaluation.json_files import read_json_value
from evaluation.judge.calibration import JudgeBelowFloorError
from evaluation.judge.judging import judge_conversations
from evaluation.judge.pace import Pace
from evaluation.judge.rubric import judge_messages
from evaluation.model_choice import CACHE_FOLDER, TOKEN_VARIABLE
from evaluation.replies import ReplyError, Sampling
from evaluation.reply_cache import ReplyCache
from reward_servers.client import RetryPolicy, RewardServerError
from reward_servers.protocol import EmpathyScore, FailureKind, ScoreRequest

CALIBRATION_FILE = "calibration.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How a judge is asked; written with its calibration, without the token."""

    url: str
    name: str
    temperature: float
    max_tokens: int
    calls_per_minute: float
    concurrency: int

    def policy(self) -> RetryPolicy:
        return RetryPolicy(timeout_s=300.0, concurrency=self.concurrency)


def read_settings(path: Path) -> JudgeSettings:
    """The settings of a calibrated judge.

    Raises:
        EvaluationDataError: the file is missing or is no calibration.
        JudgeBelowFloorError: the judge missed a floor, and nobody let it score all the same.
    """
    report = read_json_value(path)
    judge = report.get("judge") if isinstance(report, dict) else None
    if not isinstance(judge, dict):
        raise EvaluationDataError(f"{path}: no calibration of a judge; `rapport judge calibrate --out` writes one")
    if report.get("passed") is not True:
        problems = "; ".join(map(str, report.get("problems") or ["it does not say that the judge passed"]))
        if report.get("allowed_below_floor") is not True:
            raise JudgeBelowFloorError(f"{path}: this judge must not train a policy: {problems}")
        logger.warning("%s: a judge below its floor scores, as --allow-below-floor says: %s", path, problems)
    kinds = {"url": str, "name": str, "temperature": float, "max_tokens": int, "calls_per_minute": float}
    kinds["concurrency"] = int
    for key, kind in kinds.items():
        if type(judge.get(key)) is not kind:
            raise EvaluationDataError(f"{path}: judge.{key} is {shown(judge.get(key))}; expected {kind.__name__}")
    return JudgeSettings(**{key: judge[key] for key in kinds})


class JudgeScorer:
    """Scores replies by asking the judge about the conversation up to and with the reply."""

    concurrent = True  # it holds nothing but a limit of calls: the replica's health is not the judge's speed

    def __init__(self, settings: JudgeSettings, cache: Path, token: str) -> None:
        self._settings = settings
        self._cache = ReplyCache(cache)
        self._token = token
        self._pace = Pace(settings.calls_per_minute)
        asked = json.dumps([asdict(settings), list(judge_messages(""))], sort_keys=True)
        self.version = f"{settings.name}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"

    @classmethod
    def load(cls, folder: Path | None = None) -> JudgeScorer:
        """The judge calibrated in `folder`; errors as `read_settings`."""
        if folder is None:
            raise EvaluationDataError(f"the judge needs `folder`, the one that holds its {CALIBRATION_FILE}")
        settings = read_settings(folder / CALIBRATION_FILE)
        return cls(settings, folder / CACHE_FOLDER, os.environ.get(TOKEN_VARIABLE, ""))

    def score(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        """The judge's six ratings of each reply. Not inside an event loop.

        Raises:
            RewardServerError: a reply has no ratings. Those of the others are in the cache.
        """
        texts = {str(i): _text(request) for i, request in enumerate(requests)}
        ratings = asyncio.run(self._ask(texts))
        return [EmpathyScore(tuple(map(float, ratings[name]))) for name in texts]

    async def _ask(self, texts: Mapping[str, str]) -> Mapping[str, Sequence[int]]:
        settings = self._settings
        sampling = Sampling(settings.max_tokens, settings.temperature)
        try:
            async with open_endpoint(settings.url, settings.name, self._token, settings.policy(), self._pace) as model:
                judged = await judge_conversations(model, texts, sampling, cache=self._cache)
        except ReplyError as error:
            raise RewardServerError(FailureKind.UNAVAILABLE, str(error), settings.url) from error
        if judged.missing:
            name, why = next(iter(judged.missing.items()))
            kind = FailureKind.UNAVAILABLE if name in judged.failed else FailureKind.INTERNAL
            raise RewardServerError(kind, f"the judge gave no ratings: {why}", settings.url)
        return judged.ratings


def _text(request: ScoreRequest) -> str:
    speakers: dict[Any, str] = {"user": "Seeker", "assistant": "Supporter"}
    lines = [f"{speakers[message['role']]}: {message['content']}" for message in request.history]
    return "\n".join([*lines, f"Supporter: {request.response}"])
