"""How every protocol asks a model: questions in, for each of them a `Reply` or a `ReplyFailure`, in order.

    questions -> cache -> what it does not hold -> model.reply, one question a call -> cache, then the result
                                                     |  the model bounds how many run at once, how long and how often

Invariants
    Exactly one result for each question. A failed call is a counted failure, never a reply and never a number.
    A reply is in the cache before it is reported, so a run that was killed asks only for what is missing.
    Failures are not cached: the next run asks again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from dialogue.conversation import Message
from dialogue.thinking import strip_thinking
from evaluation.reply_cache import ReplyCache
from reward_servers.protocol import FailureKind

OnReply = Callable[[int, int], None]  # how many are done, of how many


class ReplyError(RuntimeError):
    """A model answered none of the questions. The message says why the first one failed."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked; `id` names it in messages and does not influence the reply."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn: `max_tokens` bounds it, temperature 0 is greedy, `seed` makes a draw repeatable."""

    max_tokens: int = 1000
    temperature: float = 0.0
    seed: int = 0

    def at_most(self, max_tokens: int | None) -> Sampling:
        """The same with another longest reply, or as it is for None."""
        return self if max_tokens is None else replace(self, max_tokens=max_tokens)

    def for_question(self, name: str) -> Sampling:
        """The same with a seed of the question's own, so that the draws of two questions have nothing in common."""
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4]) >> 1)


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply as it came; `visible` is what a reader sees, the thinking block taken off."""

    question_id: str
    text: str

    @property
    def visible(self) -> str:
        return strip_thinking(self.text)


@dataclass(frozen=True, slots=True)
class ReplyFailure:
    """A question without a reply, after all retries. Never to be turned into a number.

    Attributes:
        kind: classified once, where it was first seen.
        message: for a person: what happened and what to do.
        attempts: how many calls were made in all.
    """

    question_id: str
    kind: FailureKind
    message: str
    attempts: int


ReplyResult = Reply | ReplyFailure


class ReplyModel(Protocol):
    """Whatever replies. `identity` names the weights and where they are: it is part of the cache's key."""

    @property
    def identity(self) -> str: ...

    async def reply(self, question: Question, sampling: Sampling) -> ReplyResult:
        """One result; raises for faults of the caller only. May be called many times at once."""
        ...


async def ask_all(
    model: ReplyModel,
    questions: Sequence[Question],
    sampling: Sampling | Sequence[Sampling],
    cache: ReplyCache | None = None,
    on_reply: OnReply | None = None,
) -> list[ReplyResult]:
    """One result for each question, in order. `sampling` holds for all of them, or is a list with one for each."""
    samplings = [sampling] * len(questions) if isinstance(sampling, Sampling) else sampling
    done = 0

    async def one(question: Question, sampling: Sampling) -> ReplyResult:
        nonlocal done
        result = await _cached(model, question, sampling, cache)
        done += 1
        if on_reply is not None:
            on_reply(done, len(questions))
        return result

    pairs = zip(questions, samplings, strict=True)
    tasks = [asyncio.ensure_future(one(question, drawn)) for question, drawn in pairs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _cached(model: ReplyModel, question: Question, sampling: Sampling, cache: ReplyCache | None) -> ReplyResult:
    if cache is None:
        return await model.reply(question, sampling)
    settings = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "seed": sampling.seed}
    key = {"model": model.identity, "messages": list(question.messages), **settings}
    text = cache.get(key)
    if text is not None:
        return Reply(question.id, text)
    result = await model.reply(question, sampling)
    if isinstance(result, Reply):
        cache.put(key, result.text)
    return result


def require_some(results: Sequence[ReplyResult], identity: str) -> None:
    """Stop where a model answered nothing at all: there is nothing to score.

    Raises:
        ReplyError: every result is a failure.
    """
    failures = [result for result in results if isinstance(result, ReplyFailure)]
    if failures and len(failures) == len(results):
        first = failures[0]
        raise ReplyError(
            f"{identity}: no reply to any of {len(results)} questions; the first, {first.question_id!r}, failed after "
            f"{first.attempts} call(s): {first.message} ({first.kind.value})"
        )
