"""Ask a judge about conversations: six ratings for each, or why there are none. What was answered is in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dialogue.model_answer import UnreadableAnswerError
from evaluation.judge.rubric import IN_ORDER, Ratings, judge_messages, parse_answer
from evaluation.replies import OnReply, Question, ReplyFailure, ReplyModel, Sampling, ask_all, require_some
from evaluation.reply_cache import ReplyCache
from reward_servers.protocol import Dimension


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said in one pass.

    Attributes:
        ratings: conversation -> six ratings in the order of `Dimension`.
        missing: conversation -> why it has none: a failed call, or an answer that cannot be read.
        failed: those of `missing` whose call failed, which asking again may help.
    """

    ratings: Mapping[str, Ratings]
    missing: Mapping[str, str]
    failed: frozenset[str] = frozenset()


async def judge_conversations(
    model: ReplyModel,
    conversations: Mapping[str, str],
    sampling: Sampling,
    order: Sequence[Dimension] = IN_ORDER,
    cache: ReplyCache | None = None,
    on_reply: OnReply | None = None,
) -> Judgement:
    """One pass over conversation id -> text.

    Raises:
        ReplyError: the model answered none of them.
    """
    questions = [Question(name, judge_messages(text, order)) for name, text in conversations.items()]
    results = await ask_all(model, questions, sampling, cache, on_reply)
    require_some(results, model.identity)
    ratings: dict[str, Ratings] = {}
    missing: dict[str, str] = {}
    for result in results:
        if isinstance(result, ReplyFailure):
            missing[result.question_id] = f"{result.message} ({result.kind.value})"
            continue
        try:
            ratings[result.question_id] = parse_answer(result.text)
        except UnreadableAnswerError as error:
            missing[result.question_id] = str(error)
    failed = frozenset(result.question_id for result in results if isinstance(result, ReplyFailure))
    return Judgement(ratings, missing, failed)
